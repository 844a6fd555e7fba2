"""(commits, results, failures so far, the spec's evaluations) -> what is to be done now. Pure.

An evaluation of a checkpoint is done once. What failed is tried again as often as its `retries` allow, unless another
try would fail the same way. Which checkpoints one is done of:

    every_checkpoints: N    each N-th commit, counted over the whole run, those that are deleted too
    at_end                  the last commit, after training
    best_only: NAME         after training, when NAME has nothing left to do: the checkpoint that it scores best
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from jobspecs.evaluation import Evaluation
from jobspecs.schedule import EarlyStop, TaskResources

Key = tuple[int, str]
"""An evaluation of a checkpoint: its step, the evaluation's name."""


@dataclass(frozen=True)
class MainScore:
    """The main score of a result."""

    name: str
    value: float
    higher_is_better: bool = True

    @property
    def rank(self) -> float:
        """The larger, the better; what is no number is the worst."""
        if math.isnan(self.value):
            return -math.inf
        return self.value if self.higher_is_better else -self.value


@dataclass(frozen=True)
class Fault:
    """Why a try failed."""

    cause: str
    final: bool = False
    """Whether another try would fail the same way."""


@dataclass(frozen=True)
class Progress:
    """What there is of a run."""

    commits: tuple[int, ...] = ()
    """Steps that were ever committed, ascending."""
    there: frozenset[int] = frozenset()
    """Those whose checkpoint has not been deleted."""
    results: Mapping[Key, MainScore] = field(default_factory=dict)
    """Of the evaluations as the spec now has them."""
    failures: Mapping[Key, tuple[Fault, ...]] = field(default_factory=dict)
    """Tries that failed, in this go of the job."""
    last: int | None = None
    """The step of the last checkpoint; None as long as training may make more."""

    def without_failures(self, steps: Collection[int]) -> Progress:
        """As if nothing had failed of those checkpoints: they were made again since."""
        return replace(self, failures={key: faults for key, faults in self.failures.items() if key[0] not in steps})


@dataclass(frozen=True)
class Batch:
    """Evaluations of one checkpoint that a task does together: what several of them need is encoded once."""

    step: int
    evaluations: tuple[Evaluation, ...]

    @property
    def keys(self) -> list[Key]:
        """One for each."""
        return [(self.step, evaluation.name) for evaluation in self.evaluations]


def due(evaluations: Sequence[Evaluation], progress: Progress, running: Collection[Key] = ()) -> list[Batch]:
    """What is to be done now and is not `running`, older checkpoints first. What failed before is tried alone."""
    batches: dict[tuple[int, TaskResources | None, str | None], list[Evaluation]] = {}
    for step in sorted(progress.there):
        for evaluation in evaluations:
            key = step, evaluation.name
            if key not in running and is_open(evaluation, step, evaluations, progress):
                alone = evaluation.name if key in progress.failures else None
                batches.setdefault((step, evaluation.resources, alone), []).append(evaluation)
    return [Batch(step, tuple(batch)) for (step, _, _), batch in batches.items()]


def is_open(evaluation: Evaluation, step: int, evaluations: Sequence[Evaluation], progress: Progress) -> bool:
    """Whether it is still to be done of the checkpoint at `step`."""
    return (
        step in progress.there
        and not _is_over(evaluation, step, progress)
        and _is_wanted(evaluation, step, evaluations, progress)
    )


def needed(evaluations: Sequence[Evaluation], progress: Progress) -> set[int]:
    """Steps whose checkpoints must stay: something of them is still to be done, or may be after training."""
    steps = unfinished(evaluations, progress)
    for evaluation in evaluations:
        best = None if evaluation.best_only is None else best_step(evaluation.best_only, progress)
        if best is not None and (best, evaluation.name) not in progress.results:
            steps.add(best)
    return steps


def unfinished(evaluations: Sequence[Evaluation], progress: Progress) -> set[int]:
    """Steps of whose checkpoints something is to be done now, or is being done."""
    return {
        step
        for step in progress.there
        if any(is_open(evaluation, step, evaluations, progress) for evaluation in evaluations)
    }


def best_step(name: str, progress: Progress) -> int | None:
    """The checkpoint that the evaluation `name` scores best, of those that are there; of equal ones the newest."""
    scored = [step for step in progress.there if (step, name) in progress.results]
    return max(scored, key=lambda step: (progress.results[step, name].rank, step), default=None)


@dataclass(frozen=True)
class Stalled:
    """Nothing better has come for so long that training shall end."""

    best: int
    """The step with the best score."""
    score: MainScore
    """That one's."""
    results: int
    """That came after it, without a better one."""

    def __str__(self) -> str:
        best = f"{self.score.name} than {self.score.value:.4f} of step {self.best}"
        return f"{self.results} result{'s' if self.results > 1 else ''} in a row brought no better {best}"


def stalled(stop: EarlyStop | None, evaluations: Sequence[Evaluation], progress: Progress) -> Stalled | None:
    """Whether training shall end early. Results count in the order of their steps, and none before those of all
    earlier checkpoints are known: so it does not depend on which came first."""
    if stop is None:
        return None
    evaluation = next(each for each in evaluations if each.name == stop.evaluation)
    best: tuple[int, MainScore] | None = None
    since = 0
    for step in progress.commits:
        score = progress.results.get((step, stop.evaluation))
        if score is None:
            if is_open(evaluation, step, evaluations, progress):
                return None
        elif best is None or score.rank > best[1].rank:
            best, since = (step, score), 0
        else:
            since += 1
            if since == stop.patience:
                return Stalled(*best, since)
    return None


def _is_over(evaluation: Evaluation, step: int, progress: Progress) -> bool:
    key = step, evaluation.name
    failures = progress.failures.get(key, ())
    return key in progress.results or len(failures) > evaluation.retries or any(each.final for each in failures)


def _is_wanted(evaluation: Evaluation, step: int, evaluations: Sequence[Evaluation], progress: Progress) -> bool:
    every, last = evaluation.every_checkpoints, progress.last
    if every is not None and (bisect_left(progress.commits, step) + 1) % every == 0:
        return True
    if last is None or not evaluation.at_end:
        return False
    if evaluation.best_only is None:
        return step == last
    by = next(each for each in evaluations if each.name == evaluation.best_only)
    if any(is_open(by, other, evaluations, progress) for other in progress.there):
        return False
    return step == best_step(by.name, progress)
