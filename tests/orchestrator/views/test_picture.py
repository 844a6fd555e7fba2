"""What events and metrics say of a run, and how it is drawn: no terminal, no clock."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.views.panel import BLOCKS, panel, sparkline
from orchestrator.views.picture import MOST_LOSSES, STAGES, Losses, Picture
from tests.orchestrator.views.story import event, metrics, started


def test_stages_follow_the_events_and_training_begins_with_a_step() -> None:
    picture = Picture("job", 0.0)
    stages = [picture.stage]
    for each in (event("run_started", total_steps=350), started(1, 0), event("checkpoint_committed", step=1)):
        picture.event(each)
        stages.append(picture.stage)
    picture.progress(metrics(1, 0.0), 350)
    stages.append(picture.stage)
    picture.event(event("stop_requested"))
    picture.progress(metrics(2, 1.0), 350)
    stages.append(picture.stage)
    assert stages == ["starting", "preparing", "starting workers", "starting workers", "training", "stopping"]
    assert picture.total_steps == 350


def test_the_rate_is_that_of_the_last_seconds_of_the_attempt() -> None:
    picture = Picture("job", 0.0)
    picture.event(started(1, 0))
    picture.progress(metrics(10, 0.0, rate=9999.0), 1000)
    for second in range(1, 101):
        picture.progress(metrics(10 + second, float(second), rate=9999.0), 1000)
    assert picture.samples_per_second == pytest.approx(100.0)
    assert picture.seconds_left == pytest.approx(890.0)
    picture.event(started(2, 100))
    assert (picture.step, picture.seconds_left) == (100, None)
    picture.progress(metrics(101, 200.0, attempt=2, rate=50.0), 1000)
    assert picture.samples_per_second == 50.0


def test_a_step_that_is_told_twice_counts_once() -> None:
    picture = Picture("job", 0.0)
    for _ in range(2):
        picture.progress(metrics(3, 0.0, masked=2), 10)
    assert picture.masked == 2
    assert picture.losses.values == [2.5]


def test_a_long_curve_keeps_its_shape_in_bounded_memory() -> None:
    losses = Losses()
    for step in range(10_000):
        losses.add(float(step))
    assert MOST_LOSSES // 2 <= len(losses.values) < MOST_LOSSES
    assert losses.values == sorted(losses.values)


def test_evaluations_are_known_by_their_newest_event() -> None:
    picture = Picture("job", 0.0)
    picture.event(event("evaluation_started", evaluation="a", step=10))
    assert picture.evaluations == {"a": "step 10 is being scored"}
    picture.event(event("evaluation_finished", evaluation="a", step=10, main="acc@1", score=0.5))
    picture.event(event("evaluation_failed", evaluation="b", step=10, again=True))
    picture.event(event("evaluation_displaced", evaluations=["c"], step=20))
    picture.event(event("evaluation_finished", evaluation="c", step=10))  # as older versions wrote it
    assert picture.evaluations == {
        "a": "acc@1 0.5000 at step 10",
        "b": "failed at step 10, is tried again",
        "c": "step 20 waits for room",
    }


def test_a_sparkline_goes_from_the_least_to_the_greatest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 20) == BLOCKS
    assert sparkline([3.0, 3.0], 20) == BLOCKS[0] * 2
    assert sparkline(range(800), 8) == BLOCKS
    assert sparkline([], 8) == ""


def rich_picture() -> Picture:
    """A run of which much is known, with names and numbers that are long."""
    picture = Picture("a-name-of-sixty-three-letters-which-is-as-long-as-a-name-can-be1", 0.0)
    picture.event(event("run_started", -3700.0, total_steps=1_000_000))
    picture.event(event("attempt_failed", attempt=1))
    picture.event(started(2, 999_000, workers=512))
    for step in range(1, 200):
        picture.progress(metrics(999_000 + step, float(step), attempt=2, masked=1000, world_size=512), 1_000_000)
    picture.event(event("checkpoint_committed", 100.0, step=999_100))
    for number in range(9):
        name = f"unseen-characters-of-eight-fonts-{number}"
        picture.event(event("evaluation_finished", evaluation=name, step=9, main="nDCG@10", score=0.5))
    return picture


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_panel_fits_the_terminal(width: int) -> None:
    console = Console(width=width, record=True, force_terminal=True, file=io.StringIO())
    console.print(panel(rich_picture(), now=300.0, width=width))
    lines = console.export_text().splitlines()
    assert {len(line) for line in lines} == {width}
    text = "\n".join(lines)
    if width >= 80:
        for told in ("1:06:40", "training  attempt 2  512 workers  1 failed", "999,199 of 1,000,000", "13:21 left",
                     "2.5000  ▁▁▁", "100 samples/s  data wait 0%  scale 14.30", "last step 1:41 ago",
                     "step 999,100, 3:20 ago", "and 3 more"):  # fmt: skip
            assert told in text


def test_a_panel_of_a_run_of_which_nothing_is_known() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(panel(Picture("job", 0.0), now=0.0, width=80))
    assert "starting" in console.export_text()


def test_each_stage_is_of_an_event_that_something_writes() -> None:
    sources = "".join(path.read_text() for path in Path("orchestrator").glob("*.py"))
    assert [kind for kind in STAGES if f'"{kind}"' not in sources] == []
