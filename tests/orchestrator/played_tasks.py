"""Evaluation tasks without Ray: each evaluation plays what it is told to, and its result is a real file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from jobspecs.evaluation import evaluation_hash
from jobspecs.job import JobSpec
from orchestrator.due import Batch, Fault, Key, MainScore
from orchestrator.evaluate import Began, Ended
from orchestrator.evaluation_task import News, Over
from workers.run import RunDirectory
from workers.storage import Storage


def sections(digits: Path, *names: str, **fields: str) -> str:
    """An override that has these evaluations of the digits. `fields` of one: `a="retries: 0"`."""
    each = (
        f"{{kind: retrieval, name: {name}, data: {{urls: ['{digits}/test/*.tar']}}, {fields.get(name, '')}}}"
        for name in names
    )
    return f"evaluations=[{', '.join(each)}]"


def write_result(run: RunDirectory, spec: JobSpec, step: int, name: str, value: float) -> MainScore:
    """The file of a result."""
    evaluation = next(each for each in spec.evaluations if each.name == name)
    result = {
        "evaluation": name,
        "kind": evaluation.kind,
        "spec_hash": evaluation_hash(evaluation),
        "step": step,
        "main": "acc@1",
        "scores": {"acc@1": value},
    }
    Storage().write(run.evaluation(step, name), json.dumps(result).encode())
    return MainScore("acc@1", value)


class Cast:
    """What evaluations play, and what became of it.

    `plays` maps an evaluation, or its name for all checkpoints, to what its tries do, the last of them again and again:
    a score, `raises`, `can't` (another try would not help), `dies`, `hangs`, `waits` (for room), or `dies late` (when
    its result is written, and that is not told yet).
    """

    def __init__(self, spec: JobSpec, run: RunDirectory, **plays: list[float | str]) -> None:
        self.spec = spec
        self.run = run
        self.plays: dict[Key | str, list[float | str]] = {**plays}
        self.tries: list[Key] = []
        """Of those that began."""
        self.tasks: list[PlayedTask] = []
        self.then: Callable[[Key], None] = lambda key: None
        """Called with each that begins."""
        self.cancelled: Callable[[], None] = lambda: None
        """Called when a task is cancelled."""

    def start(self, batch: Batch) -> PlayedTask:
        """Starts a task."""
        self.tasks.append(PlayedTask(self, batch))
        return self.tasks[-1]

    def play(self, key: Key) -> float | str:
        """What the next try of an evaluation does."""
        plays = self.plays.get(key) or self.plays.get(key[1]) or [0.5]
        return plays[min(self.tries.count(key), len(plays) - 1)]


class PlayedTask:
    """A task that has room at once."""

    def __init__(self, cast: Cast, batch: Batch) -> None:
        self.cast = cast
        self.batch = batch
        self.cancelled = False
        self._left = batch.keys
        self._hangs = False

    def cancel(self) -> None:
        """It hears no more."""
        self.cancelled = True
        self.cast.cancelled()

    def news(self) -> list[News]:
        """Plays all at once."""
        assert not self.cancelled
        news: list[News] = []
        while self._left and not self._hangs:
            step, name = key = self._left[0]
            play = self.cast.play(key)
            if play == "waits":
                return news
            self._left.pop(0)
            self.cast.tries.append(key)
            self.cast.then(key)
            news.append(Began(name))
            match play:
                case float():
                    score = write_result(self.cast.run, self.cast.spec, step, name, play)
                    news.append(Ended(name, score, seconds=1.0))
                case "raises":
                    news.append(Ended(name, fault=Fault("ValueError: it is wrong")))
                case "can't":
                    news.append(Ended(name, fault=Fault("the data are gone", final=True)))
                case "dies":
                    return [*news, Over("its process died")]
                case "dies late":
                    write_result(self.cast.run, self.cast.spec, step, name, 0.5)
                    return [*news[:-1], Over("its process died")]
                case "hangs":
                    self._hangs = True
        return news if self._hangs else [*news, Over()]
