"""Bytes that a rank receives a step for the loss: plain arithmetic, which the plan prints and the tests hold the losses
to.

Counted as a ring carries them: (N - 1)/N of the whole for a gather or a scatter, twice that for an all-reduce.
Averages of single numbers (a few bytes) and the figures of health are left out.

Letters: N ranks, m rows a rank, q travelling rows a rank, d width.
"""

from __future__ import annotations

from dataclasses import dataclass

from workers.objectives import Contrast

_FLOAT = 4
_FEATURE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Wire:
    """A step's collectives for the loss."""

    contrast: Contrast
    ranks: int
    """N."""
    rows: int
    """m."""
    width: int
    """d."""

    @property
    def identities(self) -> int:
        """Of the batch's identities, weights and keys, 8 bytes each, and rank 0's command."""
        return (self.ranks - 1) * (self.rows + 1) * (2 + len(self.contrast.kinds)) * 8

    @property
    def features(self) -> int:
        """There, and back where the travelling tower is trained and the loss is not symmetric."""
        contrast = self.contrast
        returns = contrast.travelling in contrast.trained and not contrast.symmetric
        one_way = self._received * self.width * _FEATURE_BYTES[contrast.wire]
        return one_way * (2 if returns else 1)

    @property
    def sums(self) -> int:
        """Of positives' logits, and of sums over negatives. Where logits pass 70, maxima take an all-reduce more."""
        contrast, rule = self.contrast, self.contrast.rule
        losses = 1 + (0 if contrast.prefixes is None else len(contrast.prefixes.dims))
        numbers = 0
        if contrast.sigmoid:
            numbers = 0 if rule.margin is None else 1
        elif contrast.symmetric:
            numbers = 4 + len(rule.exponents) + (0 if rule.margin is None else 1)
        elif rule.to_resident:
            numbers = 1 + 2 * (len(rule.exponents) + (2 if rule.counts else 0))
        return numbers * self._received * _FLOAT * losses

    @property
    def total(self) -> int:
        """All of it."""
        return self.identities + self.features + self.sums

    @property
    def _received(self) -> int:
        """Travelling rows of the other ranks."""
        return (self.ranks - 1) * self.rows * self.contrast.inputs[self.contrast.travelling]
