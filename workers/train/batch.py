"""The global batch as all ranks see it: one small gather a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.data.order import Layout, lanes_of_rank
from workers.data.rows import Rows, batch_digest
from workers.losses.gather import all_gather_rows, world_size


@dataclass(frozen=True)
class GlobalBatch:
    """Identities of a global batch, in slot order; padding rows are not in it. B samples."""

    ids: NDArray[np.int64]
    """(B,)."""
    valid: NDArray[np.bool_]
    """(B,)."""
    stop: bool
    """Whether any rank was asked to stop."""

    @property
    def digest(self) -> str:
        """Which samples stood in which slot; see `workers.data.rows.batch_digest`."""
        return batch_digest(self.ids, self.valid)

    @property
    def masked(self) -> int:
        """Samples that no rank could use."""
        return int(len(self.valid) - self.valid.sum())


def gather_batch(rows: Rows, layout: Layout, device: torch.device, *, stop: bool) -> GlobalBatch:
    """Gathers what the ranks hold: 16 bytes a row, and the wish to stop. Collective."""
    R = len(rows.ids)
    own = np.concatenate([rows.ids, rows.valid.astype(np.int64), [int(stop)]])
    gathered = all_gather_rows(torch.from_numpy(own)[None].to(device)).cpu().numpy()  # (N, 2R + 1)
    N = world_size()
    # Ranks own consecutive lanes, and each puts its rows before its padding.
    real = [len(lanes_of_rank(rank, N, layout.lanes)) * layout.lane_batch for rank in range(N)]
    ids = np.concatenate([gathered[rank, : real[rank]] for rank in range(N)])
    valid = np.concatenate([gathered[rank, R : R + real[rank]] for rank in range(N)])
    return GlobalBatch(ids, valid.astype(np.bool_), bool(gathered[:, -1].any()))
