"""`tandem eval` of a run: what its spec and another's evaluations have to do with each other, and one that fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobspecs.errors import DataError, SpecError, UnreachableError
from jobspecs.job import JobSpec
from jobspecs.load import load
from orchestrator import evaluate_alone as module
from orchestrator.evaluate_alone import chosen, scored
from orchestrator.results import failures
from tests.orchestrator.conftest import EXAMPLE, digits_spec
from tests.orchestrator.played_tasks import sections


def a_run(spec: JobSpec) -> Any:
    return SimpleNamespace(spec=spec)


def test_evaluations_that_do_not_fit_the_run_are_told_by_file_and_field(tmp_path: Path) -> None:
    ours = digits_spec("/data", "/runs", "objective={kind: two_view}", *IMAGES_ALONE)
    with pytest.raises(SpecError) as raised:
        chosen(a_run(ours), EXAMPLE, ())
    assert str(raised.value) == (
        f"1 fault in the spec\n  {EXAMPLE} (evaluations.0.kind): a zero_shot evaluation needs data.image and data.text"
    )


IMAGES_ALONE = ("data.image.views=2", "data.text=", "model.text=", "evaluations=[]")


def test_evaluations_of_another_spec_are_done_on_the_runs_columns() -> None:
    ours = digits_spec("/data", "/runs", "checkpoint={every_steps: null, every_minutes: 5}")
    (evaluation,) = chosen(a_run(ours), EXAMPLE, ())
    assert evaluation.name == load(EXAMPLE).evaluations[0].name


def test_one_that_fails_leaves_the_others_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {"b": RuntimeError("CUDA out of memory"), "c": DataError("no label"), "d": None, "e": None}

    def score(evaluation: Any, encoder: object, step: int, checkpoint: str) -> Any:
        if fault := faults.get(evaluation.name):
            raise fault
        return SimpleNamespace(to_json=lambda: json.dumps({"evaluation": evaluation.name}).encode())

    written: list[str] = []

    def write(evaluation: Any, content: bytes) -> None:
        if evaluation.name == "d":
            raise UnreachableError("no answer")
        written.append(evaluation.name)

    monkeypatch.setattr(module, "score", score)
    spec = digits_spec("/data", "/runs", sections(Path("/data"), "a", "b", "c", "d", "e"))
    told: list[str] = []
    encoder: Any = None
    results = scored(spec.evaluations, encoder, 8, "file:///runs/a", told.append, write)
    assert [result["evaluation"] for result in results] == ["a", "b", "c", "d", "e"]
    assert written == ["a", "e"]
    assert len(told) == 5
    oom, *others = failures(results)
    assert oom.startswith("evaluation b of step 8 failed: RuntimeError: CUDA out of memory (score, line ")
    assert others == ["evaluation c of step 8 failed: no label", "evaluation d of step 8 failed: no answer"]


def test_what_a_failure_quotes_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    def score(*_: object) -> None:
        raise RuntimeError("denied: planted-token")

    monkeypatch.setenv("HF_TOKEN", "planted-token")
    monkeypatch.setattr(module, "score", score)
    encoder: Any = None
    (result,) = scored(digits_spec("/data", "/runs").evaluations, encoder, 8, "uri", lambda message: None)
    assert result["failed"].startswith("RuntimeError: denied: *** (score, ")
