"""Settings of the micro-batch: how they are tried, how they shrink, and when they are refused."""

from __future__ import annotations

import pytest
import torch

from jobspecs.errors import UsageError
from workers.train.micro_batch import TRIES, MicroBatch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "rows", "whole"), [(None, 8, True), ("auto", 8, True), (3, 3, False), (8, 8, True), (99, 8, True)]
)
def test_rows_at_a_time(wanted: int | None, rows: int, whole: bool) -> None:
    setting = MicroBatch(wanted, 8, CPU)
    assert (setting.rows, setting.whole, setting.trying) == (rows, whole, wanted == "auto")


def test_a_setting_is_tried_for_some_steps_only() -> None:
    setting = MicroBatch("auto", 8, torch.device("cpu"))
    for _ in range(TRIES):
        assert setting.trying
        setting.succeeded()
    assert not setting.trying
    assert not setting.shrink()


def test_the_smallest_setting_is_one_row() -> None:
    setting = MicroBatch("auto", 5, torch.device("cpu"))
    sizes = [setting.rows]
    while setting.shrink():
        sizes.append(setting.rows)
    assert sizes == [5, 3, 2, 1]


def test_a_stated_size_does_not_shrink() -> None:
    setting = MicroBatch(4, 8, CPU)
    assert not setting.shrink()
    assert setting.rows == 4


def test_batch_normalisation_takes_the_batch_as_a_whole() -> None:
    with pytest.raises(
        UsageError,
        match=r"^training\.micro_batch: 4 of the 8 rows of a rank at a time, but a tower has batch normalisation, "
        r"which takes its statistics over the whole global batch at once: in parts it would be another experiment\. "
        r"Leave micro_batch out, use more workers, or choose a tower with layer or group normalisation\.$",
    ):
        MicroBatch(4, 8, CPU, divisible=False)
    found = MicroBatch("auto", 8, CPU, divisible=False)
    assert found.whole
    assert not found.shrink()


class _Card:
    """A GPU's memory, for the settings that look at it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, peak: int, graph: int) -> None:
        allocated = iter([0, graph] * 9)
        monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: next(allocated))
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("P", (), {"total_memory": total}))
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
        tensor = torch.tensor
        monkeypatch.setattr(torch, "tensor", lambda values, device: tensor(values))


def test_on_a_card_as_many_graphs_are_kept_as_a_step_left_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _Card(monkeypatch, total=1000, peak=500, graph=100)
    setting = MicroBatch(2, 8, torch.device("cuda"))
    assert setting.trying
    with setting.measured():
        pass
    setting.succeeded()
    assert setting.kept == 1 + (900 - 500) // 100
    # Too many after all: one again, and it stays so.
    assert setting.shrink()
    assert setting.kept == 1
    for _ in range(TRIES):
        setting.succeeded()
    assert (setting.kept, setting.rows, setting.trying) == (1, 2, False)


@pytest.mark.parametrize(("divisible", "alone"), [(False, True), (True, False)])
def test_nothing_is_tried_where_a_forward_pass_waits_for_other_ranks(divisible: bool, alone: bool) -> None:
    for device in (CPU, torch.device("cuda")):
        setting = MicroBatch("auto", 8, device, divisible=divisible, alone=alone)
        assert setting.whole
        assert not setting.trying
        assert not setting.shrink()


def test_a_share_that_fits_at_once_is_not_tried_on_a_card() -> None:
    assert not MicroBatch(None, 8, torch.device("cuda")).trying
