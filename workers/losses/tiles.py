"""Walking over S = s·A·Gᵀ in tiles of columns, with what is no negative taken out.

Letters: R resident rows, C travelling rows, Q queries of this rank, c columns of a tile, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.losses.pairs import Pairs
from workers.losses.queries import NEVER

TILE_BYTES = 8 * 2**20
"""Memory of one tile of S; up to four of that size live at a time, ten with hardness and a margin together. On a CPU
(2,048 rows, width 512) 2 to 16 MiB were equally fast, and 64 MiB a quarter slower, as the tile leaves the cache between
two passes."""


@dataclass(frozen=True)
class Tile:
    """Columns of S."""

    columns: slice
    logits: Tensor
    """(R, c): S, NEVER where an entry is no negative of anybody. May be written over."""


def tiles(A: Tensor, G: Tensor, scale: Tensor, pairs: Pairs) -> Iterator[Tile]:
    """The tiles of S = scale·A·Gᵀ, in order; the same ones each time. A: (R, d), G: (C, d)."""
    C = len(G)
    width = max(1, TILE_BYTES // (max(1, len(A)) * A.element_size()))
    width = max(2, width - width % 2)  # the two views of a sample stay together
    scaled = A * scale
    for start in range(0, C, width):
        columns = slice(start, min(start + width, C))
        logits = scaled @ G[columns].T
        _take_out(logits, columns, pairs)
        yield Tile(columns, logits)


def partners(rows: Tensor) -> Tensor:
    """(n,) -> 1, 0, 3, 2, …: where the other view of each row stands."""
    return torch.arange(len(rows), device=rows.device) ^ 1


def positive_rows(G: Tensor, pairs: Pairs) -> Tensor:
    """(Q, d): the positives of this rank's resident queries, out of the travelling rows G (C, d)."""
    own = G[pairs.own]
    return own[partners(own)] if pairs.views == 2 else own


def _take_out(logits: Tensor, columns: slice, pairs: Pairs) -> None:
    """Marks, in place, what is masked, what has an equal key, and what is a positive or the row itself."""
    if not pairs.all_valid:
        logits.masked_fill_(~(pairs.valid_R[:, None] & pairs.valid_C[columns]), NEVER)
    if pairs.keys_R is not None and pairs.keys_C is not None:
        for kind in range(pairs.keys_R.shape[1]):
            of_row, of_column = pairs.keys_R[:, kind], pairs.keys_C[columns, kind]
            logits.masked_fill_((of_row[:, None] == of_column) & (of_row != 0)[:, None], NEVER)
    # Row i of this rank meets column first + i, where that lies in the tile.
    start, stop = max(pairs.first, columns.start), min(pairs.own.stop, columns.stop)
    if start < stop:
        rows = torch.arange(start - pairs.first, stop - pairs.first, device=logits.device)
        logits[rows, rows + (pairs.first - columns.start)] = NEVER
        if pairs.views == 2:
            logits[rows, (rows ^ 1) + (pairs.first - columns.start)] = NEVER
