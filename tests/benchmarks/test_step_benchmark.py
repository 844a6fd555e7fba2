"""The benchmark of the training step, at a tiny size."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.benchmarks import step_cuda
from tests.benchmarks.step import AIMS, Plan, Seconds, contestants, on_gpu, summary, timed
from tests.ranks import run_ranks
from workers.models.build import tower_sizes

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


TINY = step_cuda.Towers(
    pixels=32,
    tandem="""{
        image: {kind: transformer, width: 64, layers: 1, heads: 1, patch: 16},
        text: {kind: transformer, width: 16, layers: 1, heads: 1},
        embedding_dim: 8
    }""",
    open_clip={
        "vision_cfg": {"layers": 1, "width": 64, "patch_size": 16, "image_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49_408, "width": 16, "heads": 1, "layers": 1},
    },
    embedding_dim=8,
)


def _gpu_part() -> list[str]:
    return step_cuda.measure_cuda((4,), rounds=1, device="cpu", towers=TINY)


def test_the_gpu_part_runs_anywhere() -> None:
    heading, tandem, open_clip, ratio = run_ranks(_gpu_part, 1)[0]
    assert heading == "on cpu, bf16, one rank:"
    assert tandem.startswith("B = 4: tandem ")
    assert open_clip.startswith("B = 4: open_clip ")
    assert ratio.startswith("B = 4: Tandem's samples/s over open_clip's: ")


@pytest.mark.parametrize("towers", [step_cuda.VIT_B_32, TINY])
def test_towers_are_as_large_as_open_clips(towers: step_cuda.Towers) -> None:
    with torch.device("meta"):
        theirs = sum(parameter.numel() for parameter in step_cuda.open_clip_towers(towers).parameters())
    spec = step_cuda.spec_of(towers, 2)
    ours = tower_sizes(spec.model, spec.data, {"text": step_cuda.TOKENIZER})
    assert sum(tower.trained for tower in ours.values()) + 1 == theirs  # and the logit scale


def test_without_a_gpu_it_says_that_it_needs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert on_gpu() == [step_cuda.GPU_NEEDED]
