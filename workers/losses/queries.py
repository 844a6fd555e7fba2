"""The loss of a query, and its gradient, from sums over its negatives: vectors of queries, no matrix.

Query i has a positive p and negatives 𝒩ᵢ. With logits Sᵢⱼ, label smoothing ε and hardness β its loss is

    ℓᵢ = log(exp(Sᵢₚ) + Nᵢ) - (1 - ε)·Sᵢₚ - ε/(1 + |𝒩ᵢ|)·Σ_{j ∈ {p} ∪ 𝒩ᵢ} Sᵢⱼ
    Nᵢ = |𝒩ᵢ|·Σⱼ exp((1 + β)·Sᵢⱼ) / Σⱼ exp(β·Sᵢⱼ),  j ∈ 𝒩ᵢ              (Σⱼ exp(Sᵢⱼ) where β = 0)

InfoNCE is van den Oord et al. 2018, eq. 4; smoothing is Szegedy et al. 2016, §7; hardness is Robinson et al. 2021,
eq. 4 with τ⁺ = 0. The gradient, with qᵢ = Nᵢ/(exp(Sᵢₚ) + Nᵢ):

    ∂ℓᵢ/∂Sᵢⱼ = qᵢ·[(1 + β)·exp((1 + β)·Sᵢⱼ)/Σₖ exp((1 + β)·Sᵢₖ) - β·exp(β·Sᵢⱼ)/Σₖ exp(β·Sᵢₖ)] - ε/(1 + |𝒩ᵢ|)
    ∂ℓᵢ/∂Sᵢₚ = ε - ε/(1 + |𝒩ᵢ|) - qᵢ
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from workers.losses.rule import Rule

NEVER = -1e30
"""Logit of an entry that does not count: its exponential is 0 beside any other. Finite, so that a row in which
nothing counts stays free of NaN."""


def rounding(features: Tensor) -> float:
    """By how much two ways of summing the same cosine may differ: copies of a positive must neither lose to it nor pass
    it by that, on one number of ranks and not on another."""
    return 32 * torch.finfo(features.dtype).eps


def beats(positive: Tensor, best: Tensor, scale: Tensor) -> Tensor:
    """(n,) bool: the positive's logit is larger than that of the best negative, by more than rounding."""
    return positive > best + rounding(positive) * scale


@dataclass(frozen=True)
class Queries:
    """n queries, when all their negatives were seen."""

    positive: Tensor
    """(n,): logit of the positive."""
    lse: tuple[Tensor, ...]
    """(n,) for each exponent: log-sum-exp over the negatives; 0 where there is none."""
    count: Tensor
    """(n,): number of negatives, where the rule counts them."""
    logits: Tensor
    """(n,): sum of their logits, likewise."""
    none: Tensor
    """(n,), 1 where there is no negative."""

    def stacked(self) -> Tensor:
        """(n, …): all of it, to be kept or gathered."""
        return torch.stack([self.positive, self.count, self.logits, self.none, *self.lse], 1)

    @classmethod
    def unstacked(cls, rows: Tensor) -> Queries:
        """The inverse of `stacked`."""
        positive, count, logits, none, *lse = rows.unbind(1)
        return cls(positive, tuple(lse), count, logits, none)

    def losses(self, rule: Rule) -> Tensor:
        """(n,): ℓᵢ."""
        # log(1 + exp(log N - Sₚ)): of a difference, so that a loss far below the rounding of its logits has digits.
        loss = -F.logsigmoid(self.positive - self._log_negatives(rule))
        if rule.label_smoothing:
            mean = (self.positive + self.logits) / (1 + self.count)
            loss = loss + rule.label_smoothing * (self.positive - mean)
        return loss

    def gradient(self, rule: Rule, weight: Tensor) -> Gradient:
        """∂(weight·ℓ)/∂S; weight: (n,)."""
        log_negatives = self._log_negatives(rule)
        log_q = F.logsigmoid(log_negatives - self.positive)
        spread = weight * rule.label_smoothing / (1 + self.count)
        signs = (1 + rule.hardness, -rule.hardness)
        return Gradient(
            # One exponential: exp(log q) and exp(-lse) alone can be beyond what fp32 holds.
            logs=tuple(log_q - lse for lse in self.lse),
            factors=tuple(weight * sign for sign, _ in zip(signs, self.lse, strict=False)),
            spread=spread,
            at_positive=weight * (rule.label_smoothing - log_q.exp()) - spread,
        )

    def _log_negatives(self, rule: Rule) -> Tensor:
        """(n,): log Nᵢ, NEVER where there is no negative."""
        log = self.lse[0]
        if rule.hardness:
            log = log - self.lse[1] + self.count.clamp(min=1).log()
        return torch.where(self.none > 0, NEVER, log)


@dataclass(frozen=True)
class Gradient:
    """∂L/∂S of n queries: Σ over exponents γ of factor·exp(γ·S + log) - spread, at each negative."""

    logs: tuple[Tensor, ...]
    """(n,) for each exponent."""
    factors: tuple[Tensor, ...]
    """(n,) for each exponent."""
    spread: Tensor
    """(n,)."""
    at_positive: Tensor
    """(n,), or of those that are queries."""

    def __getitem__(self, at: slice) -> Gradient:
        """Of some of the queries, at negatives."""
        return Gradient(
            tuple(log[at] for log in self.logs),
            tuple(factor[at] for factor in self.factors),
            self.spread[at],
            self.at_positive,
        )
