"""Bytes that the losses receive a step: plain arithmetic, which the plan prints and the tests hold the losses to.

Counted as a ring carries them, on one rank: (N - 1)/N of the whole for a gather or a scatter, twice that for an
all-reduce. Averages of single numbers (a few bytes) are left out.

Letters: N ranks, m rows a rank, q travelling rows a rank, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

_FLOAT = 4


@dataclass(frozen=True)
class Wire:
    """A step's collectives for the loss."""

    ranks: int
    rows: int
    """m."""
    travelling: int
    """q: m, or 2m for two views."""
    width: int
    """d."""
    feature_bytes: int
    """Of a number of a feature on the wire."""
    kinds: int
    """Keys of a row."""
    returns: bool
    """Whether the gradient of travelling features goes back: neither for a frozen tower nor for two views."""
    columns: bool
    """Whether travelling queries count: their log-sum-exps are over the rows of all ranks."""
    symmetric: bool
    """Both sides are the same rows."""
    sigmoid: bool
    """No query needs a sum over the batch."""
    margin: bool
    sums: int
    """Numbers of a query that are added up: 1, 2 with hardness, two more where negatives are counted."""
    losses: int
    """1, and one for each Matryoshka prefix."""

    @property
    def identities(self) -> int:
        """Of the batch's identities, weights and keys, 8 bytes each, and the wish to stop."""
        return (self.ranks - 1) * (self.rows + 1) * (2 + self.kinds) * 8

    @property
    def features(self) -> int:
        """There, and back where they are trained."""
        one_way = (self.ranks - 1) * self.travelling * self.width * self.feature_bytes
        return one_way * (2 if self.returns else 1)

    @property
    def numbers(self) -> int:
        """Of queries: positives' logits and sums. Where logits pass 70, maxima of as many take an all-reduce more."""
        others = (self.ranks - 1) * self.travelling * _FLOAT * self.losses
        if self.sigmoid:
            return others if self.margin else 0
        if self.symmetric:
            return others * (1 + 4 + (2 if self.sums in (2, 4) else 1))
        return others * (1 + 2 * self.sums) if self.columns else 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.identities + self.features + self.numbers
