"""The request to stop, as rank 0 sees it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from workers.storage import Storage
from workers.train import stop
from workers.train.stop import AT_ONCE, StopWatch


@pytest.mark.parametrize(("word", "saves"), [(b"interrupted", True), (b"whatever", True), (AT_ONCE, False)])
def test_ranks_save_but_where_the_job_ends_at_once(
    word: bytes, saves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "POLL_SECONDS", 0.01)
    looks = 0

    class Seen(Storage):
        def read(self, uri: str) -> bytes:
            nonlocal looks
            looks += 1
            return super().read(uri)

    uri = f"file://{tmp_path}/stop"
    with StopWatch(Seen(), uri) as watch:
        assert not watch.requested
        Storage().write(uri, word)
        before, deadline = looks, time.monotonic() + 60
        while looks < before + 2 and not watch.requested:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert watch.requested is saves
