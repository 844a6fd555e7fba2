"""A few samples of data of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobspecs.errors import DataError
from jobspecs.load import loads
from tests.orchestrator.report.told_run import PAIRS, write_tar
from tests.workers.tiny_job import SPEC, broken, scans, write_shards
from workers.data.decode import decode_views
from workers.evaluate import sample
from workers.evaluate.sample import draw
from workers.storage import Storage


def test_samples_come_from_all_over_the_shards_and_no_more_than_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample, "SHARDS", 3)
    write_shards(tmp_path / "data", list(scans()[:24]), 6)
    drawn = draw(Storage(), loads(SPEC % "data").data, [f"{tmp_path}/data/*.tar"], 5)
    assert drawn.texts == {"text": [scans()[number].caption for number in (0, 2, 8, 4, 10)]}
    assert (len(drawn), drawn.skipped, drawn.negatives) == (5, 0, [[]] * 5)


def test_pixels_are_those_that_evaluations_see_and_what_is_damaged_is_left_out(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", [scans()[0], broken(scans()[1]), scans()[2]], 1)
    data = loads(SPEC % "data").data
    drawn = draw(Storage(), data, [f"{tmp_path}/data/*.tar"], 10)
    assert (len(drawn), drawn.skipped) == (2, 1)
    assert data.image is not None
    view = np.empty((1, 32, 32, 3), np.uint8)
    decode_views(scans()[2].jpeg, data.image, None, view)
    assert drawn.images is not None
    np.testing.assert_array_equal(drawn.images[1], view[0])


def test_negatives_are_no_reason_to_leave_a_sample_out(tmp_path: Path) -> None:
    pair = {"query.txt": b"q", "document.txt": b"d"}
    lists = (b'["a", 3, "b"]', b"no list", b'{"a": 1}', None)
    samples = [pair if listed is None else {**pair, "negatives.json": listed} for listed in lists]
    write_tar(tmp_path / "0.tar", samples)
    drawn = draw(Storage(), loads(PAIRS % "data").data, [f"{tmp_path}/*.tar"], 10)
    assert drawn.images is None
    assert drawn.negatives == [["a", "b"], [], [], []]


def test_missing_shards_are_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere"):
        draw(Storage(), loads(SPEC % "data").data, [f"{tmp_path}/nowhere/*.tar"], 5)
