"""What a loss holds at the most. Plain arithmetic: what `tandem plan` tells is what a step reserves.

Letters: R resident rows of this rank, C travelling rows of all ranks, d width.
"""

from __future__ import annotations

import torch

from workers.losses.contrast import KEPT, KEPT_TILES
from workers.losses.rule import Prefixes, Rule
from workers.losses.tiles import tile_bytes

_FP32 = 4
_LIVE, _LIVE_OF_EACH_SIDE = 3, 8
"""Tiles that live at a time beside those that are kept; and where the two directions have logits of their own, by a
margin, or exponentials of their own, by hardness."""
_LIVE_OF_SIGMOID = 4


def loss_bytes(
    resident: int,
    travelling: int,
    width: int,
    rule: Rule,
    prefixes: Prefixes | None,
    device: torch.device,
    *,
    sigmoid: bool = False,
) -> int:
    """Bytes on this rank's device: the features that are contrasted, their gradients, and the tiles.

    resident: R; travelling: C; width: d; rule: of a sigmoid loss it does not matter.
    """
    dims = () if prefixes is None else prefixes.dims
    # A GPU may multiply in bf16: then the features are there once more in it (`product_type`).
    each = 3 * _FP32 + (2 if device.type == "cuda" else 0)
    features = each * (width + sum(dims)) * (resident + travelling)
    matrix = _FP32 * resident * travelling
    tile = min(tile_bytes(device), matrix)
    if sigmoid:
        return features + _LIVE_OF_SIGMOID * tile
    all_of_it = len(rule.exponents) * matrix
    room = [max(int(KEPT * _FP32 * d * travelling), KEPT_TILES * tile_bytes(device)) for d in (width, *dims)]
    kept = sum(min(all_of_it, each) for each in room)
    live = _LIVE_OF_EACH_SIDE if rule.hardness or rule.margin is not None else _LIVE
    return features + kept + live * tile
