"""What the orchestrator's tests share: digits on disk, specs, the command, and one Ray for the session."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from jobspecs.cluster import Cluster
from jobspecs.job import JobSpec
from jobspecs.load import load
from orchestrator import driver, lease
from orchestrator.driver import Driver
from orchestrator.interrupt import Interrupt
from orchestrator.ledger import Ledger, Status
from orchestrator.prepare import prepare
from orchestrator.report import leave
from orchestrator.views.lines import LinesView
from workers.data.demo import write_demo

EXAMPLE = Path(__file__).parents[2] / "jobspecs" / "examples" / "digits_clip.yaml"

TINY = (
    "model.image.width=32",
    "model.image.layers=1",
    "model.image.heads=2",
    "model.text.width=32",
    "model.text.layers=1",
    "model.text.heads=2",
    "model.embedding_dim=16",
    "training.global_batch=32",
)
"""Overrides that make the digits job small: a step takes some 20 ms."""


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the driver does within some seconds or else leaves is done, however busy the machine's disk."""
    monkeypatch.setattr(driver, "AT_ONCE_SECONDS", 600.0)
    monkeypatch.setattr(lease, "GIVE_BACK_SECONDS", 600.0)
    monkeypatch.setattr(leave, "SECONDS", 600.0)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the digits, train/ and test/."""
    folder = tmp_path_factory.mktemp("digits")
    write_demo("digits", folder)
    return folder


@pytest.fixture(scope="session")
def ray_cluster(s3_server: str) -> Iterator[None]:
    """The Ray that the tests of a session share. Workers inherit the S3 server's credentials."""
    from orchestrator.ray_cluster import start_ray

    os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # a job of some seconds is seen too
    start_ray(Cluster(workers=3))
    yield
    import ray

    ray.shutdown()


def overrides(data: Path | str, root: Path | str, *more: str) -> tuple[str, ...]:
    """Overrides of the example: data and runs elsewhere, and whatever else."""
    return (
        f"data.sources.0.urls=['{data}/train/{{00000..00003}}.tar']",
        f"evaluations.0.data.urls=['{data}/test/*.tar']",
        f"storage.root={root}",
        *more,
    )


def digits_spec(data: Path | str, root: Path | str, *more: str) -> JobSpec:
    """The digits example with `overrides`."""
    return load(EXAMPLE, overrides(data, root, *more))


def drive(spec: JobSpec, interrupt: Interrupt | None = None) -> Status:
    """Runs a job in this process, on the session's Ray."""
    view = LinesView(Console(file=io.StringIO()))
    prepared = prepare(spec)
    state = Driver(prepared, view, interrupt or Interrupt()).run()
    status = Ledger(prepared.storage, prepared.run).status()
    assert status.state == state.label
    return status
