"""The scores of the evaluations: their names, which way is better, and which is the main one.

    main_score(section, spec.data)    Score("acc@1", higher_is_better=True)

What compares checkpoints (`checkpoint.keep_best`, early stopping) asks here; no result needs to be there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobspecs.data import Data

if TYPE_CHECKING:
    from jobspecs.evaluation import Evaluation

ACCURACIES = ("acc@1", "acc@5", "mean_per_class_recall")
"""Of classifications; `acc@5` where there are more than 5 classes."""
RANKED = (
    "nDCG@10",
    "MRR@10",
    "MAP@100",
    *(f"{what}@{k}" for what in ("R", "recall") for k in (1, 5, 10)),
    "median_rank",
)
"""Of rankings."""
FOUND = RANKED[:-1]
"""Of rankings of which only the best places are known."""
WAYS = ("image_to_text", "text_to_image")
_LOWER = ("median_rank", "alignment", "uniformity", "mean_cosine")
"""Scores that are better when lower, whatever stands before them."""


@dataclass(frozen=True)
class Score:
    """A score of an evaluation."""

    name: str
    higher_is_better: bool


def score_names(evaluation: Evaluation, data: Data) -> tuple[str, ...]:
    """All scores that an evaluation can have on the columns of `data`; the first is the kind's main one."""
    match evaluation.kind:
        case "zero_shot":
            files = [file.name for file in evaluation.label_files]
            return ACCURACIES + tuple(f"{file}_{name}" for file in files for name in ACCURACIES)
        case "knn" | "linear_probe":
            return ACCURACIES
        case "retrieval":
            ranked = FOUND if evaluation.search == "approximate" else RANKED
            if data.query is not None:
                return ranked
            return ("mean_R@1", *(f"{way}_{name}" for way in WAYS for name in ranked))
        case "sts":
            return ("spearman", "pearson")
        case "health":
            sides = ("query", "document") if data.query is not None else ("image", "text")
            of_sides = ("uniformity", "effective_rank", "feature_std", "mean_cosine")
            return ("uniformity", "alignment", *(f"{side}_{name}" for name in of_sides for side in sides))


def main_score(evaluation: Evaluation, data: Data) -> Score:
    """The score by which checkpoints are compared, whose name and value a result holds."""
    name = evaluation.main or score_names(evaluation, data)[0]
    return Score(name, not name.endswith(_LOWER))
