"""The ranks of a job: a worker group of Ray Train that is started anew for the next attempt where it can be.

    crew.desk(world_size)          before an attempt: of the group that there is, else of the one that will be
    crew.run(task)                 the attempt
    crew.standing()                after one that failed: on how many workers the next would start at once
    crew.dismiss()                 it starts otherwise, later, or not at all

Ray Train starts failed ranks anew by itself, in a fraction of the time that a new run of it takes, and whatever they
failed of. So its controller asks first (`controller.py`), and waits while the driver finds out what has happened,
decides, and prepares the next attempt. A group that has lost one of its nodes would wait for it: it is dismissed, and
the next attempt starts on what the cluster has then.
"""

from __future__ import annotations

import pickle
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jobspecs.cluster import Cluster
from orchestrator import ray_cluster
from orchestrator.desk import DismissedError, Errors, Order, open_desk
from orchestrator.failure import AttemptFailedError
from orchestrator.kill_workers import kill_workers
from workers.train.task import Outcome, TrainTask

if TYPE_CHECKING:
    from ray.train import WorkerGroupError

POLL_SECONDS = 0.2
END_SECONDS, QUIET_SECONDS = 60.0, 5.0
"""A run of Ray Train that shall end is not waited for any longer. It ends by itself if it waits to be told, or else its
ranks are killed."""
TEXTS, CHARACTERS = 4, 4000
"""How many errors the events of the run keep of a failed attempt, and how much of each: its end."""


class Crew:
    """Has at most one group at a time."""

    def __init__(self, name: str, cluster: Cluster, hang_after_seconds: float) -> None:
        """name: the run's, for Ray Train."""
        self._name = name
        self._cluster = cluster
        self._hang_after_seconds = hang_after_seconds
        self._group: Group | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.dismiss(END_SECONDS if kind is None or issubclass(kind, Exception) else 0.0)

    def standing(self) -> int | None:
        """How many workers wait to be started anew; None where none do."""
        return self._group.world_size if self._group is not None and self._group.stands() else None

    def desk(self, world_size: int) -> Any:
        """The desk of the group that will run the attempt, for its `Monitor`: of the one that stands, if it has that
        size."""
        if self.standing() != world_size:
            self.dismiss()
            self._group = Group(self._name, self._cluster, world_size, self._hang_after_seconds)
        assert self._group is not None
        return self._group.desk

    def run(self, task: TrainTask) -> Outcome:
        """Runs an attempt on the group that `desk` was asked for, and waits for its end. Raises AttemptFailedError."""
        assert self._group is not None, "desk() comes first"
        return self._group.run(task)

    def dismiss(self, patience_seconds: float = END_SECONDS) -> None:
        """Ends the group, if there is one, and kills its ranks if they run. Waits for that, no longer than said."""
        if self._group is not None:
            self._group.end(patience_seconds)
            self._group = None


