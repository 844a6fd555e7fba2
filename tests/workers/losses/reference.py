"""The losses in the plainest way: one process, the full matrix, a Python loop over queries and candidates.

Knows neither ranks nor tiles nor how masks are laid out: which entries count is asked pair by pair.
Letters: B pairs, K hard negatives of each, H kinds of keys, d width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Options:
    """What a loss can be told."""

    to_travelling: float = 0.5
    to_resident: float = 0.5
    label_smoothing: float = 0.0
    hardness: float = 0.0
    margin: float | None = None
    dims: tuple[int, ...] = ()
    dim_weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Rows:
    """What is known of the rows of a global batch."""

    valid: list[bool]
    weight: list[float]
    keys: list[tuple[int, ...]]
    negative_valid: list[bool]
    negative_keys: list[tuple[int, ...]]

    @property
    def total(self) -> float:
        """Weight of all valid rows; 1 where that is nothing, so that the loss is 0."""
        return sum(w for w, valid in zip(self.weight, self.valid, strict=True) if valid) or 1.0


def differ(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether no kind of key says that two rows are the same; 0 says nothing."""
    return not any(a == b and a != 0 for a, b in zip(one, other, strict=True))


def query_loss(positive: Tensor, negatives: list[Tensor], options: Options, scale: float) -> Tensor:
    """Cross-entropy of one query with smooth targets, after Robinson et al.'s weights of its negatives."""
    if options.margin is not None:
        most = positive.item() / scale + options.margin
        negatives = [negative for negative in negatives if negative.item() / scale <= most]
    n = len(negatives)
    if not n:
        return 0 * positive
    logits = torch.stack([positive, *negatives])
    importance = n * torch.softmax(options.hardness * logits[1:], 0)
    log_Z = torch.logsumexp(logits + torch.cat([torch.zeros(1), importance.log()]), 0)
    targets = torch.full((n + 1,), options.label_smoothing / (n + 1), dtype=logits.dtype)
    targets[0] += 1 - options.label_smoothing
    return (targets * (log_Z - logits)).sum()


def infonce_loss(A: Tensor, T: Tensor, scale: Tensor, rows: Rows, options: Options) -> Tensor:
    """A: (B·(1 + K), d), positives first; T: (B, d)."""
    B, S, s = len(T), scale * A @ T.T, scale.item()
    valid, keys = rows.valid + rows.negative_valid, rows.keys + rows.negative_keys
    loss = S.sum() * 0
    for i in range(B):
        if not valid[i]:
            continue
        others = [j for j in range(len(A)) if j != i and valid[j] and differ(keys[i], keys[j])]
        of_resident = query_loss(S[i, i], [S[i, j] for j in others if j < B], options, s)
        of_travelling = query_loss(S[i, i], [S[j, i] for j in others], options, s)
        both = options.to_travelling * of_resident + options.to_resident * of_travelling
        loss = loss + rows.weight[i] * both / rows.total
    return loss


def ntxent_loss(Z: Tensor, scale: Tensor, rows: Rows, options: Options) -> Tensor:
    """Z: (2·B, d), the views of a sample side by side; `rows` tells of views."""
    S, s = scale * Z @ Z.T, scale.item()
    loss = S.sum() * 0
    for v in range(len(Z)):
        if not rows.valid[v]:
            continue
        other = v + 1 if v % 2 == 0 else v - 1
        candidates = [u for u in range(len(Z)) if u not in (v, other) and rows.valid[u]]
        negatives = [S[v, u] for u in candidates if differ(rows.keys[v], rows.keys[u])]
        loss = loss + rows.weight[v] * query_loss(S[v, other], negatives, options, s) / rows.total
    return loss


def siglip_loss(A: Tensor, T: Tensor, scale: Tensor, bias: Tensor, rows: Rows, options: Options) -> Tensor:
    """A, T: (B, d)."""
    cosines = A @ T.T
    loss = (scale * cosines + bias).sum() * 0
    for i in range(len(A)):
        for j in range(len(T)):
            if not (rows.valid[i] and rows.valid[j]):
                continue
            if i != j and not differ(rows.keys[i], rows.keys[j]):
                continue
            least = min(cosines[i, i].item(), cosines[j, j].item())
            if i != j and options.margin is not None and cosines[i, j].item() > least + options.margin:
                continue
            sign = 1 if i == j else -1
            question = torch.log1p(torch.exp(-sign * (scale * cosines[i, j] + bias)))
            loss = loss + (rows.weight[i] + rows.weight[j]) / 2 * question / rows.total
    return loss


def of_prefixes(loss: Callable[..., Tensor], features: list[Tensor], options: Options) -> Tensor:
    """`loss` of whole features, and of their prefixes brought to length 1."""
    total = loss(*features)
    for dim, weight in zip(options.dims, options.dim_weights, strict=True):
        total = total + weight * loss(*[F.normalize(side[:, :dim], dim=-1) for side in features])
    return total
