"""The live view on a terminal of its own, drawn when the test says so; JSON; silence; terminals that go away."""

from __future__ import annotations

import errno
import io
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestrator import scanning
from orchestrator.views import choose
from orchestrator.views.choose import Show, view_of
from orchestrator.views.console import SteadyConsole
from orchestrator.views.json_lines import JsonView
from orchestrator.views.lines import LinesView
from orchestrator.views.live import LiveView
from orchestrator.views.quiet import QuietView
from orchestrator.views.view import View
from tests.orchestrator.views.story import event, metrics, started, status_of


class Terminal(io.StringIO):
    """One that may be closed."""

    error: OSError | None = None

    def write(self, text: str) -> int:
        if self.error is not None:
            raise self.error
        return super().write(text)


def terminal(file: io.StringIO) -> Console:
    return SteadyConsole(file=file, force_terminal=True, force_interactive=True, width=80, height=24)


def tell(view: View) -> None:
    """A short story."""
    view.line("starting Ray")
    view.event(event("run_started", total_steps=20))
    view.event(started(1, 0))
    view.progress(metrics(7, 1.0), 20)
    view.event(event("checkpoint_committed", 1.0, step=7))


def test_the_panel_is_drawn_below_the_events() -> None:
    output = Terminal()
    view = LiveView(terminal(output), "digits", clock=lambda: 61.0)
    with view:
        tell(view)
        view.draw()
        text = output.getvalue()
    assert "starting Ray" in text
    assert "checkpoint_committed!" in text
    last = text[text.rindex("╭") :]
    for told in ("digits", "training", "7 of 20", "2.5000", "step 7, 1:00 ago"):
        assert told in last
    assert "step 7/20" not in text  # the panel tells it
    view.results(status_of(), "digits: succeeded")
    assert output.getvalue().rstrip().endswith("run directory: file:///runs/job")


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), BrokenPipeError()])
@pytest.mark.parametrize("make", [lambda console: LiveView(console, "x"), LinesView, QuietView])
def test_a_terminal_that_goes_away_takes_nothing_with_it(error: OSError, make: Callable[[Console], View]) -> None:
    output = Terminal()
    view = make(terminal(output))
    with view:
        tell(view)
        output.error = error
        tell(view)
        if isinstance(view, LiveView):
            view.draw()
    view.results(status_of(), "over")


@pytest.mark.parametrize("show", ["TEXT", "JSON"])
def test_a_reader_that_ends_is_no_end_of_the_process(show: str) -> None:
    program = (
        "import sys\n"
        "from orchestrator.views.choose import Show, view_of\n"
        f"view = view_of(Show.{show}, 'x')\n"
        "sys.stdin.read()\n"
        "for _ in range(3): view.line('more')\n"
        "print('went on', file=sys.stderr)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdout.close()  # as `| head` does
        process.stdin.close()
        assert process.stderr.read() == "went on\n"
    assert process.returncode == 0


def test_json_is_an_object_a_line() -> None:
    output = Terminal()
    with JsonView(output) as view:
        tell(view)
        view.progress(metrics(7, 1.0), 20)  # once a step
        view.event(event("run_failed"))
    view.results(status_of(), "over")
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert [line["type"] for line in lines] == [
        "line", "event", "event", "progress", "event", "event", "status",
    ]  # fmt: skip
    assert lines[3] == {"type": "progress", "total_steps": 20, **metrics(7, 1.0)}
    assert lines[5]["event"] == "run_failed"
    assert lines[6]["state"] == "succeeded"
    output.error = BrokenPipeError()
    tell(view)


def test_people_read_the_cause_of_a_failure_once_and_quiet_ones_the_end_alone() -> None:
    lines, quiet = io.StringIO(), io.StringIO()
    LinesView(Console(file=lines)).event(event("run_failed"))
    assert lines.getvalue() == ""  # the command tells it as its error
    view = QuietView(Console(file=quiet))
    tell(view)
    assert quiet.getvalue() == ""
    view.results(status_of(), "over")
    assert "run directory" in quiet.getvalue()


def test_the_view_fits_who_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(show: Show, console: Console) -> type:
        return type(view_of(show, "x", console))

    pipe, screen = Console(file=io.StringIO()), terminal(io.StringIO())
    assert kind(Show.TEXT, pipe) is LinesView
    assert kind(Show.TEXT, screen) is LiveView
    assert kind(Show.QUIET, screen) is QuietView
    assert kind(Show.JSON, screen) is JsonView
    monkeypatch.setenv("TERM", "dumb")
    assert not choose.is_live(terminal(io.StringIO()))


def test_what_reads_tars_meanwhile_writes_above_the_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Terminal()
    monkeypatch.setattr(output, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", output)
    monkeypatch.setattr(scanning, "_TOLD_SECONDS", 0.0)
    with LiveView(terminal(output), "x") as view, scanning.progress("tars read", 2) as advance:
        advance(1)
        view.draw()
        text = output.getvalue()
    assert "tars read: 1 done" in text
    assert text.rindex("╭") > text.index("tars read")
    assert sys.stderr is output
