"""Walking over S = s·A·Gᵀ in tiles, with what is no negative taken out.

Letters: R resident rows, C travelling rows, Q queries of this rank, r rows and c columns of a tile, d width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.losses.pairs import Pairs
from workers.losses.queries import NEVER

TILE_BYTES = 4 * 2**20
"""Memory of one tile of S; some five of that size live at a time, two of them kept (see `contrast.py`), ten with
hardness and a margin together. On a CPU (2,048 rows, width 512) 2 to 16 MiB were equally fast, and 64 MiB a quarter
slower, as the tile leaves the cache between two passes."""
CUDA_TILE_BYTES = 256 * 2**20
"""The same on a GPU: 8,192 rows and columns, so that a product does far more arithmetic than it moves bytes."""


@dataclass(frozen=True)
class Tile:
    """A block of S."""

    rows: slice
    columns: slice
    _rows: Tensor
    """(r, d)."""
    _scaled: Tensor
    """(r, d): the rows, times the scale."""
    _columns: Tensor
    """(c, d)."""
    _pairs: Pairs
    _memory: Tensor
    """(r, c): of all tiles of a walk."""

    def logits(self) -> Tensor:
        """(r, c): S, NEVER where an entry is no negative of anybody. Computed anew, into memory that the next tile
        takes too: the caller may write over it."""
        if self._columns.dtype == self._memory.dtype:
            torch.mm(self._scaled, self._columns.T, out=self._memory)
        else:
            torch.mm(self._scaled, self._columns.T, out_dtype=self._memory.dtype, out=self._memory)
        _take_out(self._memory, self.rows, self.columns, self._pairs)
        return self._memory

    def add_gradient(self, dS_rc: Tensor, grad_A: Tensor | None, grad_G: Tensor | None) -> None:
        """Adds what ∂L/∂S of this tile, (r, c), is to the features, but for the scale: to the tile's rows of `grad_A`
        (R, d) and `grad_G` (C, d), where they are wanted."""
        dS_rc = dS_rc.to(self._columns.dtype)
        if grad_A is not None:
            _add_product(grad_A[self.rows], dS_rc, self._columns)
        if grad_G is not None:
            _add_product(grad_G[self.columns], dS_rc.T, self._rows)


def tiles(A: Tensor, G: Tensor, scale: Tensor, pairs: Pairs, products: torch.dtype | None = None) -> Iterator[Tile]:
    """The tiles of S = scale·A·Gᵀ, in order; the same ones each time. A: (R, d), G: (C, d).

    About square, so that each is little to read for its arithmetic; of even sides, as the two views of a sample stay
    together. products: the type that features are multiplied in, on a GPU; sums are A's type all the same.
    """
    low_A, low_G = (A, G) if products is None else (A.to(products), G.to(products))
    R, C = len(A), len(G)
    entries = tile_bytes(A.device) // A.element_size()
    height = max(2, min(R, 2 * math.isqrt(entries // 4)))
    width = max(2, min(C, entries // height))
    # One piece of memory: an allocator that gets and gives back such pieces by the hundred holds several of them.
    memory = A.new_empty(height * width)
    for top in range(0, R, height - height % 2):
        rows = slice(top, min(top + height - height % 2, R))
        scaled = (A[rows] * scale).to(low_A.dtype)
        for left in range(0, C, width - width % 2):
            columns = slice(left, min(left + width - width % 2, C))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            tile = memory[: math.prod(shape)].view(shape)
            yield Tile(rows, columns, low_A[rows], scaled, low_G[columns], pairs, tile)


def tile_bytes(device: torch.device) -> int:
    """Memory of a tile."""
    return CUDA_TILE_BYTES if device.type == "cuda" else TILE_BYTES


def product_type(device: torch.device, *given: torch.dtype | None) -> torch.dtype | None:
    """What features are multiplied in that towers or the wire leave as `given`: bf16 stays bf16 on a GPU, whose tensor
    cores are ten times as fast with it and sum in fp32. None: in fp32 or wider. fp16 is not kept, for gradients in a
    large batch are below its smallest number."""
    return torch.bfloat16 if device.type == "cuda" and set(given) == {torch.bfloat16} else None


def positive_logits(A: Tensor, G: Tensor, scale: Tensor, pairs: Pairs, products: torch.dtype | None = None) -> Tensor:
    """(Q,): the entries of S = scale·A·Gᵀ that are positives, rounded as those of the tiles. A thousand rows at a time,
    as their products are as large as all features of a rank once more."""
    logits = []
    for a, g in zip(torch.split(A[: pairs.queries], 1024), torch.split(positive_rows(G, pairs), 1024), strict=True):
        a = a * scale
        if products is not None:
            a, g = a.to(products).to(A.dtype), g.to(products).to(A.dtype)
        logits.append((a * g).sum(1))
    return torch.cat(logits)


def _add_product(to: Tensor, first: Tensor, second: Tensor) -> None:
    """to += first·second, in place."""
    if first.dtype == to.dtype:
        to.addmm_(first, second)
    else:
        torch.addmm(to, first, second, out_dtype=to.dtype, out=to)


def partners(rows: Tensor) -> Tensor:
    """(n,) -> 1, 0, 3, 2, …: where the other view of each row stands."""
    return torch.arange(len(rows), device=rows.device) ^ 1


def positive_rows(G: Tensor, pairs: Pairs) -> Tensor:
    """(Q, d): the positives of this rank's resident queries, out of the travelling rows G (C, d)."""
    own = G[pairs.own]
    return own[partners(own)] if pairs.views == 2 else own


def _take_out(logits: Tensor, rows: slice, columns: slice, pairs: Pairs) -> None:
    """Marks, in place, what is masked, what has an equal key, and what is a positive or the row itself."""
    if not pairs.all_valid:
        logits.masked_fill_(~(pairs.valid_R[rows, None] & pairs.valid_C[columns]), NEVER)
    if pairs.keys_R is not None and pairs.keys_C is not None:
        for kind in range(pairs.keys_R.shape[1]):
            of_row, of_column = pairs.keys_R[rows, kind], pairs.keys_C[columns, kind]
            logits.masked_fill_((of_row[:, None] == of_column) & (of_row != 0)[:, None], NEVER)
    # Row i of this rank, of those that are queries, meets column first + i, where that lies in the tile.
    start = max(pairs.first + rows.start, columns.start)
    stop = min(pairs.first + min(rows.stop, pairs.queries), columns.stop)
    if start < stop:
        at = torch.arange(start, stop, device=logits.device)
        own, itself = at - pairs.first - rows.start, at - columns.start
        logits[own, itself] = NEVER
        if pairs.views == 2:
            logits[own, itself ^ 1] = NEVER
