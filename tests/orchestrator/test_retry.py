"""The retry policy: a table of every kind of failure, and what holds for any sequence of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspecs.retry import Budget, Retry
from orchestrator.failure import Failure, Kind
from orchestrator.retry import REMEDY, Again, Encoded, GiveUp, budget_of, decide, delay_seconds

NEVER = {Kind.SPEC, Kind.DIVERGED, Kind.FENCED}
"""Kinds that are not tried again."""
BUDGETED = [kind for kind in Kind if kind not in NEVER | {Kind.CHECKPOINT}]

ROWS = Encoded(rows=48, divisible=True)


def failures(kind: Kind, count: int, **fields: int) -> list[Failure]:
    """So many in a row, each of another exception."""
    return [Failure(kind, "what happened", fingerprint=f"{kind} {'i' * number}", **fields) for number in range(count)]


FIRST = {
    Kind.DATA: Again(2.0),
    Kind.STORAGE: Again(60.0),
    Kind.CHECKPOINT: Again(0.0),
    Kind.OUT_OF_MEMORY: Again(2.0, smaller_micro_batch=24),
    Kind.HOST_OUT_OF_MEMORY: Again(2.0),
    Kind.WORKER_LOST: Again(2.0),
    Kind.NODE_LOST: Again(2.0),
    Kind.PREEMPTED: Again(0.0),
    Kind.HANG: Again(2.0),
    Kind.BUG: Again(2.0),
    **{kind: GiveUp(REMEDY[kind]) for kind in NEVER},
}
"""What follows on the first failure of each kind, with the defaults and the longest draw."""


@pytest.mark.parametrize("kind", Kind)
def test_the_first_failure_of_a_kind(kind: Kind) -> None:
    assert decide(Failure(kind, "what happened"), [], Retry(), encoded=ROWS, draw=1.0) == FIRST[kind]


@pytest.mark.parametrize("kind", BUDGETED)
def test_a_kind_has_its_budget(kind: Kind) -> None:
    """Only its own failures count in it; the last one says which it was, and what to do."""
    retry = Retry(**{kind: {"retries": 2}}, max_failures_without_commit=9)
    others = failures(Kind.DATA if kind is not Kind.DATA else Kind.HANG, 3)
    *history, last = failures(kind, 3)
    assert isinstance(decide(history[0], others, retry, encoded=ROWS), Again)
    assert isinstance(decide(history[1], [*others, history[0]], retry, encoded=ROWS), Again)
    given_up = decide(last, [*others, *history], retry, encoded=ROWS)
    assert given_up == GiveUp(
        f"3 failures of kind {kind} with no new commit in between (retry.{kind}.retries). {REMEDY[kind]}"
    )


@pytest.mark.parametrize("kind", BUDGETED)
def test_a_new_commit_gives_the_budget_back_and_the_first_delay(kind: Kind) -> None:
    retry = Retry(**{kind: {"retries": 2, "delay_seconds": 4.0}})
    history = failures(kind, 2, committed=100)
    again = decide(Failure(kind, "again", committed=200), history, retry, encoded=ROWS, draw=1.0)
    assert isinstance(again, Again)
    assert again.delay_seconds == 4.0
    again = decide(Failure(kind, "again", committed=200), failures(kind, 2, committed=200), retry, encoded=ROWS)
    assert isinstance(again, GiveUp)


def test_three_failures_of_any_kinds_without_a_new_commit_end_the_job() -> None:
    history = [Failure(Kind.WORKER_LOST, "a", committed=10), Failure(Kind.PREEMPTED, "no failure", committed=10)]
    assert isinstance(decide(Failure(Kind.HANG, "b", committed=10), history, Retry()), Again)
    history.append(Failure(Kind.HANG, "b", committed=10))
    third = Failure(Kind.NODE_LOST, "c", committed=10)
    assert decide(third, history, Retry()) == GiveUp(
        f"3 failures with no new commit in between (retry.max_failures_without_commit). {REMEDY[Kind.NODE_LOST]}"
    )
    assert isinstance(decide(Failure(Kind.PREEMPTED, "d", committed=10), history, Retry()), Again)
    assert isinstance(decide(Failure(Kind.NODE_LOST, "c", committed=20), history, Retry()), Again)


def test_a_number_of_attempts_may_be_all() -> None:
    """Whatever was committed in between."""
    first = Failure(Kind.WORKER_LOST, "a", committed=100)
    second = Failure(Kind.WORKER_LOST, "b", committed=200)
    assert isinstance(decide(second, [first], Retry()), Again)
    assert decide(second, [first], Retry(max_attempts=2)) == GiveUp(
        f"2 of 2 attempts failed (retry.max_attempts). {REMEDY[Kind.WORKER_LOST]}"
    )


def test_the_same_bug_at_the_same_step_is_not_tried_again() -> None:
    retry = Retry(bug={"retries": 9})
    bug = Failure(Kind.BUG, "ValueError: x", fingerprint="ValueError: x", step=120, committed=100)
    assert decide(bug, [bug], retry) == GiveUp(f"The same exception came at step 120 again. {REMEDY[Kind.BUG]}")
    later = Failure(Kind.BUG, "ValueError: x", fingerprint="ValueError: x", step=121, committed=100)
    other = Failure(Kind.BUG, "KeyError: x", fingerprint="KeyError: x", step=120, committed=100)
    assert isinstance(decide(later, [bug], retry), Again)
    assert isinstance(decide(other, [bug], retry), Again)


@pytest.mark.parametrize(("rows", "smaller"), [(48, 24), (7, 4), (3, 2), (2, 1)])
def test_out_of_memory_halves_the_micro_batch(rows: int, smaller: int) -> None:
    again = decide(Failure(Kind.OUT_OF_MEMORY, "full"), [], Retry(), encoded=Encoded(rows, divisible=True))
    assert isinstance(again, Again)
    assert again.smaller_micro_batch == smaller


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (Encoded(48, divisible=False), "batch normalisation, so that a rank can't encode its rows in parts"),
        (Encoded(1, divisible=True), "one row at a time already. Use training.gradient_checkpointing"),
    ],
)
def test_out_of_memory_where_nothing_is_smaller(encoded: Encoded, words: str) -> None:
    given_up = decide(Failure(Kind.OUT_OF_MEMORY, "full"), [], Retry(), encoded=encoded)
    assert isinstance(given_up, GiveUp)
    assert words in given_up.reason


def test_a_checkpoint_that_is_damaged_costs_nothing() -> None:
    retry = Retry(max_attempts=1, max_failures_without_commit=1)
    damaged = Failure(Kind.CHECKPOINT, "step-8 is damaged", committed=8)
    assert decide(damaged, failures(Kind.WORKER_LOST, 5, committed=8), retry) == Again(0.0)


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
steps = st.builds(
    lambda kind, bug, step, draw: (kind, bug, step, draw),
    st.sampled_from(BUDGETED),
    st.sampled_from(["a", "b"]),
    st.integers(0, 3),
    unit,
)


@given(budgets, st.integers(1, 10**9), unit)
def test_a_delay_is_bounded_and_not_negative(budget: dict[str, float], number: int, draw: float) -> None:
    assert 0.0 <= delay_seconds(Budget(**budget), number, draw) <= budget["max_delay_seconds"]


@given(retries, st.lists(steps, min_size=40, max_size=40), st.integers(1, 64))
def test_without_commits_a_job_ends_within_its_budgets(
    retry: Retry, sequence: list[tuple[Kind, str, int, float]], rows: int
) -> None:
    """No kind has more attempts than its budget, all together not more than they may, and so it terminates: 10 kinds
    with at most 4 retries each can't last for 40 failures."""
    history: list[Failure] = []
    allowed: list[Kind] = []
    for kind, bug, step, draw in sequence:
        failure = Failure(kind, "what happened", fingerprint=bug, step=step)
        decision = decide(failure, history, retry, encoded=Encoded(rows, divisible=True), draw=draw)
        if isinstance(decision, GiveUp):
            break
        assert 0.0 <= decision.delay_seconds <= budget_of(kind, retry).max_delay_seconds
        if decision.smaller_micro_batch is not None:
            assert 1 <= decision.smaller_micro_batch < rows
            rows = decision.smaller_micro_batch
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
        failure = Failure(kind, "what happened", fingerprint=str(number), committed=committed)
        decision = decide(failure, history, retry, encoded=ROWS)
        if isinstance(decision, GiveUp):
            return
        stretch.append(kind)
        history.append(failure)
        assert stretch.count(kind) <= budget_of(kind, retry).retries
        if kind is not Kind.PREEMPTED:
            assert sum(each is not Kind.PREEMPTED for each in stretch) < retry.max_failures_without_commit
