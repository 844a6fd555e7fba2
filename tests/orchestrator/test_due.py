"""Which evaluations are due: by table, and as properties of any run in which anything may fail."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspecs.data import EvaluationData
from jobspecs.evaluation import Retrieval
from jobspecs.schedule import EarlyStop, TaskResources
from orchestrator.due import Fault, MainScore, Progress, best_step, due, needed, stalled


def evaluation(name: str, **fields: Any) -> Retrieval:
    return Retrieval(kind="retrieval", name=name, data=EvaluationData(urls=["a.tar"]), **fields)


def acc(value: float) -> MainScore:
    return MainScore("acc@1", value)


EACH = evaluation("each", every_checkpoints=1)
SECOND = evaluation("second", every_checkpoints=2, at_end=False)
END = evaluation("end")
BEST = evaluation("best", best_only="each")
ALL = [EACH, SECOND, END, BEST]
FAULT = Fault("x")
RUN = Progress(commits=(10, 20, 30), there=frozenset({10, 20, 30}))
SCORED = {(10, "each"): acc(0.2), (20, "each"): acc(0.4), (30, "each"): acc(0.4), (20, "second"): acc(0.1)}
DONE = replace(RUN, results=SCORED, last=30)
TABLE: dict[str, tuple[Progress, dict[int, str]]] = {
    "nothing yet": (Progress(), {}),
    "beside training": (RUN, {10: "each", 20: "each second", 30: "each"}),
    "what has a result is not done again": (replace(RUN, results=SCORED), {}),
    "deleted checkpoints count and are not scored": (
        Progress(commits=(10, 20, 30, 40), there=frozenset({40})), {40: "each second"}),
    "after training the last, and the newest of equally good ones": (DONE, {30: "best end"}),
    "the best waits for all that may be better": (
        replace(DONE, results={key: score for key, score in SCORED.items() if key != (10, "each")}),
        {10: "each", 30: "end"}),
    "but not for what failed for good": (
        replace(DONE, results={key: score for key, score in SCORED.items() if key != (30, "each")},
                failures={(30, "each"): (FAULT, FAULT)}),
        {20: "best", 30: "end"}),
    "lower is better": (
        replace(DONE, results={**SCORED, (10, "each"): MainScore("rank", 1.0, higher_is_better=False),
                               (20, "each"): MainScore("rank", 2.0, higher_is_better=False),
                               (30, "each"): MainScore("rank", float("nan"), higher_is_better=False)}),
        {10: "best", 30: "end"}),
    "none is the best where nothing was scored": (
        replace(DONE, results={}, failures=dict.fromkeys(((10, "each"), (20, "each"), (30, "each")), (FAULT,) * 2)),
        {20: "second", 30: "end"}),
    "a failure is tried again": (replace(DONE, failures={(30, "end"): (FAULT,)}), {30: "best end"}),
    "as often as retries say": (replace(DONE, failures={(30, "end"): (FAULT, FAULT)}), {30: "best"}),
    "unless it would fail so again": (replace(DONE, failures={(30, "end"): (Fault("x", final=True),)}), {30: "best"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_what_is_due(case: str) -> None:
    progress, expected = TABLE[case]
    found: dict[int, list[str]] = {}
    for batch in due(ALL, progress):
        found.setdefault(batch.step, []).extend(each.name for each in batch.evaluations)
    assert {step: " ".join(sorted(names)) for step, names in found.items()} == expected
    assert {batch.step for batch in due(ALL, progress)} <= needed(ALL, progress)


def test_what_needs_the_same_is_done_together_and_what_failed_alone() -> None:
    big = TaskResources(cpus=4)
    evaluations = [evaluation(name) for name in "abc"] + [evaluation(name, resources=big) for name in "de"]
    progress = replace(RUN, last=30, failures={(30, "b"): (FAULT,)})
    batches = due(evaluations, progress, running={(30, "c")})
    assert [[each.name for each in batch.evaluations] for batch in batches] == [["a"], ["b"], ["d", "e"]]


def test_the_best_so_far_stays_for_what_scores_it_after_training() -> None:
    progress = replace(RUN, results={(20, "each"): acc(0.9), (10, "each"): acc(0.1), (30, "each"): acc(0.2)})
    assert needed([EACH], progress) == set()
    assert needed([EACH, BEST], progress) == {20}
    assert needed([EACH, BEST], replace(progress, results={**progress.results, (20, "best"): acc(0.5)})) == set()


@pytest.mark.parametrize(
    ("scores", "patience", "best"),
    [
        ([0.1, 0.2, 0.3], 1, None),
        ([0.3, 0.2, 0.1], 2, 10),
        ([0.3, 0.2, 0.1], 3, None),
        ([0.3, 0.3], 1, 10),
        ([0.1, 0.3, 0.2, 0.4, 0.4, 0.1], 2, 40),
        ([0.3, None, 0.1, 0.1], 2, None),
        ([0.3, "failed", 0.1, 0.1], 2, 10),
        ([0.3, 0.2, 0.1, 0.9], 2, 10),
    ],
)
def test_when_training_stops_early(scores: list[float | str | None], patience: int, best: int | None) -> None:
    """None has no result yet. A decision is final: what comes after it changes nothing."""
    steps = [10 * (number + 1) for number in range(len(scores))]
    progress = Progress(
        commits=tuple(steps),
        there=frozenset(steps),
        results={(step, "each"): acc(x) for step, x in zip(steps, scores, strict=True) if isinstance(x, float)},
        failures={(step, "each"): (FAULT,) * 2 for step, x in zip(steps, scores, strict=True) if x == "failed"},
    )
    answer = stalled(EarlyStop(evaluation="each", patience=patience), [EACH], progress)
    assert (None if answer is None else answer.best) == best
    assert stalled(None, [EACH], progress) is None


def test_how_an_early_stop_is_told() -> None:
    progress = replace(RUN, results={(10, "each"): acc(0.5), (20, "each"): acc(0.4)})
    told = stalled(EarlyStop(evaluation="each", patience=1), [EACH], progress)
    assert str(told) == "1 result in a row brought no better acc@1 than 0.5000 of step 10"


names = st.sampled_from("abcd")
schedules = st.builds(
    lambda every, end, retries, cpus: {
        "every_checkpoints": every,
        "at_end": end or every is None,
        "retries": retries,
        "resources": cpus and TaskResources(cpus=cpus),
    },
    st.none() | st.integers(1, 4),
    st.booleans(),
    st.integers(0, 3),
    st.none() | st.integers(1, 2),
)
Outcome = str
outcomes = st.sampled_from(["scored", "failed", "failed for good", "displaced", "deleted"])


@given(st.lists(schedules, min_size=1, max_size=4), st.integers(1, 6), st.data())
def test_whatever_happens_each_is_done_once_and_it_ends(
    sections: list[dict[str, Any]], commits: int, data: st.DataObject
) -> None:
    """Displaced at most 5 times in all: training starts so often, not forever."""
    evaluations = [evaluation("abcd"[number], **fields) for number, fields in enumerate(sections)]
    compared = [each.name for each in evaluations if each.every_checkpoints]
    if compared:
        evaluations.append(evaluation("best", best_only=compared[0]))
    steps = tuple(range(1, commits + 1))
    progress = Progress(commits=steps, there=frozenset(steps), last=commits)
    scored: list[tuple[int, str]] = []
    displaced = 0
    for _ in range(1000):
        batches = due(evaluations, progress)
        if not batches:
            break
        batch = data.draw(st.sampled_from(batches))
        assert batch.step in needed(evaluations, progress)
        for key in batch.keys:
            failures = progress.failures.get(key, ())
            of = next(each for each in evaluations if each.name == key[1])
            assert key not in scored
            assert len(failures) <= of.retries
            assert not any(fault.final for fault in failures)
            outcome = data.draw(outcomes)
            if outcome == "displaced" and displaced < 5:
                displaced += 1
            elif outcome == "deleted" and key[0] != commits:
                progress = replace(progress, there=progress.there - {key[0]})
            elif outcome.startswith("failed"):
                fault = Fault("x", final=outcome == "failed for good")
                progress = replace(progress, failures={**progress.failures, key: (*failures, fault)})
            else:
                scored.append(key)
                progress = replace(progress, results={**progress.results, key: acc(data.draw(st.floats(0, 1)))})
    else:
        pytest.fail("it does not end")
    assert needed(evaluations, progress) <= ({best_step(compared[0], progress)} if compared else set())
