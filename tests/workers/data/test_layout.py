"""How slots are shared out among sources, and lanes among ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.order import Layout, auto_lanes, lanes_of_rank, rows_per_rank, share_out

CASES = settings(deadline=None, max_examples=100)


@given(st.integers(1, 200), st.integers(1, 300))
@CASES
def test_ranks_share_the_lanes_out(world_size: int, lanes: int) -> None:
    shares = [lanes_of_rank(rank, world_size, lanes) for rank in range(world_size)]
    assert [lane for share in shares for lane in share] == list(range(lanes))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    layout = Layout(seed=0, global_batch=lanes * 3, lanes=lanes, window=8, slots=(lanes * 3,))
    assert rows_per_rank(world_size, layout) == max(sizes) * 3


@pytest.mark.parametrize(
    ("lanes", "slots", "message"),
    [
        (4, (10,), "global batch 10 is not a multiple of 4 lanes"),
        (5, (7, 2), r"the sources' slots \(7, 2\) don't add up to the batch of 10"),
        (5, (11,), r"the sources' slots \(11,\) don't add up"),
        (5, (), r"the sources' slots \(\) don't add up"),
    ],
)
def test_a_layout_that_does_not_fit(lanes: int, slots: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Layout(seed=0, global_batch=10, lanes=lanes, window=8, slots=slots)


def test_a_layout_of_json_is_the_same() -> None:
    slots: list[int] = [3, 5]
    assert Layout(0, 8, 2, 4, slots) == Layout(0, 8, 2, 4, (3, 5))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch", "lanes"),
    [
        (1, 1),
        (7, 1),
        (16, 2),
        (64, 8),
        (100, 10),
        (128, 16),
        (1000, 25),
        (1024, 32),
        (1536, 48),
        (32768, 1024),
    ],
)
def test_auto_lanes(batch: int, lanes: int) -> None:
    assert auto_lanes(batch) == lanes


@given(st.integers(1, 100_000))
@CASES
def test_auto_lanes_divide_the_batch(batch: int) -> None:
    lanes = auto_lanes(batch)
    assert batch % lanes == 0
    assert 1 <= lanes <= max(1, batch // 8)


@pytest.mark.parametrize(
    ("batch", "weights", "slots"),
    [
        (10, [1], (10,)),
        (10, [2, 1], (7, 3)),
        (10, [1, 2], (3, 7)),
        (10, [1, 1, 1], (4, 3, 3)),
        (11, [1, 1, 1], (4, 4, 3)),
        (10, [0.7, 0.2, 0.1], (7, 2, 1)),
        (10, [1, 1e-9], (10, 0)),
        (2, [1, 1, 1], (1, 1, 0)),
        (12, [1e308, 1e308, 1e308], (4, 4, 4)),
        (4, [5e-324, 5e-324], (2, 2)),
        (32768, [2_000_000_000.0, 70_000_000.0], (31660, 1108)),
    ],
)
def test_share_out(batch: int, weights: list[float], slots: tuple[int, ...]) -> None:
    assert share_out(batch, weights) == slots


@given(
    st.integers(1, 100_000),
    st.lists(st.floats(0, exclude_min=True, allow_infinity=False), min_size=1, max_size=8),
    st.integers(-3, 3),
)
@CASES
def test_share_out_is_in_proportion(batch: int, weights: list[float], power: int) -> None:
    slots = share_out(batch, weights)
    assert sum(slots) == batch
    total = float(sum(np.array(weights) / max(weights)))
    exact = [batch * (weight / max(weights)) / total for weight in weights]
    assert all(abs(slot - share) < 1 + 1e-6 for slot, share in zip(slots, exact, strict=True))
    assert share_out(batch, weights) == slots
    if all(1e-300 < weight < 1e300 for weight in weights):
        assert share_out(batch, [weight * 2.0**power for weight in weights]) == slots


@given(st.integers(1, 1000), st.lists(st.integers(1, 50), min_size=1, max_size=8))
@CASES
def test_larger_weights_have_no_fewer_slots(batch: int, weights: list[int]) -> None:
    slots = share_out(batch, [float(weight) for weight in weights])
    for one, its_slots in zip(weights, slots, strict=True):
        for other, other_slots in zip(weights, slots, strict=True):
            assert one <= other or its_slots >= other_slots
