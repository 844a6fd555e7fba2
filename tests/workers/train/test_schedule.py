"""Schedules, value by value."""

from __future__ import annotations

import math

import pytest

from jobspecs.training import AdamW, Constant, Cosine, Rsqrt, Schedule, Training
from workers.train.schedule import learning_rate


def _training(warmup_steps: int, final_fraction: float = 0.0) -> Training:
    return _with(Cosine(kind="cosine", warmup_steps=warmup_steps, final_fraction=final_fraction))


def _with(schedule: Schedule) -> Training:
    return Training(global_batch=8, steps=100, optimizer=AdamW(kind="adamw", learning_rate=2.0), schedule=schedule)


def test_warm_up_is_linear_and_ends_at_the_peak() -> None:
    rates = [learning_rate(step, 100, _training(4)) for step in range(6)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0  # the cosine begins at the peak
    assert rates[5] < 2.0


def test_cosine_half_way_and_at_its_ends() -> None:
    training = _training(0, final_fraction=0.1)
    assert learning_rate(0, 100, training) == 2.0
    assert learning_rate(50, 100, training) == pytest.approx(2.0 * 0.55)
    assert learning_rate(25, 100, training) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert learning_rate(100, 100, training) == pytest.approx(0.2)
    assert 0.2 < learning_rate(99, 100, training) < 0.202


def test_falls_from_the_peak_on() -> None:
    rates = [learning_rate(step, 100, _training(10)) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert max(rates) == 2.0
    assert min(rates) > 0


@pytest.mark.parametrize("total_steps", [1, 3, 4])
def test_a_run_within_its_warm_up(total_steps: int) -> None:
    rates = [learning_rate(step, total_steps, _training(4)) for step in range(total_steps)]
    assert rates == [0.5, 1.0, 1.5, 2.0][:total_steps]


def test_constant_stays_at_the_peak() -> None:
    training = _with(Constant(kind="constant", warmup_steps=4))
    assert [learning_rate(step, 100, training) for step in (0, 3, 4, 50, 99)] == [0.5, 2.0, 2.0, 2.0, 2.0]


def test_rsqrt_falls_with_the_root_of_the_step_and_cools_down() -> None:
    training = _with(Rsqrt(kind="rsqrt", warmup_steps=10, timescale=30, cooldown_steps=20))
    rates = [learning_rate(step, 100, training) for step in range(100)]
    assert rates[:10] == [pytest.approx(2.0 * (step + 1) / 10) for step in range(10)]
    assert rates[10] == 2.0
    assert rates[40] == pytest.approx(2.0 / math.sqrt(2))  # a timescale after the warm-up
    # As big_vision says it: 1 / sqrt((step + timescale - warmup) / timescale).
    assert rates[79] == pytest.approx(2.0 / math.sqrt((79 + 30 - 10) / 30))
    assert rates[80] == pytest.approx(2.0 / math.sqrt((80 + 30 - 10) / 30))  # the cooldown begins
    assert rates[90] == pytest.approx(2.0 / math.sqrt((90 + 30 - 10) / 30) / 2)
    assert rates[99] == pytest.approx(2.0 / math.sqrt((99 + 30 - 10) / 30) / 20)
    assert learning_rate(100, 100, training) == 0


def test_rsqrt_without_cooldown_does_not_know_its_end() -> None:
    training = _with(Rsqrt(kind="rsqrt", timescale=30))
    assert [learning_rate(step, 100, training) for step in range(100)] == [
        learning_rate(step, 1000, training) for step in range(100)
    ]
