"""The retry policy: a table of every kind of failure, and what holds for any sequence of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspecs.retry import Budget, Retry
from orchestrator.elastic import start_size
from orchestrator.failure import Encoded, Failure, Kind
from orchestrator.retry import FREE, REMEDY, Again, GiveUp, budget_of, decide, delay_seconds, micro_batch, most_workers

NEVER = {Kind.SPEC, Kind.DIVERGED}
"""Kinds that are not tried again."""
BUDGETED = [kind for kind in Kind if kind not in NEVER | FREE]

SIZES = (2, 3, 4, 8)


def failed(kind: Kind, words: str = "what happened", *, rows: int = 48, **fields: Any) -> Failure:
    """Of an attempt on all 8 workers, which trained for some steps."""
    encoded = Encoded(rows, divisible=True) if kind is Kind.OUT_OF_MEMORY else None
    known = {"fingerprint": words, "step": 5, "world_size": 8, "encoded": encoded}
    return Failure(kind, words, **(known | fields))


def failures(kind: Kind, count: int, **fields: Any) -> list[Failure]:
    """So many in a row, each of another exception."""
    return [failed(kind, "i" * number, **fields) for number in range(count)]


def not_up(size: int, committed: int = 0) -> Failure:
    """Of a group of `size` workers that did not come up, from the newest commit on."""
    return failed(Kind.NODE_LOST, step=committed, start=committed, committed=committed, world_size=size)


FIRST = {
    Kind.DATA: Again(2.0),
    Kind.STORAGE: Again(60.0),
    Kind.CHECKPOINT: Again(0.0),
    Kind.FENCED: Again(0.0),
    Kind.OUT_OF_MEMORY: Again(2.0, micro_batch=24),
    Kind.HOST_OUT_OF_MEMORY: Again(2.0),
    Kind.WORKER_LOST: Again(2.0),
    Kind.NODE_LOST: Again(2.0),
    Kind.PREEMPTED: Again(0.0),
    Kind.HANG: Again(2.0),
    Kind.BUG: Again(2.0),
    **{kind: GiveUp(REMEDY[kind]) for kind in NEVER},
}
"""What follows on the first failure of each kind, with the defaults and the longest draw."""
FIRST_AT_START = FIRST | {Kind.NODE_LOST: Again(2.0, most_workers=4)}
"""The same where no step was done."""


@pytest.mark.parametrize("kind", Kind)
def test_the_first_failure_of_a_kind(kind: Kind) -> None:
    assert decide(failed(kind), [], Retry(), SIZES, draw=1.0) == FIRST[kind]
    assert decide(failed(kind, step=0), [], Retry(), SIZES, draw=1.0) == FIRST_AT_START[kind]


@pytest.mark.parametrize("kind", BUDGETED)
def test_a_kind_has_its_budget(kind: Kind) -> None:
    """Only its own failures count in it; the last one says which it was, and what to do."""
    retry = Retry(**{kind: {"retries": 2}}, max_failures_without_commit=9)
    others = failures(Kind.DATA if kind is not Kind.DATA else Kind.HANG, 3)
    *history, last = failures(kind, 3)
    assert isinstance(decide(history[0], others, retry, SIZES), Again)
    assert isinstance(decide(history[1], [*others, history[0]], retry, SIZES), Again)
    given_up = decide(last, [*others, *history], retry, SIZES)
    assert given_up == GiveUp(
        f"3 failures of kind {kind} with no new commit in between (retry.{kind}.retries). {REMEDY[kind]}"
    )


@pytest.mark.parametrize("kind", BUDGETED)
def test_a_new_commit_gives_the_budget_back_and_the_first_delay(kind: Kind) -> None:
    retry = Retry(**{kind: {"retries": 2, "delay_seconds": 4.0}})
    history = failures(kind, 2, committed=100)
    again = decide(failed(kind, "again", committed=200), history, retry, SIZES, draw=1.0)
    assert isinstance(again, Again)
    assert again.delay_seconds == 4.0
    again = decide(failed(kind, "again", committed=200), failures(kind, 2, committed=200), retry, SIZES)
    assert isinstance(again, GiveUp)


def test_three_failures_of_any_kinds_without_a_new_commit_end_the_job() -> None:
    history = [failed(Kind.WORKER_LOST, "a", committed=10), failed(Kind.PREEMPTED, "no failure", committed=10)]
    assert isinstance(decide(failed(Kind.HANG, "b", committed=10), history, Retry(), SIZES), Again)
    history.append(failed(Kind.HANG, "b", committed=10))
    third = failed(Kind.NODE_LOST, "c", committed=10)
    assert decide(third, history, Retry(), SIZES) == GiveUp(
        f"3 failures with no new commit in between (retry.max_failures_without_commit). {REMEDY[Kind.NODE_LOST]}"
    )
    assert isinstance(decide(failed(Kind.PREEMPTED, "d", committed=10), history, Retry(), SIZES), Again)
    assert isinstance(decide(failed(Kind.NODE_LOST, "c", committed=20), history, Retry(), SIZES), Again)


def test_a_number_of_attempts_may_be_all() -> None:
    """Whatever was committed in between."""
    first = failed(Kind.WORKER_LOST, "a", committed=100)
    second = failed(Kind.WORKER_LOST, "b", committed=200)
    assert isinstance(decide(second, [first], Retry(), SIZES), Again)
    assert decide(second, [first], Retry(max_attempts=2), SIZES) == GiveUp(
        f"2 of 2 attempts failed (retry.max_attempts). {REMEDY[Kind.WORKER_LOST]}"
    )


def test_what_fails_between_attempts_counts_in_its_own_budget_alone() -> None:
    """A search for a checkpoint is no attempt: an outage of the storage is what `retry.storage` is for."""
    retry = Retry(max_attempts=2, max_failures_without_commit=2, storage={"retries": 3})
    searches = failures(Kind.STORAGE, 3, world_size=0)
    assert isinstance(decide(searches[2], [failed(Kind.WORKER_LOST), *searches[:2]], retry, SIZES), Again)
    assert isinstance(decide(failed(Kind.WORKER_LOST), searches, retry, SIZES), Again)
    given_up = decide(failed(Kind.STORAGE, "once more", world_size=0), searches, retry, SIZES)
    assert given_up == GiveUp(
        f"4 failures of kind storage with no new commit in between (retry.storage.retries). {REMEDY[Kind.STORAGE]}"
    )


def test_the_same_bug_at_the_same_step_is_not_tried_again() -> None:
    retry = Retry(bug={"retries": 9})
    bug = failed(Kind.BUG, "ValueError: x", step=120, committed=100)
    assert decide(bug, [bug], retry, SIZES) == GiveUp(f"The same exception came at step 120 again. {REMEDY[Kind.BUG]}")
    later = failed(Kind.BUG, "ValueError: x", step=121, committed=100)
    other = failed(Kind.BUG, "KeyError: x", step=120, committed=100)
    assert isinstance(decide(later, [bug], retry, SIZES), Again)
    assert isinstance(decide(other, [bug], retry, SIZES), Again)


@pytest.mark.parametrize(("rows", "smaller"), [(48, 24), (7, 4), (3, 2), (2, 1)])
def test_out_of_memory_halves_the_micro_batch(rows: int, smaller: int) -> None:
    """For good: whatever is committed, and fails, after that."""
    out = failed(Kind.OUT_OF_MEMORY, rows=rows)
    for failure, history in ((out, []), (failed(Kind.HANG, committed=100), [out])):
        again = decide(failure, history, Retry(), SIZES)
        assert isinstance(again, Again)
        assert again.micro_batch == smaller == micro_batch([*history, failure])


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (Encoded(48, divisible=False), "batch normalisation, so that a rank can't encode its rows in parts"),
        (Encoded(1, divisible=True), "one row at a time already. Use training.gradient_checkpointing"),
    ],
)
def test_out_of_memory_where_nothing_is_smaller(encoded: Encoded, words: str) -> None:
    given_up = decide(failed(Kind.OUT_OF_MEMORY, encoded=encoded), [], Retry(), SIZES)
    assert isinstance(given_up, GiveUp)
    assert words in given_up.reason


def test_a_checkpoint_that_is_damaged_costs_nothing() -> None:
    retry = Retry(max_attempts=1, max_failures_without_commit=1)
    damaged = failed(Kind.CHECKPOINT, "step-8 is damaged", committed=8)
    assert decide(damaged, failures(Kind.WORKER_LOST, 5, committed=8), retry, SIZES) == Again(0.0)


def test_workers_that_do_not_come_up_make_the_job_smaller_until_a_new_commit() -> None:
    """Down to the least size; what fails else in between changes nothing, nor does a checkpoint that is damaged."""
    other = failed(Kind.BUG, committed=8, start=8, world_size=3)
    at_12 = failed(Kind.NODE_LOST, committed=12, start=8, step=15, world_size=2)
    story: list[tuple[Failure, int | None]] = [
        (not_up(8, committed=8), 4),
        (not_up(4, committed=8), 3),
        (other, 3),
        (failed(Kind.CHECKPOINT, committed=8, start=8, step=8), 3),
        (not_up(3, committed=8), 2),
        (not_up(2, committed=8), 2),
        (at_12, None),
        (not_up(3, committed=12), 2),
    ]
    for number, (_, most) in enumerate(story, 1):
        assert most_workers([failure for failure, _ in story[:number]], SIZES) == most


def test_a_commit_that_ended_the_attempt_before_lifts_the_limit_too() -> None:
    """No failure tells of it but the next one: that it began later."""
    assert most_workers([not_up(8, committed=8), failed(Kind.HANG, committed=16, start=16)], SIZES) is None


def test_what_failed_between_two_attempts_limits_no_workers() -> None:
    """Nodes that died while the job mined: there was no group that did not come up."""
    assert most_workers([failed(Kind.NODE_LOST, step=0, world_size=0)], SIZES) is None


def test_one_size_is_no_limit() -> None:
    assert decide(not_up(2), [], Retry(), (2,), draw=1.0) == Again(2.0)


def test_delays_double_up_to_the_longest_one() -> None:
    budget = Budget(delay_seconds=3.0, max_delay_seconds=20.0)
    assert [delay_seconds(budget, number, 1.0) for number in (1, 2, 3, 4, 5)] == [3.0, 6.0, 12.0, 20.0, 20.0]
    assert [delay_seconds(budget, number, 0.0) for number in (1, 2)] == [1.5, 3.0]


# --- any sequence of failures -------------------------------------------------------------------------

unit = st.floats(0.0, 1.0)
budgets = st.builds(
    lambda retries, delay, more: {"retries": retries, "delay_seconds": delay, "max_delay_seconds": delay + more},
    st.integers(0, 4),
    st.floats(0.0, 1e6),
    st.floats(0.0, 1e6),
)
retries = st.builds(
    lambda by_kind, most, in_a_row: Retry(**by_kind, max_attempts=most, max_failures_without_commit=in_a_row),
    st.fixed_dictionaries({str(kind): budgets for kind in BUDGETED}),
    st.none() | st.integers(1, 6),
    st.integers(1, 6),
)
happenings = st.tuples(
    st.sampled_from(BUDGETED),
    st.sampled_from(["a", "b"]),
    st.integers(0, 3),
    unit,
)
"""Kind, exception, step, draw."""


@given(budgets, st.integers(1, 10**9), unit)
def test_a_delay_is_bounded_and_not_negative(budget: dict[str, float], number: int, draw: float) -> None:
    assert 0.0 <= delay_seconds(Budget(**budget), number, draw) <= budget["max_delay_seconds"]


@given(retries, st.lists(happenings, min_size=40, max_size=40), st.integers(1, 64))
def test_without_commits_a_job_ends_within_its_budgets(
    retry: Retry, sequence: list[tuple[Kind, str, int, float]], rows: int
) -> None:
    """No kind has more attempts than its budget, all together not more than they may, and so it terminates: 10 kinds
    with at most 4 retries each can't last for 40 failures."""
    history: list[Failure] = []
    allowed: list[Kind] = []
    for kind, bug, step, draw in sequence:
        failure = failed(kind, bug, step=step, rows=rows)
        decision = decide(failure, history, retry, SIZES, draw=draw)
        if isinstance(decision, GiveUp):
            break
        assert 0.0 <= decision.delay_seconds <= budget_of(kind, retry).max_delay_seconds
        if decision.micro_batch is not None:
            assert decision.micro_batch >= 1
            assert decision.micro_batch < rows if kind is Kind.OUT_OF_MEMORY else decision.micro_batch == rows
            rows = decision.micro_batch
        allowed.append(kind)
        history.append(failure)
    else:
        pytest.fail("it goes on for ever")
    for kind in BUDGETED:
        assert allowed.count(kind) <= budget_of(kind, retry).retries
    real = [kind for kind in allowed if kind is not Kind.PREEMPTED]
    assert len(real) < min(retry.max_failures_without_commit, retry.max_attempts or 99)
    bugs = [(each.fingerprint, each.step) for each in history if each.kind is Kind.BUG]
    assert len(bugs) == len(set(bugs))


