"""Two specs -> the fields in which they differ, and what each difference means.

for difference in differences(before, after):
    print(difference, difference.meaning.effect.value, difference.meaning.why)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobspecs.identity import Effect, Meaning, leaves, meaning_of
from jobspecs.job import JobSpec


@dataclass(frozen=True)
class Difference:
    """A field that has another value. Printed as `training.global_batch: 512 -> 1024`."""

    path: str
    before: Any
    """`absent` where the other spec's sections have no such field."""
    after: Any
    meaning: Meaning

    def __str__(self) -> str:
        return f"{self.path}: {self.before} -> {self.after}"


def differences(before: JobSpec, after: JobSpec) -> list[Difference]:
    """The fields that differ, by path."""
    old, new = dict(leaves(before.model_dump(mode="json"))), dict(leaves(after.model_dump(mode="json")))
    mines = before.job_mining is not None or after.job_mining is not None
    return [
        Difference(".".join(path), old.get(path, "absent"), new.get(path, "absent"), meaning_of(path, mines=mines))
        for path in sorted(old.keys() | new.keys())
        if old.get(path) != new.get(path)
    ]


def overall(found: list[Difference]) -> Effect:
    """What they mean together: the gravest."""
    order = list(Effect)
    return max((difference.meaning.effect for difference in found), key=order.index, default=Effect.COSMETIC)
