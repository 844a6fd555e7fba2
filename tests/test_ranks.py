"""The spawner itself: a test that can't fail proves nothing."""

from __future__ import annotations

import os
import time

import pytest
import torch.distributed as dist

from tests.ranks import RanksFailedError, run_ranks


def _ranks_sum(summand: int) -> tuple[int, int]:
    import torch

    total = torch.tensor(dist.get_rank() + summand)
    dist.all_reduce(total)
    return dist.get_rank(), int(total)


def _second_fails(how: str) -> None:
    if dist.get_rank() == 1:
        if how == "raises":
            raise ValueError("no good")
        if how == "dies":
            os._exit(7)
    elif how == "raises":
        return  # ends before the other one failed, or waits for it in the last barrier
    if how == "hangs":
        time.sleep(600)


def test_results_come_back_by_rank() -> None:
    assert run_ranks(_ranks_sum, 2, 10) == [(0, 21), (1, 21)]


@pytest.mark.parametrize(
    ("how", "timeout_seconds", "message"),
    [
        ("raises", 60, "ValueError: no good"),
        ("dies", 60, "rank 1 of 2:\ndied with exit code 7"),
        ("hangs", 20, "rank 1 of 2: killed, it did not end in time"),
    ],
)
def test_failures_come_back_and_no_process_stays(how: str, timeout_seconds: float, message: str) -> None:
    with pytest.raises(RanksFailedError) as raised:
        run_ranks(_second_fails, 2, how, timeout_seconds=timeout_seconds)
    assert message in str(raised.value)
    if how == "raises":
        assert isinstance(raised.value.errors[1], ValueError)
