"""Features that travel in 16 bits: the loss of features so rounded, whoever has them; and gradients near the exact."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tests.ranks import run_ranks
from workers.losses.infonce import infonce
from workers.losses.ntxent import ntxent
from workers.losses.pairs import gather_pairs
from workers.losses.rule import Rule
from workers.losses.siglip import siglip

B, D, K = 512, 32, 1
WORLD_SIZES = (1, 2, 4)
FP16, BF16 = torch.float16, torch.bfloat16
NAMES = (
    "infonce",
    "collapsed",
    "one direction",
    "hard negatives",
    "heavy weights",
    "light weights",
    "ntxent",
    "siglip",
)

Found = dict[str, Tensor]


def inputs_of(name: str) -> tuple[list[Tensor], Tensor]:
    """Features of all rows (resident and travelling; of NT-Xent, all views), and the rows' weights; float64."""
    generator = torch.Generator().manual_seed(4)
    first, second, third = torch.randn(3, B, D, dtype=torch.float64, generator=generator)
    second = first + second  # related, as in training
    if name == "collapsed":  # every query's first choice is one and the same row
        first, second = first[:1] + 0.01 * first, 0.3 * second
        second[7] = first[0]
    weight = torch.rand(B, dtype=torch.float64, generator=generator) + 0.5
    weight = weight * {"heavy weights": 1e6, "light weights": 1e-6}.get(name, 1.0)
    if name == "ntxent":
        sides = [torch.stack([first, second], 1).flatten(0, 1)]
    elif name == "hard negatives":
        sides = [torch.cat([first, third]), second]
    else:
        sides = [first, second]
    return [F.normalize(side, dim=-1).float().double() for side in sides], weight


def measured(name: str, wire: torch.dtype | None, *, exact: bool) -> Found:
    """The loss of all rows over the ranks, and the features' gradients on this one; in fp32, or in float64."""
    N, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    sides, weight = inputs_of(name)
    if exact and wire is not None:  # rounded here, and not on the way
        sides = [*sides[:-1], sides[-1].to(wire).double()]
    parts = []
    for side in sides:
        rows = side.unflatten(0, (-1, B * (2 if name == "ntxent" else 1)))  # (1 + K, B, d)
        rows = rows.unflatten(1, (N, -1))[:, rank].flatten(0, 1)
        parts.append((rows if exact else rows.float()).requires_grad_())
    weight = weight.unflatten(0, (N, -1))[rank]
    weight = weight if exact else weight.float()
    scale = torch.tensor(20.0, dtype=parts[0].dtype, requires_grad=True)
    valid = torch.ones(B // N, dtype=torch.bool)
    way: dict[str, Any] = {"wire": None if exact else wire}
    if name == "ntxent":
        pairs = gather_pairs(valid.repeat_interleave(2), weight=weight.repeat_interleave(2), views=2)
        loss = ntxent(parts[0].unflatten(0, (-1, 2)), scale, pairs=pairs, **way)
    else:
        negatives = torch.ones(len(parts[0]) - len(valid), dtype=torch.bool)
        pairs = gather_pairs(valid, weight=weight, negatives_valid=negatives)
        if name == "siglip":
            loss = siglip(*parts, scale, torch.tensor(-8.0), pairs=pairs, **way)
        else:
            rule = {"one direction": Rule(1.0, 0.0), "collapsed": Rule(1.0, 0.0), "hard negatives": Rule(0.0, 1.0)}
            loss = infonce(*parts, scale, rule=rule.get(name, Rule()), pairs=pairs, **way)
    loss.backward()
    value = loss.detach().clone()
    if N > 1:
        dist.all_reduce(value)
    found = {"loss": value / N, "scale": scale.grad}
    for number, part in enumerate(parts):
        found[f"features {number}"] = part.grad.double() / N
    return found


def on_rank() -> dict[tuple[str, torch.dtype | None], Found]:
    return {(name, wire): measured(name, wire, exact=False) for name in NAMES for wire in (None, FP16, BF16)}


@functools.cache
def outcomes(N: int) -> list[dict[tuple[str, torch.dtype | None], Found]]:
    """[rank]"""
    return [on_rank()] if N == 1 else run_ranks(on_rank, N)


def whole(N: int, name: str, wire: torch.dtype | None) -> Found:
    """What the ranks found, with the rows in the order of one process."""
    of_ranks = [results[name, wire] for results in outcomes(N)]
    found = {key: of_ranks[0][key] for key in ("loss", "scale")}
    for key in of_ranks[0].keys() - found.keys():
        count = 2 if name == "hard negatives" and key == "features 0" else 1
        found[key] = torch.cat([of[key].unflatten(0, (count, -1)) for of in of_ranks], 1).flatten(0, 1)
    return found


@functools.cache
def exact(name: str, wire: torch.dtype | None) -> Found:
    return measured(name, wire, exact=True)


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("wire", [None, FP16, BF16])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("N", WORLD_SIZES)
def test_is_the_loss_of_features_so_rounded(N: int, name: str, wire: torch.dtype | None) -> None:
    """Own rows are rounded as all others are. Gradients come back with one rounding of the type for each rank."""
    found, expected = whole(N, name, wire), exact(name, wire)
    assert error(found["loss"], expected["loss"]) < 2e-6
    assert error(found["scale"], expected["scale"]) < 1e-4
    step = {None: 0.0, FP16: 2**-11, BF16: 2**-8}[wire]
    last = len(found) - 3
    for number in range(last + 1):
        key = f"features {number}"
        # A resident side's gradient does not travel, and neither does NT-Xent's.
        travels = number == last and name != "ntxent"
        assert error(found[key], expected[key]) < (N * step if travels else 0) + 1e-5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("N", WORLD_SIZES)
def test_fp16_is_about_a_tenth_of_bf16_off(N: int, name: str) -> None:
    """Of the gradient of features that are not rounded. Three bits more are an eighth."""
    true = exact(name, None)
    for key in sorted(key for key in true if key.startswith("features")):
        in_fp16, in_bf16 = (error(whole(N, name, wire)[key], true[key]) for wire in (FP16, BF16))
        assert in_fp16 < 4e-3
        assert in_bf16 < 4e-2
        assert 1 / 16 < in_fp16 / in_bf16 < 1 / 5


@pytest.mark.parametrize("N", WORLD_SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_no_row_is_lost_in_fp16(N: int, name: str) -> None:
    """Each row's own gradient, the smallest too, has the type's digits."""
    found, expected = whole(N, name, FP16), exact(name, FP16)
    last = f"features {len(found) - 3}"
    rows = (found[last] - expected[last]).norm(dim=1) / expected[last].norm(dim=1)
    assert rows.isfinite().all()
    assert rows.max() < 2e-2