PATIENT = Retry(**{str(kind): {"retries": 99} for kind in BUDGETED}, max_failures_without_commit=99)


@given(
    st.sets(st.integers(1, 20), min_size=1).map(sorted),
    st.lists(st.tuples(st.sampled_from(BUDGETED), st.integers(0, 1), st.integers(0, 25)), min_size=1, max_size=30),
)
def test_sizes_only_step_down_without_a_commit_and_are_never_below_the_least(
    sizes: list[int], sequence: list[tuple[Kind, int, int]]
) -> None:
    """Of each attempt: its failure, the steps it did, and the room that was counted before it."""
    history: list[Failure] = []
    most = sizes[-1]
    for number, (kind, steps, more_room) in enumerate(sequence):
        size = start_size(tuple(each for each in sizes if each <= most), sizes[0] + more_room)
        assert size is not None
        failure = failed(kind, str(number), step=steps, world_size=size, rows=10**12 >> number)
        decision = decide(failure, history, PATIENT, sizes)
        assert isinstance(decision, Again)
        before, most = most, decision.most_workers or sizes[-1]
        assert sizes[0] <= most <= before
        if failure.came_up:
            assert most == before
        else:
            assert most < size or size == sizes[0]
        history.append(failure)
    committed = failed(Kind.HANG, committed=1)
    assert most_workers([*history, committed], sizes) is None


@given(retries, st.lists(st.tuples(st.sampled_from(BUDGETED), st.integers(0, 2)), max_size=30))
def test_with_commits_no_stretch_between_two_has_more_than_its_budgets(
    retry: Retry, sequence: list[tuple[Kind, int]]
) -> None:
    history: list[Failure] = []
    committed = 0
    stretch: list[Kind] = []
    for number, (kind, progress) in enumerate(sequence):
        committed += progress
        if progress:
            stretch = []
        failure = failed(kind, str(number), committed=committed)
        decision = decide(failure, history, retry, SIZES)
        if isinstance(decision, GiveUp):
            return
        stretch.append(kind)
        history.append(failure)
        assert stretch.count(kind) <= budget_of(kind, retry).retries
        if kind is not Kind.PREEMPTED:
            assert sum(each is not Kind.PREEMPTED for each in stretch) < retry.max_failures_without_commit
