"""The average of the weights under ranks and ZeRO stages against a loop in float64, and out of a checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from jobspecs.training import Ema
from tests.ranks import run_ranks
from tests.workers.train.saving import save
from tests.workers.train.tiny import BATCH, SPLIT_ALL, Tiny, on_engine, training, whole_state
from workers.storage import Storage
from workers.train.average import decay_at
from workers.train.checkpoint import CheckpointError, load, load_model
from workers.train.engine import Engine

DECAY, SAVED_AT, STEPS = 0.35, 3, 6
"""The decays of the warm-up are 2/11, 3/12, 4/13, and then more: the checkpoint is in its midst."""
STAGES = range(4)
AVERAGED = {*(name for name, p in Tiny().named_parameters() if p.requires_grad), "scaling"}


def _engine(stage: int, precision: str = "fp32", ema: Ema | None = Ema(decay=DECAY)) -> Engine:  # noqa: B008
    spec = training(stage, precision).model_copy(update={"ema": ema})
    return Engine(Tiny(), spec, BATCH // dist.get_world_size(), torch.device("cpu"), SPLIT_ALL)


def _step(tiny: Engine, step: int) -> dict[str, Tensor]:
    """Trains a step, in which a buffer changes too; returns the whole state."""
    tiny.module.scaling.add_(0.1)
    on_engine(tiny, range(step, step + 1))
    return whole_state(tiny)


@dataclass(frozen=True)
class Trained:
    """A training with a checkpoint in its middle, behind a step that was skipped."""

    states: list[dict[str, Tensor]]
    """The whole state at the start, and after each step that was not skipped."""
    skipped: dict[str, Tensor]
    """After the one that was."""


def _uri(root: Path, stage: int, ranks: int) -> str:
    return f"file://{root}/zero{stage}-{ranks}/checkpoints/step-{SAVED_AT:08d}"


def _train(root: Path, stage: int) -> Trained:
    tiny = _engine(stage)
    states = [whole_state(tiny), *(_step(tiny, step) for step in range(SAVED_AT - 1))]
    with tiny.accumulation():
        tiny.backward(tiny("first", torch.full((1, 5), torch.inf)).sum())
    tiny.step(1e-3)
    assert tiny.overflowed
    skipped = whole_state(tiny)
    save(f"file://{root}/zero{stage}-{dist.get_world_size()}", tiny, SAVED_AT)
    return Trained([*states, *(_step(tiny, step) for step in range(SAVED_AT, STEPS))], skipped)


def _train_all(root: Path) -> list[Trained]:
    return [_train(root, stage) for stage in STAGES]


def _resume(uri: str, stage: int, precision: str) -> list[dict[str, Tensor]]:
    tiny = _engine(stage, precision)
    load(Storage(), uri, tiny)
    return [whole_state(tiny), *(_step(tiny, step) for step in range(SAVED_AT, STEPS))]


def _resume_all(root: Path, of_ranks: int) -> dict[tuple[int, str], list[dict[str, Tensor]]]:
    """The whole state as loaded from the checkpoint of the next stage and `of_ranks`, and after each step then."""
    cases = [*((stage, "fp32") for stage in STAGES), (1, "bf16")]
    return {case: _resume(_uri(root, (case[0] + 1) % 4, of_ranks), *case) for case in cases}


def _without(root: Path) -> str:
    """What a run with an average says to the checkpoint of one without."""
    without = _engine(1, ema=None)
    save(f"file://{root}/without", without, SAVED_AT)
    load(Storage(), _uri(root, 0, 2), without)  # what it has no use for is left there
    with pytest.raises(CheckpointError) as raised:
        load(Storage(), f"file://{root}/without/checkpoints/step-{SAVED_AT:08d}", _engine(0))
    return str(raised.value)


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@pytest.fixture(scope="module")
def trained(root: Path) -> dict[int, list[Trained]]:
    """By number of ranks, then by stage."""
    return {ranks: run_ranks(_train_all, ranks, root)[0] for ranks in (1, 2)}


def _averages(states: list[dict[str, Tensor]], update: int) -> list[dict[str, Tensor]]:
    """Of each state but the first, number by number in float64; `update`: the number of the first."""
    average = {name: states[0][f"ema.{name}"].double() for name in AVERAGED}
    averages = []
    for number, state in enumerate(states[1:], update):
        d = min(DECAY, (1 + number) / (10 + number))
        average = {name: d * average[name] + (1 - d) * state[name].double() for name in AVERAGED}
        averages.append(average)
    return averages


def _check(states: list[dict[str, Tensor]], update: int) -> None:
    for state, expected in zip(states[1:], _averages(states, update), strict=True):
        assert {name for name in state if name.startswith("ema.")} == {f"ema.{name}" for name in AVERAGED}
        for name in AVERAGED:
            average = state[f"ema.{name}"]
            assert average.dtype == torch.float32
            torch.testing.assert_close(average.double(), expected[name], rtol=1e-6, atol=1e-7)
            assert not torch.equal(average, state[name])


def test_the_decay_warms_up() -> None:
    """At the first step the first weights are mostly forgotten; at 9 / (1 - decay) steps the decay is reached."""
    decays = [decay_at(update, 0.999) for update in (1, 2, 10, 8_980, 9_000, 10**6)]
    assert decays == pytest.approx([2 / 11, 3 / 12, 11 / 20, 8_981 / 8_990, 0.999, 0.999])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", [1, 2])
def test_is_that_of_a_loop_in_float64(trained: dict[int, list[Trained]], ranks: int, stage: int) -> None:
    states = trained[ranks][stage].states
    assert all(torch.equal(states[0][name], states[0][f"ema.{name}"]) for name in AVERAGED)
    _check(states, 1)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_skipped_step_leaves_it(trained: dict[int, list[Trained]], ranks: int) -> None:
    for of_stage in trained[ranks]:
        before = of_stage.states[SAVED_AT - 1]
        assert all(torch.equal(before[f"ema.{name}"], of_stage.skipped[f"ema.{name}"]) for name in AVERAGED)


@pytest.mark.parametrize(("ranks", "of_ranks"), [(1, 2), (2, 1)])
def test_goes_on_under_any_stage_and_number_of_ranks(
    trained: dict[int, list[Trained]], root: Path, ranks: int, of_ranks: int
) -> None:
    for (stage, precision), states in run_ranks(_resume_all, ranks, root, of_ranks)[0].items():
        source = trained[of_ranks][(stage + 1) % 4]
        assert all(torch.equal(states[0][name], value) for name, value in source.skipped.items())
        _check(states, SAVED_AT)
        if precision == "fp32":
            for name in (f"ema.{name}" for name in AVERAGED):
                torch.testing.assert_close(states[-1][name], source.states[-1][name], rtol=1e-4, atol=1e-6)


def test_evaluations_take_it(trained: dict[int, list[Trained]], root: Path) -> None:
    for stage in STAGES:
        state = trained[2][stage].skipped
        averaged, raw = Tiny(), Tiny()
        load_model(Storage(), _uri(root, stage, 2), averaged)
        load_model(Storage(), _uri(root, stage, 2), raw, raw=True)
        for name, value in averaged.state_dict().items():
            assert torch.equal(value, state[f"ema.{name}" if name in AVERAGED else name])
        assert all(torch.equal(value, state[name]) for name, value in raw.state_dict().items())


def test_a_run_without_it_and_one_with_it(trained: dict[int, list[Trained]], root: Path) -> None:
    """Without: its checkpoints are as they were. With: it does not begin an average in the middle of a run."""
    (message,) = run_ranks(_without, 1, root)
    assert "does not hold ema.first.0.weight, of 55 elements, once and whole: there is none of it" in message
    assert not list((root / "without").rglob("ema-*"))
