"""The benchmark of the data path, as far as it goes without its peers."""

from __future__ import annotations

from pathlib import Path

import pytest
import simplejpeg

from tests.benchmarks.data import AIMS, summary
from tests.benchmarks.data_measure import Result, RunFailedError, measure
from tests.benchmarks.data_stores import write_tars
from tests.benchmarks.photos import photos


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("64x48")
    write_tars(folder / "tar", photos(64, 48, 64), 64)
    return folder


def test_photos_are_the_same_each_time_and_all_different() -> None:
    first = list(photos(64, 48, 20))
    assert first == list(photos(64, 48, 20))
    assert len({jpeg for jpeg, _ in first}) == len({caption for _, caption in first}) == 20
    assert {simplejpeg.decode_jpeg(jpeg).shape for jpeg, _ in first} == {(48, 64, 3)}


@pytest.mark.parametrize("contestant", ["bare", "tandem"])
def test_a_run_is_measured(folder: Path, contestant: str) -> None:
    result = measure(contestant, folder, endpoint=None, processes=2, batch=8, seconds=0.05)
    assert result.samples_per_second > 0
    assert result.samples_per_cpu_second > 0
    assert (result.first_batch_seconds is None) == (contestant == "bare")
    assert result.peak_bytes > 0


def test_a_run_without_a_result_tells_what_it_said(folder: Path) -> None:
    with pytest.raises(RunFailedError, match=r"(?s)tandem gave no result:.*8 batches are too few"):
        measure("tandem", folder, endpoint=None, processes=5, batch=8, seconds=0.05)


def test_the_summary_has_the_lowest_ratio_of_all_cases() -> None:
    def rates(wall: float, core: float) -> Result:
        return Result(wall, core, first_batch_seconds=None, peak_bytes=0)

    medians = {
        ("s", "disk", "tandem"): rates(90, 50),
        ("s", "disk", "webdataset"): rates(30, 25),
        ("s", "s3", "tandem"): rates(80, 60),
        ("s", "s3", "webdataset"): rates(40, 20),
        ("s", "memory", "bare"): rates(100, 50),
    }
    told = summary(medians)
    assert told["ratios"] == {"webdataset": 2.0, "bare": 0.8}
    assert told["ratios_per_core"] == {"webdataset": 2.0, "bare": 1.0}
    assert told["aims"] == AIMS
    assert (told["benchmark"], list(told)[-1]) == ("data", "machine")
