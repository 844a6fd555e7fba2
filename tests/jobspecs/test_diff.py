"""What differs between two specs, and what it means. Which field means what is tried in test_job.py."""

from __future__ import annotations

import pytest

from jobspecs.diff import differences, overall
from jobspecs.identity import MEANINGS, Effect
from jobspecs.load import loads
from tests.jobspecs.conftest import EXAMPLE


@pytest.mark.parametrize(
    ("overrides", "effects", "together"),
    [
        ((), {}, Effect.COSMETIC),
        (("name=other", "storage.root=/b"), {"name": "cosmetic", "storage.root": "cosmetic"}, Effect.COSMETIC),
        (("name=other", "cluster.workers=4"), {"name": "cosmetic", "cluster.workers": "resumable"}, Effect.RESUMABLE),
        (
            ("training.micro_batch=4", "training.global_batch=64"),
            {"training.micro_batch": "resumable", "training.global_batch": "another experiment"},
            Effect.EXPERIMENT,
        ),
        (
            ("data.sources.0.urls=[b.tar]", "data.sources.0.name=b"),
            {"data.sources.0.urls": "resumable", "data.sources.0.name": "another experiment"},
            Effect.EXPERIMENT,
        ),
        (("evaluations.0.batch=5",), {"evaluations.0.batch": "resumable"}, Effect.RESUMABLE),
    ],
)
def test_effects(overrides: tuple[str, ...], effects: dict[str, str], together: Effect) -> None:
    found = differences(loads(EXAMPLE), loads(EXAMPLE, overrides=overrides))
    assert {each.path: each.meaning.effect.value for each in found} == effects
    assert overall(found) is together


def test_the_same_in_other_units() -> None:
    one, other = EXAMPLE.replace("steps: 400", "steps: 4000"), EXAMPLE.replace("steps: 400", "steps: 4k")
    assert differences(loads(one), loads(other)) == []


def test_every_meaning_can_be_reached() -> None:
    for number, meaning in enumerate(MEANINGS):
        path = tuple(meaning.pattern.split("."))
        assert not any(earlier.covers(path) for earlier in MEANINGS[:number]), meaning.pattern
        assert meaning.why
