"""What names an evaluation names one that is there, and that is done when it is needed."""

from __future__ import annotations

from collections.abc import Sequence

from jobspecs.base import misplaced
from jobspecs.checkpoint import KeepBest
from jobspecs.evaluation import Evaluation
from jobspecs.schedule import EarlyStop


def check_references(evaluations: Sequence[Evaluation], keep_best: KeepBest | None, stop: EarlyStop | None) -> None:
    """Raises the fault, to be raised by the job's validator, of a name that can't be used."""
    by_name = {evaluation.name: evaluation for evaluation in evaluations}
    for place, named in (
        *((f"evaluations.{number}.best_only", each.best_only) for number, each in enumerate(evaluations)),
        ("checkpoint.keep_best.evaluation", keep_best and keep_best.evaluation),
        ("stop.evaluation", stop and stop.evaluation),
    ):
        if named is None:
            continue
        if named not in by_name:
            listed = f"Names of evaluations: {', '.join(by_name) or 'none'}."
            raise misplaced(place, f"there is no evaluation {named!r}", listed)
        if by_name[named].every_checkpoints is None:
            raise misplaced(
                place,
                f"evaluation {named!r} does not compare checkpoints: it is done of one alone",
                f"Give {named} an every_checkpoints.",
            )
