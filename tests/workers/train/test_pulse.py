"""What a process says of what it does."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.ranks import run_ranks
from tests.workers.tiny_job import scans, write_run, write_shards
from workers.train.loop import train
from workers.train.pulse import Moment, Pulse, pulse
from workers.train.task import TrainTask


def test_a_step_its_phases_and_their_details() -> None:
    pulse = Pulse()
    assert pulse.read() == Moment(0, "start", "", 0)
    pulse.phase("load", "model")
    assert pulse.read() == Moment(0, "load", "model", 1)
    shards = ["first.tar"]
    pulse.phase("data", lambda: shards[0], step=4)
    shards[0] = "second.tar"
    assert pulse.read() == Moment(4, "data", "second.tar", 2), "words are made when they are read"
    pulse.phase("forward")
    assert pulse.read() == Moment(4, "forward", "", 3)
    pulse.phase("forward")
    pulse.moved()
    assert pulse.read() == Moment(4, "forward", "", 5), "another micro-batch is progress"


def test_what_moves_is_progress_of_the_phases_that_wait_for_it() -> None:
    pulse = Pulse()
    for phase, progress in (("save", 1), ("backward", 0), ("end", 1)):
        pulse.phase(phase)
        before = pulse.read().moves
        pulse.moved(of=("save", "end"))
        assert pulse.read().moves - before == progress


def test_each_phase_is_timed() -> None:
    now = [0.0]
    pulse = Pulse(lambda: now[0])
    for phase, seconds in (("data", 1.0), ("forward", 2.0), ("backward", 4.0), ("forward", 8.0), ("update", 16.0)):
        pulse.phase(phase)
        now[0] += seconds
    assert pulse.take_seconds() == {"start": 0.0, "data": 1.0, "forward": 10.0, "backward": 4.0, "update": 16.0}
    now[0] += 0.5
    pulse.phase("save")
    now[0] += 0.25
    assert pulse.take_seconds() == {"update": 0.5, "save": 0.25}, "what goes on is counted up to the call"


def phases_of(task: TrainTask) -> list[tuple[int, str, str]]:
    """Step, phase and detail of all that a rank says while it trains."""
    said, say = [], pulse.phase

    def listen(*args: Any, **more: Any) -> None:
        say(*args, **more)
        said.append(pulse.read()[:3])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pulse, "phase", listen)
        train(task)
    return said


def test_the_loop_says_what_it_does(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", list(scans()[:20]), shards=1)
    shard = f"file://{tmp_path}/data/00000.tar"
    task = write_run(tmp_path / "run", tmp_path / "data", ("training.steps=2", "training.micro_batch=4"))
    (said,) = run_ranks(phases_of, 1, task)
    assert [phase for step, phase, _ in said if step == 0] == ["start", *["load"] * 4]
    for step in (1, 2):
        phases = [phase for phase, _ in itertools.groupby(phase for at, phase, _ in said if at == step)]
        if step == 2:
            assert phases.pop() == "end"
        assert phases[:3] == ["data", "gather", "forward"]
        assert phases[3] == "gather"
        assert set(phases[4:-2]) == {"forward", "backward", "gather"}, "what kept no graph is encoded again"
        assert phases[-2:] == ["update", "save"]
    first, second = [detail for _, phase, detail in said if phase == "data"]
    assert first == "", "nothing is waited for yet"
    assert second.endswith(f", {shard}")
