"""A short sequence of faults; `make chaos` has the others, and longer ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobspecs.storage import S3
from tests.chaos.faults import damage_checkpoint, kill_driver, kill_node, kill_worker, storage_outage
from tests.chaos.play import check, digits_in, play, reference
from tests.chaos.stage import Stage
from tests.faulty_proxy import FaultyProxy
from workers.storage import Storage

pytestmark = pytest.mark.ray


def test_a_disturbed_job_is_the_same_experiment(s3_server: str, tmp_path: Path) -> None:
    Storage(S3(endpoint=s3_server))._s3.client.create_bucket(Bucket="chaos")
    with FaultyProxy(s3_server) as proxy, Stage(digits_in(tmp_path), proxy) as stage:
        expected = reference(stage, "s3://chaos/undisturbed")
        faults = [kill_node, storage_outage, damage_checkpoint, kill_driver, kill_worker]
        told = play(stage, "s3://chaos/disturbed", faults)
        check(stage, told, expected)
        assert len(told.done) >= 4, told
