"""The benchmark of evaluations beside training: what it makes of metrics and events."""

from __future__ import annotations

import pytest

from tests.benchmarks.evaluations import WARM_UP_STEPS, evaluated, summary, table, throughput


def test_throughput_counts_what_lies_in_the_spans() -> None:
    warm_up = [{"time": 0.0, "samples": 0}] * WARM_UP_STEPS
    times = (1.0, 2.0, 4.0, 5.0, 9.0)
    metrics = [*warm_up, *({"time": time, "samples": 10 * number} for number, time in enumerate(times))]
    assert throughput(metrics, []) == 40 / 8
    assert throughput(metrics, [(1.5, 5.5)]) == 20 / 3
    with pytest.raises(AssertionError, match="give it more --seconds"):
        throughput(metrics, [(20.0, 30.0)])


def test_when_evaluations_ran() -> None:
    kinds = ("evaluation_started", "attempt_started", "evaluation_finished", "evaluation_started", "evaluation_failed")
    events = [{"event": kind, "evaluation": "a", "step": 8, "time": float(at)} for at, kind in enumerate(kinds)]
    assert evaluated(events) == [(0.0, 2.0)]


def test_the_ratios_are_smaller_where_evaluations_cost_something() -> None:
    found = {"alone": [100.0, 90.0, 110.0], "stranger": [96.0, 95.0, 97.0], "evaluations": [96.0, 80.0, 97.0]}
    assert summary(found)["ratios"] == {"evaluations / alone": 0.96, "evaluations / stranger": 1.0}
    assert table(found).row_count == 3
