"""What an evaluation returns, and what of it is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from jobspecs.data import Data
from jobspecs.errors import DataError
from jobspecs.evaluation import Evaluation
from jobspecs.scores import main_score
from workers.evaluate import bootstrap
from workers.evaluate.bootstrap import Statistic


@dataclass(frozen=True)
class Measured:
    """A score as a function of the samples, and what it is worth."""

    statistic: Statistic
    chance: float
    """What a model that knows nothing has."""


@dataclass(frozen=True)
class Histograms:
    """How similarities are distributed: shares of those in equal bins from -1 to 1."""

    bins: int
    shares: dict[str, list[float]]
    """By what is compared."""


@dataclass(frozen=True)
class Scores:
    """The outcome of an evaluation. Scores lie in 0…1, the larger the better, where their names don't say otherwise
    (jobspecs/scores.py)."""

    main: str
    """Name of the main score."""
    scores: dict[str, float]
    samples: int
    """Samples that were scored."""
    skipped: int
    """Samples that could not be read or decoded, and were not scored."""
    chance: float
    """Main score of a model that knows nothing."""
    higher_is_better: bool
    """Of the main score."""
    interval: tuple[float, float]
    """95 % confidence interval of the main score, by bootstrap over samples or queries."""
    resamples: int
    """Of the bootstrap."""
    seed: int
    """Of all that was drawn."""
    data_fingerprint: str
    """Of what was scored: hashes of the shards' names and sizes and of the contents that were used."""
    histograms: Histograms | None = None
    search: str | None = None
    """exact or approximate: how the nearest were found. None where nothing is searched."""


def scored(
    spec: Evaluation,
    columns: Data,
    measured: Mapping[str, Measured],
    *,
    groups: Sequence[int],
    samples: int,
    skipped: int,
    data_fingerprint: str,
    histograms: Histograms | None = None,
) -> Scores:
    """The outcome of scores by name. groups: as `bootstrap.interval` has them. Raises DataError: what `main` names is
    not among the scores of these data."""
    main = main_score(spec, columns)
    if main.name not in measured:
        raise DataError(
            f"evaluation {spec.name!r}: main is {main.name!r}, which these data have not. They have: "
            f"{', '.join(measured)}."
        )
    total = sum(groups)
    return Scores(
        main=main.name,
        scores={name: bootstrap.value(each.statistic, total) for name, each in measured.items()},
        samples=samples,
        skipped=skipped,
        chance=measured[main.name].chance,
        higher_is_better=main.higher_is_better,
        interval=bootstrap.interval(measured[main.name].statistic, groups, spec.seed),
        resamples=bootstrap.RESAMPLES,
        seed=spec.seed,
        data_fingerprint=data_fingerprint,
        histograms=histograms,
        search=getattr(spec, "search", None),
    )


@dataclass(frozen=True)
class Result:
    """One evaluation of one checkpoint, as kept in the run directory."""

    evaluation: str
    """Its name in the spec."""
    kind: str
    spec_hash: str
    """`evaluation_hash` of the section that it was done for."""
    step: int
    """Optimizer steps behind the checkpoint."""
    checkpoint: str
    """URI."""
    seconds: float
    result: Scores

    def to_json(self) -> bytes:
        """As stored; lists of numbers on one line."""
        fields = asdict(self)
        text = json.dumps(fields | fields.pop("result"), indent=2)
        # No text in JSON holds a bare newline: what matches is a list.
        return re.sub(r"\[\n\s+([^\[\]{}\"]+?)\n\s+\]", _on_one_line, text).encode()


def _on_one_line(found: re.Match[str]) -> str:
    return "[" + " ".join(found[1].split()) + "]"
