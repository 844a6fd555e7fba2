"""Round numbers, short series, and words for seconds."""

from __future__ import annotations

import pytest

from orchestrator.report.scale import Bin, Scale, duration, number, thin, ticks


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 5.0, [0, 1, 2, 3, 4, 5]),
        (0.2, 4.9, [1, 2, 3, 4]),
        (14.22, 14.3, [14.22, 14.24, 14.26, 14.28, 14.3]),
        (0.0, 1e-3, [0, 2e-4, 4e-4, 6e-4, 8e-4, 1e-3]),
        (-2e6, 2e6, [-2e6, -1e6, 0, 1e6, 2e6]),
    ],
)
def test_ticks_are_round_numbers_between_the_ends(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_a_scale_holds_all_values_between_round_numbers() -> None:
    scale = Scale.over([0.3, 4.7], 100, 0)
    assert (scale.low, scale.high, scale(0.0), scale(2.5), scale(5.0)) == (0, 5, 100, 50, 0)
    same = Scale.over([3.0], 0, 10)
    assert same.low < 3 < same.high
    assert Scale.over([], 0, 10)(0.5) == 5


def test_a_long_series_becomes_a_short_one_with_its_extremes() -> None:
    points = [(float(step), float(step % 2)) for step in range(1000)]
    bins = thin(points, 10)
    assert bins == [Bin(99.0 + 100 * place, 0.5, 0.0, 1.0, 100) for place in range(10)]


def test_a_series_has_a_hole_where_a_whole_bin_has_no_number() -> None:
    points = [(0.0, 1.0), (1.0, None), (2.0, float("nan")), (3.0, 2.0)]
    assert [point and point.mean for point in thin(points, 4)] == [1.0, None, 2.0]
    assert [point and point.mean for point in thin(points, 2)] == [1.0, 2.0]


def test_numbers_and_durations_in_words() -> None:
    values = (0.0, 0.3 - 0.1, 12345.6, -1.5, 6e-5, 3e15, None, float("nan"))
    assert [number(value) for value in values] == ["0", "0.2", "12,346", "-1.5", "6e-05", "3e+15", "–", "–"]
    seconds = (0.42, 12, 59.6, 200, 3600, 7500, 100_000)
    assert [duration(each) for each in seconds] == [
        "0.4 s", "12 s", "60 s", "3 min 20 s", "1 h", "2 h 5 min", "1 d 3 h",
    ]  # fmt: skip
