"""Which version of the negatives a step trains with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jobspecs.mining import Mining
from workers.mining.versions import Era, era_of, eras


def mining(before: bool, every: int | None) -> Mining:
    return Mining(model="bm25" if before else None, before_training=before, every_steps=every)


def test_the_examples() -> None:
    assert eras(mining(True, 100), 250) == [Era(1, 0, 100), Era(2, 100, 200), Era(3, 200, 250)]
    assert eras(mining(False, 100), 200) == [Era(0, 0, 100), Era(1, 100, 200)], "none is mined behind the last step"
    assert eras(mining(True, None), 250) == [Era(1, 0, 250)]
    assert eras(None, 250) == [Era(0, 0, 250)]


@given(st.booleans(), st.none() | st.integers(1, 40), st.integers(1, 200), st.data())
def test_a_step_is_in_one_era_whatever_attempts_there_are(
    before: bool, every: int | None, total: int, data: st.DataObject
) -> None:
    section = mining(before, every)
    found = eras(section, total)
    assert [step for era in found for step in range(era.start, era.end)] == list(range(total))
    assert [era.version for era in found] == list(range(before, before + len(found)))
    step = data.draw(st.integers(0, total - 1))
    (own,) = (era for era in found if era.start <= step < era.end)
    assert era_of(section, total, step) == own
    if every is not None:
        assert all(era.start % every == 0 for era in found)
