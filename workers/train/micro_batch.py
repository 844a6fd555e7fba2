"""How many rows a rank encodes at a time, and how many micro-batches keep their graph from the first pass.

`training.micro_batch` states the rows, or leaves them to be found: `auto` begins with the whole share and halves it
whenever a step runs out of the device's memory. Such a step is done again with smaller micro-batches: the loss and
the gradient are the same, so it is no failure. All ranks agree on every change. That needs forward passes in which a
rank is alone: where they hold collectives (ZeRO 3, batch normalisation), a rank that ran out of memory would leave the
others waiting, and nothing is tried. On a device of its own, a rank keeps as many graphs as the memory that a step left
free holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from jobspecs.errors import UsageError
from workers.losses.gather import all_reduce_max

TRIES = 3
"""A setting counts as good after this many steps without running out of memory."""
_USABLE = 0.9
"""Share of a device's memory that kept graphs may fill: allocators need some room."""


class MicroBatch:
    """The current setting. All ranks call its methods together."""

    def __init__(
        self,
        wanted: int | Literal["auto"] | None,
        share: int,
        device: torch.device,
        *,
        divisible: bool = True,
        alone: bool = True,
    ) -> None:
        """share: rows of a rank. divisible: False for towers that normalise over the batch, which needs all of it.
        alone: False where a forward pass holds collectives of parameters.

        Raises UsageError where such towers shall encode less than that at a time.
        """
        self._share = share
        self._device = device
        self.rows = share if wanted in ("auto", None) else min(int(wanted), share)
        """Rows at a time."""
        self.kept = 1
        """Micro-batches that keep their graph; all of them where one side is one micro-batch."""
        if not divisible and not self.whole:
            raise UsageError(
                f"training.micro_batch: {wanted} of the {share} rows of a rank at a time, but a tower has batch "
                "normalisation, which takes its statistics over the whole global batch at once: in parts it would be "
                "another experiment. Leave micro_batch out, use more workers, or choose a tower with layer or group "
                "normalisation."
            )
        self._may_shrink = wanted == "auto" and divisible and alone
        # Without a device of its own, a rank can't tell what it may fill.
        self._kept_is_found = not (self._measures and divisible and alone)
        self._tries = TRIES if self._may_shrink or not (self.whole or self._kept_is_found) else 0
        self._graph_bytes = 0

    @property
    def whole(self) -> bool:
        """Whether a side is encoded at once."""
        return self.rows >= self._share

    @property
    def trying(self) -> bool:
        """Whether the ranks must agree on how a step went."""
        return self._tries > 0

    @property
    def _measures(self) -> bool:
        return self._device.type == "cuda"

    def agree(self, failed: bool) -> bool:
        """Whether any rank failed. Collective, while `trying`; after that a rank knows its own case only."""
        if not self.trying:
            return failed
        return bool(all_reduce_max(torch.tensor([float(failed)], device=self._device)) > 0)

    def shrink(self) -> bool:
        """After a step that ran out of memory: the next smaller setting, or False where there is none."""
        if not self.trying:
            return False
        if self._measures:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        if self.kept > 1:
            self.kept, self._kept_is_found = 1, True
        elif self._may_shrink and self.rows > 1:
            self.rows = -(-self.rows // 2)
        else:
            return False
        self._tries = TRIES
        return True

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around the encoding of a micro-batch that keeps its graph."""
        before = torch.cuda.memory_allocated(self._device) if self._measures else 0
        yield
        if self._measures:
            self._graph_bytes = max(1, torch.cuda.memory_allocated(self._device) - before)

    def succeeded(self) -> None:
        """After a step that fitted."""
        if not self.trying:
            return
        self._tries -= 1
        if not self.whole and not self._kept_is_found and self._graph_bytes:
            free = _USABLE * torch.cuda.get_device_properties(self._device).total_memory
            free -= torch.cuda.max_memory_allocated(self._device)
            # The smallest of the ranks', as minus the largest of minus them.
            extra = -all_reduce_max(torch.tensor([-free / self._graph_bytes], device=self._device))
            self.kept = 1 + max(0, int(extra))
            self._kept_is_found = True
