"""One attempt: a Ray Train worker group that runs the training loop once, without retries of its own."""

from __future__ import annotations

import tempfile
from typing import Any

from jobspecs.cluster import Cluster
from jobspecs.errors import UsageError
from orchestrator.monitor import Beating
from workers.train.loop import Outcome, TrainTask, train

_COLLATERAL = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
"""What the other ranks say when one has died under a collective."""


class AttemptFailedError(Exception):
    """The worker group failed. `cause` is one line for people, `details` the whole story; `final` when the spec is to
    blame, and another attempt would end the same way."""

    def __init__(self, cause: str, details: str, final: bool = False) -> None:
        super().__init__(cause, details, final)
        self.cause = cause
        self.details = details
        self.final = final


def run_attempt(task: TrainTask, cluster: Cluster, beats: Any) -> Outcome:
    """Runs `task` on a new worker group and waits for its end; its ranks beat for `Monitor.beats`. Raises
    AttemptFailedError."""
    # Ray's own bookkeeping. Ours, checkpoints included, goes to the run directory.
    with tempfile.TemporaryDirectory(prefix="tandem-ray-train-") as bookkeeping:
        return _fit(task, cluster, beats, bookkeeping)


def _fit(task: TrainTask, cluster: Cluster, beats: Any, bookkeeping: str) -> Outcome:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        _worker,
        train_loop_config={"task": task, "beats": beats},
        torch_config=TorchConfig(backend=cluster.backend, timeout_s=cluster.collective_timeout_seconds),
        scaling_config=ray.train.ScalingConfig(
            num_workers=cluster.workers,
            use_gpu=cluster.gpus_per_worker > 0,
            resources_per_worker=_resources(cluster),
        ),
        run_config=ray.train.RunConfig(
            name=f"{task.run.name}-a{task.attempt:05d}",
            storage_path=bookkeeping,
            # The attempt is ours to repeat, also when the group does not come up.
            failure_config=ray.train.FailureConfig(max_failures=0, controller_failure_limit=0),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        final = any(isinstance(failure, UsageError) for failure in failures.values())
        raise AttemptFailedError(_cause(failures, error), str(error), final) from error
    outcome: Outcome = result.return_value
    return outcome


def _worker(config: dict[str, Any]) -> Outcome:
    import ray.train

    with Beating(config["beats"], ray.train.get_context().get_world_rank()):
        return train(config["task"])


def _resources(cluster: Cluster) -> dict[str, float]:
    resources = {"CPU": float(cluster.cpus_per_worker)}
    return resources | ({"GPU": float(cluster.gpus_per_worker)} if cluster.gpus_per_worker else {})


def _cause(failures: dict[int, Exception], error: Exception) -> str:
    """The failure that explains the others, in a line: `rank 1: DataError: …`."""
    lines = {rank: _line(failure) for rank, failure in sorted(failures.items())}
    own = {rank: line for rank, line in lines.items() if not any(words in line for words in _COLLATERAL)}
    for rank, line in (own or lines).items():
        return f"rank {rank}: {line}"
    return _line(error)


def _line(error: Exception) -> str:
    """The type and the last line of an exception: of one that Ray wraps, its traceback's last line."""
    text = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {text[-1]}"
