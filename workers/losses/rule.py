"""How a loss counts: plain settings, which plan and step read alike. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rule:
    """Which directions count, and how negatives do."""

    to_travelling: float = 0.5
    """Weight of the resident queries' loss, over travelling candidates."""
    to_resident: float = 0.5
    """Weight of the travelling queries' loss, over resident candidates."""
    symmetric: bool = False
    """Both sides are the same rows: the two directions are one, `to_travelling`."""
    label_smoothing: float = 0.0
    hardness: float = 0.0
    margin: float | None = None
    """A candidate whose cosine is larger than the positive's by more than this is no negative."""

    @property
    def exponents(self) -> tuple[float, ...]:
        """Of S in the sums over negatives: 1 + β, and β where it is not 0."""
        return (1 + self.hardness, self.hardness) if self.hardness else (1.0,)

    @property
    def counts(self) -> bool:
        """Whether the loss needs the number of negatives and the sum of their logits."""
        return bool(self.hardness or self.label_smoothing)


@dataclass(frozen=True)
class Prefixes:
    """Prefixes of the features that have losses of their own: widths d₁, d₂, … and their weights c₁, c₂, …"""

    dims: tuple[int, ...]
    weights: tuple[float, ...]


NTXENT = Rule(to_travelling=1.0, to_resident=0.0, symmetric=True)
"""Of two views: every row is a query, once."""
QUERY_TO_DOCUMENT = Rule(to_travelling=0.0, to_resident=1.0)
"""Documents reside, queries travel: those are the queries that look for their documents."""
