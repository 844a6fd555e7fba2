"""The benchmark of the training step, at a tiny size."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.benchmarks.step import AIMS, Plan, Seconds, contestants, summary, timed
from tests.ranks import run_ranks

PLAN = Plan(batch=8, pixels=16, width=16, layers=1, rounds=2)


def _on_rank() -> tuple[dict[str, list[float]], Seconds]:
    """The losses of three steps of each, and the benchmark's result."""
    losses = {name: [step() for _ in range(3)] for name, step in contestants(PLAN, torch.device("cpu")).items()}
    return losses, timed(PLAN)


@functools.cache
def found() -> tuple[dict[str, list[float]], Seconds]:
    return run_ranks(_on_rank, 1)[0]


@pytest.mark.parametrize("name", ["tandem", "cached"])
def test_all_train_alike(name: str) -> None:
    """Otherwise the times would be those of different things."""
    losses, _ = found()
    # AdamW's first steps are as long for a small gradient as for a large one: rounding counts for more than elsewhere.
    assert losses[name] == pytest.approx(losses["bare"], rel=1e-4)
    assert losses[name][0] - losses[name][-1] > 0.01


def test_steps_are_measured() -> None:
    _, seconds = found()
    assert seconds.keys() == {"tandem", "bare", "cached"}
    assert all(len(of_rounds) == PLAN.rounds and min(of_rounds) > 0 for of_rounds in seconds.values())
    assert summary(seconds).keys() == {"benchmark", "ratios", "aims", "machine"}


def test_ratios_are_larger_where_tandem_is_better() -> None:
    told = summary({"tandem": [1.0, 2.0, 3.0], "bare": [2.0, 1.0, 9.0], "cached": [3.0, 4.0, 2.0]})
    assert told["ratios"] == {"bare": 1.0, "direct": 0.5}
    assert told["aims"] == AIMS
    assert (told["benchmark"], list(told)[-1]) == ("step", "machine")
