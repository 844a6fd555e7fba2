"""One attempt: a Ray Train worker group that runs the training loop once, without retries of its own."""

from __future__ import annotations

import os
import pickle
import tempfile
import traceback
from typing import Any

from jobspecs.cluster import Cluster
from jobspecs.redaction import black_out
from orchestrator.beating import Beating
from orchestrator.exporter import RankTelemetry
from orchestrator.failure import AttemptFailedError
from orchestrator.keep_log import KeepLog
from orchestrator.ray_cluster import nodes, resources
from orchestrator.root_cause import classify
from workers.train.loop import Outcome, TrainTask, train


def run_attempt(task: TrainTask, cluster: Cluster, world_size: int, beats: Any) -> Outcome:
    """Runs `task` on a new worker group of `world_size` ranks, which beat for `Monitor.beats`, and waits for its end.

    Raises AttemptFailedError.
    """
    before = {node.id for node in nodes()}
    try:
        # Ray's own bookkeeping. Ours, checkpoints included, goes to the run directory.
        with tempfile.TemporaryDirectory(prefix="tandem-ray-train-") as bookkeeping:
            return _fit(task, cluster, world_size, beats, bookkeeping)
    except Exception as error:
        raise AttemptFailedError(classify(error, before - {node.id for node in nodes()})) from error


def _fit(task: TrainTask, cluster: Cluster, world_size: int, beats: Any, bookkeeping: str) -> Outcome:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    _ask_this_ray()
    trainer = TorchTrainer(
        _worker,
        # The task as bytes: Ray Train's controller would unpickle it too, and import all that training needs first.
        train_loop_config={
            "task": pickle.dumps(task),
            "beats": beats,
            "s3": task.spec.storage.s3,
            "run": task.run,
            "job": task.spec.name,
            "attempt": task.attempt,
        },
        torch_config=TorchConfig(backend=cluster.backend, timeout_s=cluster.collective_timeout_seconds),
        scaling_config=ray.train.ScalingConfig(
            num_workers=world_size,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=resources(cluster),
        ),
        run_config=ray.train.RunConfig(
            name=f"{task.run.name}-a{task.attempt:05d}",
            storage_path=bookkeeping,
            # The attempt is ours to repeat, also when the group does not come up or a node is taken away.
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
    outcome: Outcome = trainer.fit().return_value
    return outcome


def _ask_this_ray() -> None:
    """Ray Train asks a dashboard whether its controller lives. Left to itself, that of the Ray that was started last on
    the machine: where it is another one or dead, each attempt ends 12 s late."""
    import ray
    from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

    if url := ray._private.worker.get_dashboard_url():
        os.environ["RAY_API_SERVER_ADDRESS"] = f"http://{url}"
        ENV_VARS_TO_PROPAGATE.add("RAY_API_SERVER_ADDRESS")


def _worker(config: dict[str, Any]) -> Outcome:
    import ray.train

    rank = ray.train.get_context().get_world_rank()
    with KeepLog(config["s3"], config["run"], attempt=config["attempt"], rank=rank):
        try:
            with (
                Beating(config["beats"], rank),
                RankTelemetry(config["job"], config["attempt"], rank) as telemetry,
            ):
                return train(pickle.loads(config["task"]), telemetry.step)
        except BaseException as error:
            black_out(error)  # what is printed is kept, and Ray logs it
            traceback.print_exc()  # Ray Train tells it to the driver, and not to the rank's log
            raise
