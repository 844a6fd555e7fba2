"""The kernel of the InfoNCE losses: over the gathered global batch, in one pass, with linear memory.

    S = s·A·Gᵀ          A: resident features of this rank (R rows), G: travelling features of all ranks (C rows)

The loss is the mean of `queries.py`'s over the valid queries of the global batch, weighted by row, and over two
directions: resident queries among travelling candidates (rows of S: complete on a rank), and travelling queries
among the resident candidates of all ranks (columns of S: their sums take all-reduces of C floats). With `symmetric`,
both sides are the same rows: the sums of a column are those of a row on another rank, and are gathered.

Each rank walks over its own rows of S in tiles, and once more in the backward pass: dA is then complete
on the rank, dG is to be summed over the ranks (with `symmetric`, dA holds both roles of a row and there is no dG: no
features travel in the backward pass). Memory is O((R + C)·d + tile), never O(R·C). 8·R·C·d FLOPs, of which up to 2
are saved: some tiles are kept for the backward pass (`KEPT`).

A rank returns N times its part of the loss. Data-parallel training averages gradients over the ranks, and the mean
of those parts' gradients is the gradient of the loss: for the towers and for the scale. The scale's gradient is
averaged here already, for one more all-reduce of a scalar: its clamp looks at the sign of it, which on a rank alone
can be another.

Letters: N ranks, R resident rows, Q of them queries, C travelling rows of all ranks, r rows and c columns of a tile,
d width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from workers.losses.gather import all_gather_rows, all_reduce_max, all_reduce_sum, global_mean, world_size
from workers.losses.pairs import Pairs
from workers.losses.queries import NEVER, Gradient, Queries, beats, rounding
from workers.losses.rule import Rule
from workers.losses.tiles import Tile, partners, positive_logits, positive_rows, tile_bytes, tiles

PLAIN_LOGIT = 70.0
"""Up to this logit, exponentials are taken without subtracting a maximum first: a million of exp(70) stay below
fp32's largest number, exp(-70) has all its digits, and features of length 1 keep S within ± s. It saves half of the
passes over a tile. Beyond it (s = 100 is CLIP's bound), each row and column subtracts its largest logit."""

KEPT, KEPT_TILES = 0.25, 2
"""How much memory the tiles may have that are kept from the forward pass to the backward pass, which then need not
compute them again: this share of the travelling features', or so many tiles where that is more; of each loss, where
prefixes have one each. So memory stays linear. All of S is kept where 4·R ≤ d, as with many ranks; with hardness,
which has two exponentials of an entry, where 8·R ≤ d."""


def contrast(
    A: Tensor,
    G: Tensor,
    scale: Tensor,
    pairs: Pairs,
    rule: Rule,
    *,
    measure: bool = False,
    products: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """This rank's part of the loss of the global batch, times the number of ranks; and its part of the accuracy.

    A: (R, d), G: (C, d), rows of length 1 (or 0), fp32 or wider. scale: scalar, the inverse temperature. products: as
    `tiles` has it. All ranks call it together, forward and backward. Returns two scalars: their means over the ranks
    are the loss, and the share of queries (weighted as in the loss) whose positive beats all negatives, which is 0
    without `measure` and has no gradient. A batch without a valid pair has loss 0.
    """
    loss, hits = _Contrast.apply(A, G, scale, pairs, rule, measure, products)  # type: ignore[no-untyped-call]
    return loss, hits


class _Sums:
    """Sums over the negatives of n queries in one direction, as they grow tile by tile."""

    def __init__(self, n: int, like: Tensor, rule: Rule, *, plain: bool, measure: bool) -> None:
        self._rule, self._plain, self._measure = rule, plain, measure
        # (n,) for each exponent: what is subtracted before exponentials are taken, and their sum.
        self._largest = [like.new_full((n,), 0.0 if plain else NEVER) for _ in rule.exponents]
        self._sums = [like.new_zeros(n) for _ in rule.exponents]
        self._count, self._logits = like.new_zeros(2, n)
        self.best = like.new_full((n,), NEVER)
        """(n,): the largest logit, where it is measured."""

    def add(self, at: slice, logits: Tensor, exponentials: list[Tensor], dim: int) -> None:
        """Takes in a tile: the queries `at`, their negatives along `dim`; `exponentials` where `plain`."""
        if self._rule.counts:
            counted = logits > NEVER / 2
            self._count[at] += counted.sum(dim)
            self._logits[at] += torch.where(counted, logits, 0).sum(dim)
        if self._measure:
            self.best[at] = torch.maximum(self.best[at], logits.amax(dim))
        for number, exponent in enumerate(self._rule.exponents):
            sums = self._sums[number]
            if self._plain:
                sums[at] += exponentials[number].sum(dim)
                continue
            scaled = logits if exponent == 1 else exponent * logits
            old = self._largest[number][at]
            new = torch.maximum(old, scaled.amax(dim))
            sums[at] = sums[at] * (old - new).exp() + (scaled - new.unsqueeze(dim)).exp_().sum(dim)
            self._largest[number][at] = new

    def reduce(self) -> None:
        """Adds up the sums of all ranks. Collective: one all-reduce, two where maxima are subtracted or measured."""
        maxima = [*([] if self._plain else self._largest), *([self.best] if self._measure else [])]
        if maxima:
            of_all = list(all_reduce_max(torch.stack(maxima)))
            if self._measure:
                self.best = of_all.pop()
            for number, largest in enumerate(of_all):
                self._sums[number] *= (self._largest[number] - largest).exp()
                self._largest[number] = largest
        counted = [self._count, self._logits] if self._rule.counts else []
        of_all = list(all_reduce_sum(torch.stack([*self._sums, *counted])))
        if counted:
            *of_all, self._count, self._logits = of_all
        self._sums = of_all

    def queries(self, positive: Tensor) -> Queries:
        """What came out; positive: (n,)."""
        none = (self._sums[0] == 0) | (self._largest[0] <= NEVER / 2)
        lse = [
            torch.where(none, 0, largest + torch.where(none, 1, sums).log())
            for largest, sums in zip(self._largest, self._sums, strict=True)
        ]
        return Queries(positive, tuple(lse), self._count, self._logits, none.to(positive.dtype))


class _Kept:
    """The exponentials of the first tiles, up to so many bytes, from the forward pass to the backward pass."""

    def __init__(self, nbytes: float) -> None:
        self._left = nbytes
        self._tiles: dict[int, list[Tensor]] = {}

    def offer(self, number: int, exponentials: list[Tensor]) -> None:
        """Keeps those of a tile, if there was and is room."""
        self._left -= sum(exponential.nbytes for exponential in exponentials)
        if self._left >= 0:
            self._tiles[number] = [exponential.clone() for exponential in exponentials]

    def take(self, number: int) -> list[Tensor] | None:
        """Those of a tile, once, to be written over; None where they were not kept."""
        return self._tiles.pop(number, None)


class _Contrast(Function):
    @staticmethod
    def forward(
        ctx: Any,
        A: Tensor,
        G: Tensor,
        scale: Tensor,
        pairs: Pairs,
        rule: Rule,
        measure: bool,
        products: torch.dtype | None,
    ) -> tuple[Tensor, Tensor]:
        Q, N = pairs.queries, world_size()
        plain = float(scale) * max(rule.exponents) <= PLAIN_LOGIT
        positive = positive_logits(A, G, scale, pairs, products)
        # What travelling queries have: as queries, or as those whose negatives a margin takes out.
        needed = rule.to_resident > 0 or (rule.symmetric and rule.margin is not None)
        positive_C = all_gather_rows(positive) if needed else positive.new_zeros(len(G))
        limits = (
            None if rule.margin is None else _limits(positive, positive_C, scale * (rule.margin + rounding(A)), len(A))
        )
        rows = _Sums(Q, A, rule, plain=plain, measure=measure)
        columns = _Sums(len(G), A, rule, plain=plain, measure=measure)
        factored, kept = _is_factored(rule, plain=plain), _Kept(max(KEPT * G.nbytes, KEPT_TILES * tile_bytes(G.device)))
        for number, tile in enumerate(tiles(A, G, scale, pairs, products)):
            of_row, of_column = _negatives(tile, limits)
            # Over the tile itself where nobody else asks for its logits: half the memory.
            last = limits is None and not rule.counts and not measure
            of_row_exp = _exponentials(of_row, rule, over=last) if plain else []
            if factored and any(ctx.needs_input_grad):
                kept.offer(number, of_row_exp)
            queries = slice(tile.rows.start, min(tile.rows.stop, Q))
            if rule.to_travelling and queries.start < queries.stop:
                n = queries.stop - queries.start
                rows.add(queries, of_row[:n], [exponential[:n] for exponential in of_row_exp], 1)
            if rule.to_resident:
                shared = of_row_exp if limits is None or not plain else _exponentials(of_column, rule, over=False)
                columns.add(tile.columns, of_column, shared, 0)
        of_rows = rows.queries(positive)
        of_columns = of_rows
        if rule.to_resident:
            columns.reduce()
            of_columns = columns.queries(positive_C)
        elif rule.symmetric:
            of_columns = Queries.unstacked(all_gather_rows(of_rows.stacked()))

        weight = pairs.weight_C.to(A.dtype) * (N / (pairs.total_weight or 1.0))
        loss, hits = A.new_zeros(()), A.new_zeros(())
        own = weight[pairs.own]
        if rule.to_travelling:
            loss = loss + rule.to_travelling * (own * of_rows.losses(rule)).sum()
            hits = hits + rule.to_travelling * (own * beats(positive, rows.best, scale)).sum()
        if rule.to_resident:
            loss = loss + rule.to_resident * (own * of_columns.losses(rule)[pairs.own]).sum()
            hits = hits + rule.to_resident * (own * beats(positive, columns.best[pairs.own], scale)).sum()
        ctx.pairs, ctx.rule, ctx.limits, ctx.kept = pairs, rule, limits, kept
        ctx.factored, ctx.products = factored, products
        ctx.save_for_backward(A, G, scale, weight, of_rows.stacked(), of_columns.stacked())
        ctx.mark_non_differentiable(hits)
        return loss, hits if measure else torch.zeros_like(hits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        A, G, scale, weight, of_rows, of_columns = ctx.saved_tensors
        pairs, rule = ctx.pairs, ctx.rule
        Q, weight = pairs.queries, weight * grads[0]
        rows = columns = None
        if rule.to_travelling:
            rows = _padded(Queries.unstacked(of_rows).gradient(rule, rule.to_travelling * weight[pairs.own]), len(A))
        if rule.to_resident or rule.symmetric:
            share = rule.to_travelling if rule.symmetric else rule.to_resident
            columns = Queries.unstacked(of_columns).gradient(rule, share * weight)

        wanted_A = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]  # the scale's gradient takes it too
        grad_A = torch.zeros_like(A)
        grad_G = torch.zeros_like(G) if ctx.needs_input_grad[1] and not rule.symmetric else None
        for number, tile in enumerate(tiles(A, G, scale, pairs, ctx.products)):
            if ctx.factored:
                exponentials = ctx.kept.take(number) or _exponentials(tile.logits(), rule, over=True)
                dS_rc = _factored_gradient(exponentials, tile, rows, columns)
            else:
                dS_rc = _gradient(tile, rows, columns, ctx)
            tile.add_gradient(dS_rc, grad_A if wanted_A else None, grad_G)
        at_positive = A.new_zeros(Q)
        if rows is not None:
            at_positive += rows.at_positive[:Q]
        if columns is not None:
            own = columns.at_positive[pairs.own]
            at_positive += own[partners(own)] if rule.symmetric else own
        grad_A[:Q].addcmul_(at_positive[:, None], positive_rows(G, pairs))
        grad_A *= scale
        if grad_G is not None:
            grad_G[pairs.own].addcmul_(at_positive[:, None], A[:Q])
            grad_G *= scale
        grad_scale = None
        if ctx.needs_input_grad[2]:
            # Σ ∂L/∂S·cos is Σ A·dA / s; with one side, dA holds each entry of S twice.
            parts = zip(torch.split(A, 1024), torch.split(grad_A, 1024), strict=True)
            whole = torch.stack([(a * of_a).sum() for a, of_a in parts]).sum()
            grad_scale = global_mean(whole / (2 * scale if rule.symmetric else scale))
        return grad_A, grad_G, grad_scale, None, None, None, None


def _limits(positive: Tensor, positive_C: Tensor, margin: Tensor, R: int) -> tuple[Tensor, Tensor]:
    """The logits beyond which a candidate is no negative: of resident queries (R,), of travelling ones (C,)."""
    of_row = positive.new_full((R,), torch.inf)
    of_row[: len(positive)] = positive + margin
    return of_row, positive_C + margin


def _negatives(tile: Tile, limits: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """(r, c) twice: the logits as resident queries see their candidates, and as travelling queries do."""
    logits = tile.logits()
    if limits is None:
        return logits, logits
    of_row, of_column = limits
    return (
        logits.masked_fill(logits > of_row[tile.rows, None], NEVER),
        logits.masked_fill(logits > of_column[tile.columns], NEVER),
    )


def _exponentials(logits: Tensor, rule: Rule, *, over: bool) -> list[Tensor]:
    """exp(γ·S) for each exponent; written over the logits if there is one, and `over`."""
    if over and rule.exponents == (1.0,):
        return [logits.exp_()]
    return [(logits if exponent == 1 else exponent * logits).exp() for exponent in rule.exponents]


def _padded(gradient: Gradient, R: int) -> Gradient:
    """Of Q resident queries, as one of all R resident rows: hard negatives are no queries."""

    def pad(vector: Tensor, value: float) -> Tensor:
        return F.pad(vector, (0, R - len(vector)), value=value)

    return Gradient(
        logs=tuple(pad(log, NEVER) for log in gradient.logs),
        factors=tuple(pad(factor, 0.0) for factor in gradient.factors),
        spread=pad(gradient.spread, 0.0),
        at_positive=gradient.at_positive,
    )


def _is_factored(rule: Rule, *, plain: bool) -> bool:
    """Rows and columns of ∂L/∂S share the exponentials, and differ by a factor alone."""
    return plain and rule.margin is None and not rule.label_smoothing


def _factored_gradient(
    exponentials: list[Tensor], tile: Tile, rows: Gradient | None, columns: Gradient | None
) -> Tensor:
    """As `_gradient`, where it `_is_factored`; over the exponentials of the tile."""
    rows = None if rows is None else rows[tile.rows]
    columns = None if columns is None else columns[tile.columns]
    total = None
    for number, exponential in enumerate(exponentials):
        by_row = None if rows is None else (rows.factors[number] * rows.logs[number].exp())[:, None]
        by_column = None if columns is None else columns.factors[number] * columns.logs[number].exp()
        factor = by_column if by_row is None else by_row if by_column is None else by_row + by_column
        assert factor is not None
        exponential *= factor
        total = exponential if total is None else total.add_(exponential)
    assert total is not None
    return total


def _gradient(tile: Tile, rows: Gradient | None, columns: Gradient | None, ctx: Any) -> Tensor:
    """(r, c): ∂L/∂S of a tile, positives apart."""
    rule, limits = ctx.rule, ctx.limits
    rows = None if rows is None else rows[tile.rows]
    columns = None if columns is None else columns[tile.columns]
    of_row, of_column = _negatives(tile, limits)
    total = torch.zeros_like(of_row)
    for logits, gradient, dim in ((of_row, rows, 1), (of_column, columns, 0)):
        if gradient is None:
            continue
        for exponent, log, factor in zip(rule.exponents, gradient.logs, gradient.factors, strict=True):
            total += (exponent * logits + log.unsqueeze(dim)).exp_() * factor.unsqueeze(dim)
        if rule.label_smoothing:
            total -= (logits > NEVER / 2) * gradient.spread.unsqueeze(dim)
    return total
