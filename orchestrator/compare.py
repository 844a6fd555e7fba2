"""`tandem diff`: two specs, each a file or that of a run, and what each changed field means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobspecs.diff import Difference, differences, overall
from jobspecs.errors import NotFoundError, UsageError
from jobspecs.identity import Effect
from jobspecs.job import JobSpec
from jobspecs.load import load
from jobspecs.storage import S3


@dataclass(frozen=True)
class Comparison:
    """What `tandem diff` answers."""

    effect: Effect
    """The gravest of all."""
    differences: tuple[Difference, ...]

    @property
    def verdict(self) -> str:
        """All of it in a sentence."""
        if not self.differences:
            return "the specs are the same"
        return {
            Effect.COSMETIC: "the same experiment; training looks at none of it",
            Effect.RESUMABLE: "the same experiment; a run goes on with it",
            Effect.EXPERIMENT: "another experiment: give it another name",
        }[self.effect]

    def as_json(self) -> dict[str, Any]:
        """The answer of `-o json`."""
        return {
            "effect": self.effect.value,
            "same_experiment": self.effect is not Effect.EXPERIMENT,
            "differences": [
                {
                    "path": each.path,
                    "before": each.before,
                    "after": each.after,
                    "effect": each.meaning.effect.value,
                    "why": each.meaning.why,
                }
                for each in self.differences
            ],
        }


def compare(before: str, after: str, s3: S3 | None, root: str) -> Comparison:
    """Compares two specs: files, runs by directory or URI or by name below `root`, or one of each.

    Raises UsageError: a file with faults, neither a file nor a run; StorageError.
    """
    one, other = _spec(before, s3, root), _spec(after, s3, root)
    if _is_file(before) != _is_file(after):  # a run's has absolute URIs
        from orchestrator.absolute_uris import absolute_uris

        one, other = absolute_uris(one), absolute_uris(other)
    found = differences(one, other)
    return Comparison(overall(found), tuple(found))


def _is_file(given: str) -> bool:
    """Whether it is a spec's file, which is read here as by any command; every URI is that of a run."""
    return "://" not in given and (given.endswith((".yaml", ".yml")) or Path(given).is_file())


def _spec(given: str, s3: S3 | None, root: str) -> JobSpec:
    if _is_file(given):
        return load(given)
    from orchestrator.named_run import named_run
    from workers.run_inputs import load_spec
    from workers.storage import Storage

    run = named_run(given, root)
    try:
        return load_spec(Storage(s3 or S3()), run)
    except NotFoundError as error:
        raise UsageError(
            f"{given} is neither a spec nor a run: there is no {run.spec}. Give a YAML file of this machine, a run "
            f"directory or its URI, or the name of a run below --root ({root})."
        ) from error
