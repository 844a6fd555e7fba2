"""Ray's tasks without Ray: each is called in this process, when it is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray


@dataclass
class PlayedRay:
    """What was asked of it."""

    reserved: list[dict[str, Any]] = field(default_factory=list)
    """Of each kind of task."""
    names: list[str] = field(default_factory=list)
    """Of the tasks, as they were started."""
    cancelled: list[Any] = field(default_factory=list)
    """Answers that nobody waited for any more."""

    def remote(self, **resources: Any) -> Callable[[Callable[..., Any]], _PlayedTask]:
        """As `ray.remote`."""
        self.reserved.append(resources)
        return lambda function: _PlayedTask(self, function)


@dataclass
class _PlayedTask:
    ray: PlayedRay
    function: Callable[..., Any]
    name: str = ""

    def options(self, name: str) -> _PlayedTask:
        return _PlayedTask(self.ray, self.function, name)

    def remote(self, *arguments: Any) -> _Answer:
        self.ray.names.append(self.name)
        return _Answer(self.function(*arguments))


@dataclass(eq=False)
class _Answer:
    content: Any


def play_ray(monkeypatch: pytest.MonkeyPatch) -> PlayedRay:
    """Replaces what `answers` and its callers ask of Ray."""
    played = PlayedRay()
    monkeypatch.setattr(ray, "remote", played.remote)
    monkeypatch.setattr(ray, "wait", lambda waiting, timeout: (waiting, []))
    monkeypatch.setattr(ray, "get", lambda answers: [answer.content for answer in answers])
    monkeypatch.setattr(ray, "cancel", lambda answer, force: played.cancelled.append(answer.content))
    return played
