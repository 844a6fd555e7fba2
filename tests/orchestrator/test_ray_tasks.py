"""What becomes of the errors of tasks, and of those that do not end, without Ray: its answers are played."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError, WorkerCrashedError

from jobspecs.errors import DataError, JobFailedError
from jobspecs.schedule import TaskResources
from orchestrator import ray_cluster, ray_tasks
from orchestrator.elastic import Node
from orchestrator.holders import Holder
from orchestrator.ray_tasks import TasksLostError, answers

WITH_GPU = TaskResources(cpus=2, gpus=1)


@pytest.fixture
def cancelled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The tasks that were ended. A task answers with what it was started by, at once."""
    found: list[object] = []
    monkeypatch.setattr(ray, "wait", lambda waiting, timeout: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(ray, "get", lambda references: references)
    monkeypatch.setattr(ray, "cancel", lambda reference, force: found.append(reference))
    return found


@pytest.fixture
def looks(cancelled: list[object], monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`looks(n)`: nothing ends before the nodes were looked at so many times, each time that is waited."""
    for name in ("LOOK_SECONDS", "QUIET_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(ray_tasks, name, 0.0)

    def quiet(times: int) -> None:
        left = [None] * times

        def wait(waiting: list[object], timeout: float) -> tuple[list[object], list[object]]:
            return ([], waiting) if left and left.pop() is None else (waiting, [])

        monkeypatch.setattr(ray, "wait", wait)

    return quiet


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NodeDiedError("its node is gone"), TasksLostError),
        (RayTaskError("_mine", "an argument was lost", WorkerCrashedError()), TasksLostError),
        (RayTaskError("_mine", "ValueError: odd", ValueError("odd")), JobFailedError),
    ],
)
def test_what_was_lost_is_told_from_what_a_task_raised(
    error: RayError, kind: type[JobFailedError], cancelled: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(references: object) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(JobFailedError, match=r"^mining failed: .+\. Call again$") as raised:
        list(answers(str, [1, 2], 2, "mining", "groups", "Call again"))
    assert type(raised.value) is kind
    assert (isinstance(raised.value.__cause__, RayError), cancelled) == (True, ["1", "2"])
    assert (kind is TasksLostError) == (not isinstance(raised.value.__cause__, RayTaskError))


def interrupts(*arguments: object, **more: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["while it waits", "in the check"])
def test_an_interrupt_ends_the_tasks(where: str, cancelled: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    if where == "while it waits":
        monkeypatch.setattr(ray, "wait", interrupts)
    check = interrupts if where == "in the check" else lambda: None
    with pytest.raises(KeyboardInterrupt):
        list(answers(str, [1, 2], 2, "mining", "groups", "Call again", check=check))
    assert cancelled == ["1", "2"]


def test_an_error_that_a_task_answers_with_ends_the_others(cancelled: list[object]) -> None:
    with pytest.raises(DataError, match="cut"):
        list(answers(lambda call: DataError("cut") if call == 2 else call, [1, 2, 3], 3, "mining", "groups", "Again"))
    assert len(cancelled) == 2, "the first had answered"


def test_tasks_that_no_node_can_hold_are_waited_for_so_long_and_no_longer(
    cancelled: list[object],
    looks: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ray_cluster, "nodes", lambda: (Node("n", 8, 0), Node("m", 1, 4)))
    looks(1)
    with pytest.raises(
        JobFailedError,
        match=r"^embedding 2 shards: waited 0 s for a node with 2 CPU and 1 GPU \(cluster\.wait_seconds\), and there "
        r"is none\. Add nodes, or let a task reserve less: by --cpus and --gpus of `tandem embed`, by .+\. Again$",
    ):
        list(answers(str, [1, 2], 2, "embedding", "shards", "Again", needs=WITH_GPU, wait_seconds=0.0))
    assert cancelled == ["1", "2"]
    told = "embedding 2 shards: waiting up to 0 s for a node with 2 CPU and 1 GPU, which the cluster has none of\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("wait_seconds", [600.0, math.inf])
def test_a_node_that_comes_in_time_is_all_that_was_waited_for(
    wait_seconds: float,
    cancelled: list[object],
    looks: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nodes = [(Node("n", 8, 1),), (Node("n", 8, 0),), ()]
    monkeypatch.setattr(ray_cluster, "nodes", lambda: nodes.pop())
    looks(2)
    found = answers(str, [1], 1, "embedding", "shards", "Again", needs=WITH_GPU, wait_seconds=wait_seconds)
    assert list(found) == [(1, "1")]
    most = "" if math.isinf(wait_seconds) else " up to 600 s"
    told = f"embedding 1 shards: waiting{most} for a node with 2 CPU and 1 GPU, which the cluster has none of\n"
    assert capsys.readouterr().err == told, "once"
    assert not cancelled


def test_tasks_that_take_long_are_told_with_those_who_have_the_room(
    looks: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_cluster, "nodes", lambda: (Node("n", 8, 1),))
    monkeypatch.setattr(ray_tasks, "holders", lambda: [Holder("other", {"CPU": 7.0, "GPU": 1.0})])
    monkeypatch.setattr(ray_tasks, "AGAIN_SECONDS", 600.0)
    looks(3)
    assert list(answers(str, [1], 1, "embedding", "shards", "Again", needs=WITH_GPU, wait_seconds=0.0)) == [(1, "1")]
    told = (
        "embedding 1 shards: none has ended for 0 s; each needs 2 CPU and 1 GPU, and others hold other (7 CPU, 1 GPU)\n"
    )
    assert capsys.readouterr().err == told, "once in a while"
    monkeypatch.setattr(ray_tasks, "holders", list)
    looks(1)
    assert list(answers(str, [1], 1, "mining", "groups", "Again")) == [(1, "1")]
    assert capsys.readouterr().err == "mining 1 groups: none has ended for 0 s\n"


def test_a_ray_that_does_not_answer_tells_nothing_of_the_nodes(
    looks: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def silent() -> None:
        raise RayError("the head is away")

    monkeypatch.setattr(ray_cluster, "nodes", silent)
    looks(2)
    assert list(answers(str, [1], 1, "embedding", "shards", "Again", needs=WITH_GPU, wait_seconds=0.0)) == [(1, "1")]
    assert not capsys.readouterr().err
