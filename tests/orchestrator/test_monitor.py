"""The driver's side of the search for ranks that hang, with an actor that is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import monitor
from orchestrator.monitor import Monitor


class Desk:
    """Answers by what is prepared."""

    def __init__(self, beating: list[set[int] | None], stacks: list[dict[int, str]]) -> None:
        self.ask_for_stacks = SimpleNamespace(remote=lambda: beating.pop(0) if len(beating) > 1 else beating[0])
        self.stacks = SimpleNamespace(remote=lambda: stacks.pop(0) if len(stacks) > 1 else stacks[0])


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get", lambda answer, timeout: answer)
    monkeypatch.setattr(monitor, "BEAT_SECONDS", 0.0)


def stacks(desk: Any) -> dict[int, str]:
    return Monitor(desk, 1).stacks()


def test_ranks_that_beat_are_waited_for() -> None:
    assert stacks(Desk([{0, 2}], [{}, {0: "here"}, {0: "here", 2: "there"}])) == {0: "here", 2: "there"}


def test_ranks_that_beat_again_are_asked_after_all() -> None:
    """The machine stood still, and nobody had beaten for a while."""
    assert stacks(Desk([None, set(), {1}, {1}], [{}, {}, {}, {1: "here"}])) == {1: "here"}


def test_a_rank_that_says_nothing_is_not_waited_for_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "STACKS_SECONDS", 0.05)
    assert stacks(Desk([{0, 1}], [{0: "here"}])) == {0: "here"}
    assert stacks(Desk([set()], [{}])) == {}
