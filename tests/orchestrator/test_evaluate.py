"""What an evaluation task does in its process, with scores that are played; what it reserves."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobspecs.cluster import Cluster
from jobspecs.errors import DataError, UnreachableError, UsageError
from jobspecs.schedule import TaskResources
from orchestrator import evaluate as module
from orchestrator.due import Fault, MainScore
from orchestrator.evaluate import Began, Ended, evaluate, fault_of
from orchestrator.evaluation_task import reserved
from orchestrator.ray_cluster import check_evaluations
from tests.orchestrator.conftest import digits_spec
from tests.orchestrator.played_tasks import sections
from workers.run import RunDirectory
from workers.storage import Storage


def test_one_encoder_does_all_and_a_fault_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(f"file://{tmp_path}/run")
    encoders: list[str] = []

    def encoder_of(spec: object, run: RunDirectory, checkpoint: str) -> Any:
        encoders.append(checkpoint)
        return SimpleNamespace(storage=Storage())

    def score(evaluation: Any, encoder: object, step: int, checkpoint: str) -> Any:
        if evaluation.name == "b":
            raise ValueError("it is wrong")
        scores = SimpleNamespace(main="rank", scores={"rank": 2.0}, higher_is_better=False)
        return SimpleNamespace(result=scores, seconds=1.5, to_json=lambda: evaluation.name.encode())

    monkeypatch.setattr(module, "encoder_of", encoder_of)
    monkeypatch.setattr(module, "score", score)
    spec = digits_spec("/data", "/runs", sections(Path("/data"), "a", "b", "c"))
    began_a, a, began_b, b, began_c, c = evaluate(spec, run, 8, spec.evaluations)
    assert [began_a, began_b, began_c] == [Began("a"), Began("b"), Began("c")]
    assert isinstance(a, Ended)
    assert isinstance(b, Ended)
    assert a.score == MainScore("rank", 2.0, higher_is_better=False)
    assert b.fault is not None
    assert b.fault.cause.startswith("ValueError: it is wrong (score, line ")
    assert isinstance(c, Ended)
    assert c.score is not None
    assert encoders == [run.checkpoint(8)]
    assert Storage().read(run.evaluation(8, "c")) == b"c"
    assert not Storage().exists(run.evaluation(8, "b"))


def test_what_another_try_could_mend() -> None:
    assert fault_of(DataError("no label")) == Fault("no label", final=True)
    assert fault_of(UnreachableError("no answer")) == Fault("no answer")


def test_a_task_reserves_what_a_worker_does_unless_told_otherwise() -> None:
    assert reserved(None, Cluster(cpus_per_worker=4, gpus_per_worker=2)) == TaskResources(cpus=4, gpus=1)
    assert reserved(None, Cluster()) == TaskResources(cpus=1, gpus=0)
    assert reserved(TaskResources(cpus=2), Cluster(gpus_per_worker=1)) == TaskResources(cpus=2, gpus=0)


def test_what_the_machine_never_has_is_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 3.0})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    check_evaluations(digits_spec("/data", "/runs", "evaluations.0.resources={cpus: 3}"))
    with pytest.raises(UsageError) as told:
        check_evaluations(digits_spec("/data", "/runs", "evaluations.0.resources={gpus: 1}"))
    assert str(told.value) == (
        "evaluation 'held-out-digits' asks for 1 GPUs, the machine has 0. Lower evaluations.0.resources.gpus."
    )
