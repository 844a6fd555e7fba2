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
    """On two nodes. The first two faults cost an attempt each, which is most of the time; `kill_driver` is left to
    tests/orchestrator/test_run.py."""
    Storage(S3(endpoint=s3_server))._s3.client.create_bucket(Bucket="chaos")
    with FaultyProxy(s3_server) as proxy, Stage(digits_in(tmp_path), proxy, others=1) as stage:
        told = play(stage, "s3://chaos/disturbed", ["cut_data", "kill_node", "unavailable_save"])
        check(stage, told, list(reference(stage.ledger, tmp_path / "reference").metrics()))
        assert len(told.done) >= 2, told
