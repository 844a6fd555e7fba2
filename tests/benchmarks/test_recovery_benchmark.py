"""The benchmark of recovery: what it makes of moments, and a save at a tiny size."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.benchmarks.recovery import AIMS, recovery_table, save_table, summary
from tests.benchmarks.recovery_save import Saves, measure_saves
from tests.benchmarks.recovery_timeline import Beginning, Timeline, beginnings, cold_start, recovery

SLOW = Timeline(
    asked=10.0,
    first=Beginning(begun=14.0, loaded=17.0, stepped=18.0),
    killed=30.0,
    noticed=31.0,
    second=Beginning(begun=35.0, loaded=37.0, stepped=38.0),
)
FAST = Timeline(
    asked=10.0,
    first=Beginning(begun=12.0, loaded=13.0, stepped=14.0),
    killed=30.0,
    noticed=30.5,
    second=Beginning(begun=32.0, loaded=33.0, stepped=34.0),
)
SAVES = Saves([0.1, 0.2, 0.4], [2.0, 1.0, 1.5], [3.0, 3.0, 3.0], 18, 24)


def test_the_parts_of_a_timeline_add_up() -> None:
    assert cold_start(SLOW) == {"start": 4.0, "load": 3.0, "first step": 1.0}
    assert recovery(SLOW) == {"detect": 1.0, "start": 4.0, "load": 2.0, "first step": 1.0}
    assert sum(recovery(SLOW).values()) == SLOW.second.stepped - SLOW.killed


def test_moments_out_of_order_are_no_timeline() -> None:
    with pytest.raises(AssertionError, match="out of order"):
        recovery(Timeline(SLOW.asked, SLOW.first, killed=32.0, noticed=31.0, second=SLOW.second))


def test_an_attempt_begins_with_the_first_of_its_steps() -> None:
    metrics = [{"attempt": number, "time": time} for number, time in ((1, 18.0), (1, 19.0), (3, 38.5), (3, 38.0))]
    assert beginnings([(35.0, 37.0), (14.0, 17.0)], metrics) == [SLOW.first, SLOW.second]


def test_ratios_are_larger_where_tandem_is_better() -> None:
    told = summary({"tandem": [FAST], "ray_train": [SLOW, SLOW]}, SAVES)
    assert told["ratios"] == {"recovery ray_train": 2.0, "recovery cold_start": 1.0, "save deepspeed": 7.5}
    assert told["aims"] == AIMS
    assert (told["benchmark"], list(told)[-1]) == ("recovery", "machine")


def test_a_part_that_was_left_out_has_no_ratios() -> None:
    assert summary({}, SAVES)["ratios"] == {"save deepspeed": 7.5}
    without_saves = summary({"tandem": [FAST], "ray_train": [SLOW]}, None)
    assert without_saves["ratios"] == {"recovery ray_train": 2.0, "recovery cold_start": 1.0}


def test_tables_show_the_median_and_its_range() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=88)
    console.print(recovery_table({"tandem": [FAST, SLOW], "ray_train": [SLOW]}))
    console.print(save_table(SAVES))
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.getvalue().splitlines() if "│" in line]
    assert rows == [
        ["cold start", "tandem", "", "3.00", "2.00", "1.00", "6.00", "2.00"],
        ["cold start", "ray_train", "", "4.00", "3.00", "1.00", "8.00", "0.00"],
        ["recovery", "tandem", "0.75", "2.75", "1.50", "1.00", "6.00", "2.00"],
        ["recovery", "ray_train", "1.00", "4.00", "2.00", "1.00", "8.00", "0.00"],
        ["tandem", "0.200", "0.150", "3.00", "0.00"],
        ["deepspeed", "1.500", "0.500", "", "0.00"],
    ]


def test_a_save_is_measured() -> None:
    saves = measure_saves(repetitions=1, overrides=())
    assert len(saves.tandem) == len(saves.deepspeed) == len(saves.background) == 1
    assert 0 < saves.tandem_bytes < saves.deepspeed_bytes
