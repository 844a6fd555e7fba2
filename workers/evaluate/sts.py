"""Semantic textual similarity: whether the cosine of two texts rises with the score that people gave the pair.

Spearman's and Pearson's correlation, as SentEval and MTEB report them. Equal values share their mean rank. Cosines that
differ by rounding alone are one value: all pairs then correlate with nothing, and a collapsed model has 0, which is
chance.

Letters: n pairs, r resamples.
"""

from __future__ import annotations

import json
import math

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError
from jobspecs.evaluation import Sts, TextPlace
from workers.data.filters import field_of
from workers.data.row_maker import texts_of
from workers.evaluate.bootstrap import Counts, Statistic
from workers.evaluate.encode import Encoder
from workers.evaluate.ranking import ROUNDING
from workers.evaluate.result import Measured, Scores, scored


def sts(spec: Sts, encoder: Encoder) -> Scores:
    """Scores `spearman` (main) and `pearson`.

    Raises DataError: fewer than two pairs, a text or score that is missing, or scores that are all equal.
    """
    columns = (spec.first.column, spec.second.column, spec.score_column)
    members = encoder.members(spec.data.urls, columns)
    firsts = [_text(spec, spec.first, row[0]) for row in members.columns]
    seconds = [_text(spec, spec.second, row[1]) for row in members.columns]
    gold = np.array([_score(spec, row[2]) for row in members.columns])
    if len(gold) < 2 or np.ptp(gold) == 0:
        raise DataError(
            f"evaluation {spec.name!r} needs two pairs at least with different scores, found {len(set(gold.tolist()))} "
            f"different ones of {len(gold)} pairs. Check score_column and score_field."
        )
    side = spec.side or ("text" if "text" in encoder.data.texts else "query")
    number = {text: i for i, text in enumerate(sorted({*firsts, *seconds}))}
    features = encoder.texts(list(number), spec.batch, side)
    one, other = (features[[number[text] for text in texts]] for texts in (firsts, seconds))
    cosines = np.nan_to_num((one.astype(np.float64) * other).sum(1), nan=-1.0)
    return scored(
        spec,
        encoder.data,
        {"spearman": Measured(spearman(cosines, gold), 0.0), "pearson": Measured(pearson(cosines, gold), 0.0)},
        groups=(len(gold),),
        samples=len(gold),
        skipped=members.skipped,
        data_fingerprint=members.fingerprint,
    )


def pearson(cosines: NDArray[np.float64], gold: NDArray[np.float64]) -> Statistic:
    """Pearson's correlation of (n,) and (n,); 0 where one of them does not vary."""
    if np.ptp(cosines) <= ROUNDING:
        cosines = np.zeros_like(cosines)
    return lambda counts: _correlation(counts, cosines, gold)


def spearman(cosines: NDArray[np.float64], gold: NDArray[np.float64]) -> Statistic:
    """Spearman's likewise."""
    if np.ptp(cosines) <= ROUNDING:
        cosines = np.zeros_like(cosines)
    values = [np.unique(each, return_inverse=True)[1] for each in (cosines, gold)]

    def ranked(counts: Counts) -> NDArray[np.float64]:
        return np.array([_correlation(row[None], *(_ranks(row, each) for each in values))[0] for row in counts])

    return ranked


def _ranks(counts: NDArray[np.float64], values: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,): ranks of pairs that count so often, whose values are numbered in their order; equal ones share the mean."""
    level = np.bincount(values, counts)
    mean: NDArray[np.float64] = level.cumsum() - (level - 1) / 2
    return mean[values]


def _correlation(counts: Counts, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """(r,)."""
    total = counts.sum(1, keepdims=True)
    dx, dy = (each - (counts @ each)[:, None] / total for each in (x, y))
    covariance = (counts * dx * dy).sum(1)
    scale = np.sqrt((counts * dx**2).sum(1) * (counts * dy**2).sum(1))
    varies = scale > 0
    correlation: NDArray[np.float64] = np.where(varies, covariance / np.where(varies, scale, 1), 0.0)
    return correlation


def _text(spec: Sts, place: TextPlace, content: bytes) -> str:
    try:
        text = content.decode("utf-8")
        found = [text] if place.field is None else texts_of(text, place.field)
    except ValueError:
        found = []
    if len(found) != 1:
        what = "is not UTF-8" if place.field is None else f"has no text in the field {place.field!r}"
        raise DataError(f"evaluation {spec.name!r}: a .{place.column} {what}. Set first and second to the texts.")
    return found[0]


def _score(spec: Sts, content: bytes) -> float:
    try:
        score = field_of(json.loads(content), spec.score_field)
    except (ValueError, RecursionError):
        score = None
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        raise DataError(
            f"evaluation {spec.name!r}: a sample's {spec.score_column} has no number in the field "
            f"{spec.score_field!r}. Set score_column and score_field to where the score of the pair stands."
        )
    return float(score)
