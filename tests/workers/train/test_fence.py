"""Attempts are claimed once, and one that was replaced is told so: in both kinds of storage."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from jobspecs.storage import S3
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.fence import FencedError, attempts, check_not_superseded, claim_attempt, newest_driver


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, RunDirectory]:
    if request.param == "file":
        return Storage(), RunDirectory(f"file://{tmp_path}/run")
    storage, bucket = Storage(S3(endpoint=request.getfixturevalue("s3_server"))), f"bucket-{uuid4().hex}"
    storage._s3.client.create_bucket(Bucket=bucket)
    return storage, RunDirectory(f"s3://{bucket}/run")


def test_an_attempt_is_claimed_once(place: tuple[Storage, RunDirectory]) -> None:
    storage, run = place
    assert attempts(storage, run) == []

    def claim(token: str) -> FencedError | None:
        try:
            claim_attempt(storage, run, 3, token)
        except FencedError as error:
            return error
        return None

    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip("abcd", pool.map(claim, "abcd"), strict=True))
    (winner,) = [token for token, answer in answers.items() if answer is None]
    assert claim(winner) is None  # as when the answer to its write got lost
    (loser, *_) = {"a", "b"} - {winner}
    assert str(pickle.loads(pickle.dumps(answers[loser]))) == (
        f"attempt 3 of run was claimed by another driver ({run.uri}/attempts/a00003.json). Leave the run to that one, "
        "or start this job again when it has ended."
    )
    assert attempts(storage, run) == [3]


def test_an_attempt_is_superseded_by_later_ones_only(place: tuple[Storage, RunDirectory]) -> None:
    storage, run = place
    for number in (1, 2, 3):
        claim_attempt(storage, run, number, "token")
    storage.write(f"{run.attempts}/notes.txt", b"not a record")
    check_not_superseded(storage, run, 3, driver=0)
    check_not_superseded(storage, run, 4, driver=0)
    with pytest.raises(FencedError) as raised:
        check_not_superseded(storage, run, 1, driver=0)
    assert str(raised.value) == (
        f"attempt 1 of run was replaced by attempt 3 and must not commit: {run.uri}/attempts/a00003.json. Leave the "
        "run to that one."
    )


def test_an_attempt_whose_driver_was_replaced_is_superseded(place: tuple[Storage, RunDirectory]) -> None:
    """Also before the newer one has begun an attempt: it may wait for the room that this one takes."""
    storage, run = place
    assert newest_driver(storage, run) == 0
    for number in (1, 2):
        storage.write(run.driver(number), b"{}")
    assert newest_driver(storage, run) == 2
    check_not_superseded(storage, run, 5, driver=2)
    with pytest.raises(FencedError) as raised:
        check_not_superseded(storage, run, 5, driver=1)
    assert str(raised.value) == (
        "attempt 5 of run was begun by driver 1 and must not commit: driver 2 has the run "
        f"({run.uri}/drivers/00002.json). Leave it to that one."
    )
