"""What a run would have been with nothing around it and nothing in its way."""

from __future__ import annotations

from pathlib import Path

from jobspecs.load import loads
from jobspecs.storage import S3
from orchestrator.ledger import Ledger
from tests.ranks import run_ranks
from workers.run import RunDirectory, RunPlan
from workers.storage import Storage, absolute


def reference(ledger: Ledger, folder: Path) -> Ledger:
    """The record of the same run in the empty `folder`: one process trained it in one go, without Ray or a driver,
    with the spec, plan, indexes and tokenizers of the run in `ledger`, whose steps need not be done."""
    run = RunDirectory(absolute(str(folder)))
    for info in ledger.storage.list(ledger.run.uri):
        name = info.uri.removeprefix(ledger.run.uri)
        if name.startswith(("/spec.yaml", "/plan.json", "/index/", "/tokenizers/")):
            ledger.storage.write(run.uri + name, ledger.storage.read(info.uri))
    run_ranks(_train, 1, run, timeout_seconds=900)
    return Ledger(Storage(S3()), run)


def _train(run: RunDirectory) -> None:
    from workers.train.loop import train
    from workers.train.task import TrainTask

    storage = Storage(S3())
    spec = loads(storage.read(run.spec).decode(), run.spec)
    train(TrainTask(spec, RunPlan.from_json(storage.read(run.plan)), run, attempt=1, resume_from=None))
