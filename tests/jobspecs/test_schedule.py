"""When and on what an evaluation is done changes nothing of what it says."""

from __future__ import annotations

from typing import Any

import pytest

from jobspecs.data import EvaluationData
from jobspecs.evaluation import Knn, evaluation_hash
from jobspecs.schedule import Schedule, TaskResources

OTHERS = {
    "every_checkpoints": 3,
    "at_end": True,
    "best_only": "another",
    "resources": TaskResources(cpus=4, gpus=1),
    "retries": 7,
    "timeout_seconds": 5.0,
}


def near(**fields: Any) -> Knn:
    data = EvaluationData(urls=["a.tar"])
    return Knn(kind="knn", name="a", data=data, train=data, **fields)


@pytest.mark.parametrize("field", Schedule.model_fields)
def test_a_result_stays_one_of_its_evaluation(field: str) -> None:
    assert evaluation_hash(near(**{field: OTHERS[field]})) == evaluation_hash(near())
    assert evaluation_hash(near(k=7)) != evaluation_hash(near())
