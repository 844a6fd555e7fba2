"""Which rows of a batch belong together, and which entries of the similarity matrix don't count.

Letters: N ranks, Q travelling rows of each rank, C = N·Q of all, R resident rows of this rank, H kinds of keys.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from workers.losses.gather import all_gather_rows, rank


@dataclass(frozen=True)
class Pairs:
    """What a loss knows of its rows besides their features.

    The first Q resident rows are paired with this rank's travelling rows; further ones are hard negatives. With
    one tower and two views (`views` = 2) both sides are the same rows, two views of a sample in a line: row r is
    itself and no candidate, its positive is row r ^ 1.
    """

    first: int
    """Number of this rank's first travelling row among all."""
    queries: int
    """Q."""
    valid_R: Tensor
    """(R,) bool: other resident rows are no query and nobody's candidate."""
    valid_C: Tensor
    """(C,) bool, of travelling rows; a pair is a query where both its rows are valid."""
    weight_C: Tensor
    """(C,) floating: weight of a travelling row's pair in the mean; 0 where it is not valid."""
    total_weight: float
    """Σ weight_C."""
    all_valid: bool
    """Whether all rows of both sides are valid, as this rank sees them."""
    keys_R: Tensor | None = None
    """(R, H) int64: rows with an equal key are no negatives of each other. 0 equals nothing."""
    keys_C: Tensor | None = None
    """(C, H) int64."""
    views: int = 1
    """1, or 2 where both sides hold the same two views of each sample."""

    @property
    def own(self) -> slice:
        """This rank's travelling rows."""
        return slice(self.first, self.first + self.queries)

    def to(self, device: torch.device) -> Pairs:
        """The same on a device."""
        tensors: dict[str, Any] = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


def gather_pairs(
    valid: Tensor,
    *,
    weight: Tensor | None = None,
    keys: Tensor | None = None,
    negatives_valid: Tensor | None = None,
    negative_keys: Tensor | None = None,
    views: int = 1,
) -> Pairs:
    """The `Pairs` of rows that each rank knows of its own. Collective.

    valid: (Q,) bool. weight: (Q,). keys: (Q, H), of the pairs. negatives_valid: (R - Q,) and negative_keys:
    (R - Q, H) of the resident rows behind the pairs; where these have no keys, they equal nothing. A training step
    has gathered all this with its batch.
    """
    weight = (torch.ones_like(valid, dtype=torch.float32) if weight is None else weight) * valid
    valid_C, weight_C = all_gather_rows(valid), all_gather_rows(weight)
    valid_R = valid if negatives_valid is None else torch.cat([valid, negatives_valid])
    keys_R = keys
    if keys is not None:
        if negative_keys is None:
            negative_keys = keys.new_zeros(len(valid_R) - len(valid), keys.shape[1])
        keys_R = torch.cat([keys, negative_keys])
    return Pairs(
        first=rank() * len(valid),
        queries=len(valid),
        valid_R=valid_R,
        valid_C=valid_C,
        weight_C=weight_C,
        total_weight=float(weight_C.sum(dtype=torch.float64)),
        all_valid=bool(valid_R.all()) and bool(valid_C.all()),
        keys_R=keys_R,
        keys_C=None if keys is None else all_gather_rows(keys),
        views=views,
    )