class Group:
    """One run of Ray Train: a controller, and the ranks of one attempt after the other."""

    def __init__(self, name: str, cluster: Cluster, world_size: int, hang_after_seconds: float) -> None:
        self.world_size = world_size
        self.desk = open_desk(hang_after_seconds)
        self._name = name
        self._cluster = cluster
        self._nodes: set[str] = set()
        """Of the ranks that failed."""
        self._thread = threading.Thread(target=self._run, name="ray-train", daemon=True)
        self._result: Outcome | BaseException | None = None
        self._waits = False
        """Whether the controller waits to be told what comes next."""
        self._is_over = False

    def stands(self) -> bool:
        """Whether its ranks can start anew at once."""
        if not self._waits or not self._thread.is_alive():
            return False
        return not ray_cluster.draining_nodes() & self._nodes and self._nodes <= ray_cluster.answering()

    def run(self, task: TrainTask) -> Outcome:
        """Runs an attempt, and waits for its end. Raises AttemptFailedError."""
        before = ray_cluster.answering()
        errors = self._attempt(Order(task.attempt, self.world_size, pickle.dumps(task)))
        if errors is None and isinstance(self._result, Outcome):
            return self._result

        from orchestrator.root_cause import classify  # torch, which the driver starts without

        lost = before - ray_cluster.answering()
        if errors is None:
            error = self._result or DismissedError("the ranks were dismissed")
            assert isinstance(error, BaseException)
            raise AttemptFailedError(classify(error, lost)) from error
        # Where a rank is that never beat, nobody has told.
        self._nodes = set(errors.places.values()) if len(errors.places) == self.world_size else before
        group_error = _group_error(errors)
        failure = classify(group_error, lost)
        failure = replace(failure, details=_details(failure.rank, group_error, errors.told))
        raise AttemptFailedError(failure) from group_error

    def end(self, patience_seconds: float) -> None:
        """Ends the run of Ray Train, and waits for that as long as said."""
        import ray

        deadline = time.monotonic() + patience_seconds
        if self._thread.is_alive():
            self.desk.dismiss.remote()
            if self._waits:
                self._thread.join(min(QUIET_SECONDS, patience_seconds))
            while self._thread.is_alive():
                kill_workers(max(0.0, min(ray_cluster.ANSWER_SECONDS, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    break
                self._thread.join(1.0)
        self._is_over = True
        ray.kill(self.desk)

    def _attempt(self, order: Order) -> Errors | None:
        """Runs an attempt until its ranks have failed, and returns what of; None where the run of Ray Train has ended
        instead, well or not, or is not waited for any longer."""
        import ray
        from ray.exceptions import RayError

        self._waits = False
        failed = self.desk.attempt.remote(order)
        if self._thread.ident is None:
            self._thread.start()
        while self._thread.is_alive() and not self._is_over:
            if not ray.wait([failed], timeout=POLL_SECONDS)[0]:
                continue
            try:
                errors: Errors = ray.get(failed)
                self._waits = True
                return errors
            except RayError:  # the desk starts anew
                time.sleep(POLL_SECONDS)
                failed = self.desk.attempt.remote(order)
        return None

    def _run(self) -> None:
        try:
            # Ray's own bookkeeping. Ours, checkpoints included, goes to the run directory.
            with tempfile.TemporaryDirectory(prefix="tandem-ray-train-") as folder:
                self._result = self._fit(folder)
        except BaseException as error:
            self._result = error

    def _fit(self, bookkeeping: str) -> Outcome:
        import ray.train
        from ray.train.torch import TorchConfig, TorchTrainer

        from orchestrator.controller import AskFirst
        from orchestrator.rank import run_rank

        cluster = self._cluster
        trainer = TorchTrainer(
            run_rank,
            train_loop_config={"desk": self.desk},
            torch_config=TorchConfig(backend=cluster.backend, timeout_s=cluster.collective_timeout_seconds),
            scaling_config=ray.train.ScalingConfig(
                num_workers=self.world_size,
                use_gpu=cluster.gpus_per_worker > 0,
                resources_per_worker=ray_cluster.resources(cluster),
            ),
            run_config=ray.train.RunConfig(
                name=self._name,
                storage_path=bookkeeping,
                callbacks=[AskFirst(self.desk)],
                # As often as the driver says; never where a group does not come up.
                failure_config=ray.train.FailureConfig(
                    max_failures=-1, controller_failure_limit=0, max_preemption_failures=-1
                ),
            ),
        )
        outcome: Outcome = trainer.fit().return_value
        return outcome


def _group_error(errors: Errors) -> WorkerGroupError:
    """What Ray Train would have raised."""
    from ray.train import WorkerGroupError

    failures: dict[int, Exception] = {}
    for rank, pickled in sorted(errors.pickled.items()):
        try:
            failures[rank] = pickle.loads(pickled)
        except Exception as error:  # of a type that this process does not know
            failures[rank] = error
    return WorkerGroupError(f"{len(failures)} ranks", failures)


def _details(first: int | None, error: WorkerGroupError, told: Mapping[int, str]) -> str:
    """What the ranks told, or else Ray of them, each text once, that of the rank which failed first at the top."""
    ranks: dict[str, list[int]] = {}
    for rank, failure in sorted(error.worker_failures.items(), key=lambda item: (item[0] != first, item[0])):
        text = told.get(rank) or f"{type(failure).__name__}: {failure}"
        ranks.setdefault(text[-CHARACTERS:], []).append(rank)
    texts = [f"[{_named(of)}]\n{text}" for text, of in list(ranks.items())[:TEXTS]]
    if left := sum(len(of) for of in list(ranks.values())[TEXTS:]):
        texts.append(f"[{left} ranks more]\nThe logs of the ranks have it.")
    return "\n".join(texts)


def _named(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
