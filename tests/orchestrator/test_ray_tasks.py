"""What becomes of the errors of tasks, without Ray: its answers are played."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError, WorkerCrashedError

from jobspecs.errors import JobFailedError
from orchestrator.ray_tasks import TasksLostError, answers


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (NodeDiedError("its node is gone"), TasksLostError),
        (RayTaskError("_mine", "an argument was lost", WorkerCrashedError()), TasksLostError),
        (RayTaskError("_mine", "ValueError: odd", ValueError("odd")), JobFailedError),
    ],
)
def test_what_was_lost_is_told_from_what_a_task_raised(
    error: RayError, kind: type[JobFailedError], monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled: list[object] = []

    def get(references: object) -> None:
        raise error

    monkeypatch.setattr(ray, "wait", lambda waiting, timeout: (waiting[:1], waiting[1:]))
    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "cancel", lambda reference, force: cancelled.append(reference))
    with pytest.raises(JobFailedError, match=r"^mining failed: .+\. Call again$") as raised:
        list(answers(str, [1, 2], 2, "mining", "groups", "Call again"))
    assert type(raised.value) is kind
    assert (isinstance(raised.value.__cause__, RayError), cancelled) == (True, ["1", "2"])
    assert (kind is TasksLostError) == (not isinstance(raised.value.__cause__, RayTaskError))
