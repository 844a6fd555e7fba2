"""Random combinations of options, shapes, masks and tiles, in one process; and each loss's gradient against finite
differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import workers.losses.contrast
import workers.losses.tiles
from tests.workers.losses.cases import TOLERANCE, relative_error
from tests.workers.losses.reference import Options, Rows, infonce_loss, ntxent_loss, of_prefixes, siglip_loss
from workers.losses.infonce import infonce
from workers.losses.ntxent import ntxent
from workers.losses.pairs import Pairs, gather_pairs
from workers.losses.rule import Prefixes, Rule
from workers.losses.siglip import siglip


@st.composite
def draw_options(draw: st.DrawFn, loss: str, d: int) -> Options:
    direction = draw(st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    dims = draw(st.lists(st.integers(1, d), max_size=2, unique=True))
    return Options(
        to_travelling=direction if loss == "infonce" else 1.0,
        to_resident=1 - direction if loss == "infonce" else 0.0,
        label_smoothing=0.0 if loss == "siglip" else draw(st.sampled_from([0.0, 0.1, 0.9])),
        hardness=0.0 if loss == "siglip" else draw(st.sampled_from([0.0, 0.1, 1.0, 3.0])),
        margin=draw(st.sampled_from([None, -0.5, 0.05, 0.3])),
        dims=tuple(dims),
        dim_weights=tuple(0.5 + i for i in range(len(dims))),
    )


@st.composite
def draw_rows(draw: st.DrawFn, n: int, negatives: int, kinds: int) -> Rows:
    def lists(of: st.SearchStrategy[Any], size: int) -> list[Any]:
        return draw(st.lists(of, min_size=size, max_size=size))

    key = st.tuples(*[st.sampled_from([0, 1, -(2**60), 2**60])] * kinds)
    weights = st.sampled_from([0.0, 0.5, 1.0, 20.0])
    valid = st.sampled_from([True, True, False])
    return Rows(lists(valid, n), lists(weights, n), lists(key, n), lists(valid, negatives), lists(key, negatives))


def pairs_of(rows: Rows, views: int) -> Pairs:
    keys, negative_keys = (torch.tensor(keys, dtype=torch.int64) for keys in (rows.keys, rows.negative_keys))
    kinds = len(rows.keys[0])
    return gather_pairs(
        torch.tensor(rows.valid),
        weight=torch.tensor(rows.weight, dtype=torch.float64),
        keys=keys if kinds else None,
        negatives_valid=torch.tensor(rows.negative_valid, dtype=torch.bool),
        negative_keys=negative_keys.reshape(-1, kinds) if kinds else None,
        views=views,
    )


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("loss", ["infonce", "ntxent", "siglip"])
def test_any_combination(loss: str, data: st.DataObject) -> None:
    m, d = data.draw(st.integers(1, 6), "m"), data.draw(st.integers(1, 5), "d")
    views, K = 2 if loss == "ntxent" else 1, data.draw(st.integers(0, 2), "K") if loss == "infonce" else 0
    options = data.draw(draw_options(loss, d), "options")
    rows = data.draw(draw_rows(m * views, m * K, data.draw(st.integers(0, 2), "kinds")), "rows")
    scale, bias = data.draw(st.sampled_from([0.01, 1.0, 14.3, 60.0, 100.0]), "scale"), -2.0
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**32), "seed"))

    shapes = [(2 * m, d)] if loss == "ntxent" else [(m * (1 + K), d), (m, d)]
    features = [F.normalize(torch.randn(*s, dtype=torch.float64, generator=generator), dim=-1) for s in shapes]
    scalars = [torch.tensor(scale, dtype=torch.float64), torch.tensor(bias, dtype=torch.float64)]
    ours, theirs = ([leaf.clone().requires_grad_() for leaf in (*features, *scalars)] for _ in range(2))

    rule = Rule(
        options.to_travelling,
        options.to_resident,
        label_smoothing=options.label_smoothing,
        hardness=options.hardness,
        margin=options.margin,
    )
    more: dict[str, Any] = {"pairs": pairs_of(rows, views), "prefixes": Prefixes(options.dims, options.dim_weights)}
    with pytest.MonkeyPatch.context() as patch:
        columns = data.draw(st.integers(1, 13), "tile columns")
        patch.setattr(workers.losses.tiles, "TILE_BYTES", columns * len(features[0]) * 8)
        patch.setattr(workers.losses.contrast, "PLAIN_LOGIT", data.draw(st.sampled_from([0.0, 70.0]), "plain logit"))
        *sides, s, b = ours
        if loss == "infonce":
            found = infonce(*sides, s, rule=rule, **more)
        elif loss == "ntxent":
            found = ntxent(sides[0].unflatten(0, (-1, 2)), s, rule=rule, **more)
        else:
            found = siglip(*sides, s, b, margin=options.margin, **more)
        found.backward()

    *sides, s, b = theirs
    losses: dict[str, Callable[..., Tensor]] = {
        "infonce": lambda *sides: infonce_loss(*sides, s, rows, options),
        "ntxent": lambda *sides: ntxent_loss(*sides, s, rows, options),
        "siglip": lambda *sides: siglip_loss(*sides, s, b, rows, options),
    }
    expected = of_prefixes(losses[loss], sides, options)
    expected.backward()

    # Sums that cancel (d = 1, or one valid row) have nothing of their own size. Their terms have: up to the scale.
    floor = max(1.0, scale) * (1 + options.hardness)
    assert relative_error(found.detach(), expected.detach(), floor) < TOLERANCE
    for one, other in zip(ours, theirs, strict=True):
        if other.grad is not None:
            assert one.grad is not None
            assert relative_error(one.grad, other.grad, floor) < TOLERANCE


RULE = Rule(0.3, 0.7, label_smoothing=0.2, hardness=0.5)


@pytest.mark.parametrize("loss", ["infonce", "infonce, every option", "ntxent", "ntxent, every option", "siglip"])
def test_gradcheck(loss: str) -> None:
    generator = torch.Generator().manual_seed(0)
    A, T = torch.randn(10, 3, dtype=torch.float64, generator=generator).split([6, 4])
    valid, scale = torch.tensor([True, True, False, True]), torch.tensor(3.0, dtype=torch.float64)
    weight = torch.tensor([1.0, 2.0, 3.0, 0.5])
    prefixes = Prefixes((2,), (0.5,)) if loss.endswith("every option") else None
    rule = RULE if loss.endswith("every option") else Rule()
    if loss.startswith("infonce"):
        pairs = gather_pairs(valid, weight=weight, negatives_valid=torch.tensor([True, False]))
        inputs = [A, T, scale]
        function = lambda A, T, s: infonce(A, T, s, rule=rule, pairs=pairs, prefixes=prefixes)  # noqa: E731
    elif loss.startswith("ntxent"):
        pairs = gather_pairs(valid.repeat_interleave(2), weight=weight.repeat(2), views=2)
        inputs = [torch.randn(4, 2, 3, dtype=torch.float64, generator=generator), scale]
        function = lambda Z, s: ntxent(Z, s, rule=rule, pairs=pairs, prefixes=prefixes)  # noqa: E731
    else:
        pairs = gather_pairs(valid, weight=weight)
        inputs = [A[:4], T, scale, torch.tensor(-1.0, dtype=torch.float64)]
        function = lambda A, T, s, b: siglip(A, T, s, b, pairs=pairs)  # noqa: E731
    assert torch.autograd.gradcheck(function, [leaf.clone().requires_grad_() for leaf in inputs])
