"""One rank of an attempt: what a worker of Ray Train runs, with the log that is kept of it, its beats and figures."""

from __future__ import annotations

import pickle
import sys
import traceback
from typing import Any

from jobspecs.redaction import black_out, redacted
from orchestrator.beating import Beating
from orchestrator.exporter import RankTelemetry
from orchestrator.keep_log import KeepLog
from workers.train.task import Outcome, TrainTask


def run_rank(config: dict[str, Any]) -> Outcome:
    """Takes the attempt that the driver has left at the desk (`desk.py`), and trains. config: `desk`, its handle."""
    import ray
    import ray.train

    desk = config["desk"]
    # Before anything that takes time: the next attempt is not for a rank that is about to be replaced.
    task: TrainTask = pickle.loads(ray.get(desk.take.remote()))
    rank = ray.train.get_context().get_world_rank()
    with KeepLog(task.spec.storage.s3, task.run, attempt=task.attempt, rank=rank):
        try:
            from workers.train.loop import train  # seconds of imports, which the driver does without

            with (
                Beating(desk, task.attempt, rank),
                RankTelemetry(task.spec.name, task.attempt, rank) as telemetry,
            ):
                return train(task, telemetry.step)
        except BaseException as error:
            black_out(error)  # Ray logs it
            # Ray Train passes the error on without its traceback.
            told = redacted(traceback.format_exc())
            print(told, end="", file=sys.stderr)
            desk.tell.remote(task.attempt, rank, told)
            raise
