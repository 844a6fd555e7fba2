"""A short sequence of faults; `make chaos` has the others, and longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspecs.storage import S3
from tests.chaos.play import check, digits_in, play
from tests.chaos.stage import Stage
from tests.faulty_proxy import FaultyProxy
from tests.orchestrator.reference import reference
from workers.storage import Storage

pytestmark = pytest.mark.ray


def test_a_disturbed_job_is_the_same_experiment(s3_server: str, tmp_path: Path) -> None:
    """On two nodes: each fault costs an attempt, but the last; an attempt costs up to half a minute on two cores."""
    Storage(S3(endpoint=s3_server))._s3.client.create_bucket(Bucket="chaos")
    with FaultyProxy(s3_server) as proxy, Stage(digits_in(tmp_path), proxy, others=1) as stage:
        names = ["cut_data", "kill_node", "kill_job", "unavailable_save"]
        told = play(stage, "s3://chaos/disturbed", names)
        check(stage, told, list(reference(stage.ledger, tmp_path / "reference").metrics()))
        assert len(told.done) >= 3, told
