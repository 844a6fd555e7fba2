"""`mining:` documents that a model takes for answers and that are none: hard negatives.

With queries and documents, a negative is a document that does not answer the sample's query. With images and texts, it
is a caption of other images that does not belong to the sample's image; the objective image_text does not train with
them, other trainers of the mined tars can.

`tandem mine` writes tars that have them, for the next training. A job with `before_training` or `every_steps` mines
for itself, and trains with what it found.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from jobspecs.base import Section, defaults, misplaced
from jobspecs.columns import Negatives
from jobspecs.units import NonNegativeInt, PositiveInt

BM25 = "bm25"
"""The word that names the lexical baseline in place of a model."""
SIDES = {"text_text": ("query", "document"), "image_text": ("image", "text")}
"""What negatives are looked for, and what they are: columns of `data:`, by objective."""


class Ranks(Section):
    """Which places of a query's ranking negatives come from. The nearest candidate that is no known positive has
    rank 1."""

    first: PositiveInt = 1
    """The smallest. Behind 1, it leaves out the nearest, which are the likeliest to be answers that nobody marked."""
    last: PositiveInt = 100
    """The largest."""

    @model_validator(mode="after")
    def _ordered(self) -> Ranks:
        if self.first > self.last:
            raise misplaced("last", f"last {self.last} is below first {self.first}")
        return self


class MaxSimilarity(Section):
    """How near to the query a negative may be, at most: what is nearer is likely to be an answer that nobody marked."""

    relative: Annotated[float, Field(gt=0.0, le=1.0)] | None = 0.95
    """Of the score of the sample's own positive (TopK-PercPos of Moreira et al. 2024, NV-Retriever, §3.2): with p, and
    s of the positive, s - (1 - p)·|s|, which is p·s where s is no negative number. None sets no such bound."""
    absolute: float | None = None
    """A score: a cosine, or BM25's. None sets no such bound."""


class Mining(Section):
    """How hard negatives are found, and whether the job itself does it."""

    model: Annotated[str, Field(min_length=1)] | None = None
    """What ranks the candidates: a run (its newest checkpoint) by directory, URI or name below `storage.root`, the
    folder of a checkpoint, or `bm25`, the words that query and document share; no model of another library. None takes
    the run of this job. In the job it is what mines before training; every so many steps its newest checkpoint does."""
    before_training: bool = False
    """Whether the job mines before its first step, by `model`. Only with the objective `text_text`."""
    every_steps: PositiveInt | None = None
    """The job mines again after so many steps, by what it has trained by then, and goes on with what that finds. Only
    with the objective `text_text`. None does not."""
    corpus: Annotated[list[str], Field(min_length=1)] | None = None
    """Tars, written as in `data.sources`, whose documents (texts) are the candidates. None takes those of
    `data.sources`."""
    count: PositiveInt = 8
    """Negatives a sample, at most."""
    ranks: Ranks = defaults(Ranks)
    """Which places of the ranking they come from."""
    max_similarity_to_positive: MaxSimilarity = defaults(MaxSimilarity)
    """How near to the query they may be."""
    sampling: Literal["top", "random"] = "top"
    """`top`: the nearest of those that are left. `random`: drawn among them, keyed by seed and query."""
    seed: NonNegativeInt = 0
    """Keys the draws of `random`."""

    @model_validator(mode="after")
    def _enough_ranks(self) -> Mining:
        there = self.ranks.last - self.ranks.first + 1
        if self.count > there:
            raise misplaced(
                "count", f"{self.count} negatives can't come from {there} ranks", "Lower it, or raise ranks.last."
            )
        return self

    @model_validator(mode="after")
    def _someone_mines(self) -> Mining:
        if self.before_training and self.model is None:
            raise misplaced(
                "model",
                "'model' is missing: before its first step the job has no checkpoint to mine by",
                "Name bm25, a run or a checkpoint; or leave before_training out, and every_steps mines later.",
            )
        if self.model is not None and self.every_steps is not None and not self.before_training:
            raise misplaced(
                "model",
                f"{self.model} would mine nothing: every so many steps the job's newest checkpoint does",
                "Set before_training: true, or leave model out.",
            )
        return self

    @property
    def in_job(self) -> bool:
        """Whether the job itself mines."""
        return self.before_training or self.every_steps is not None


def check_mining(mining: Mining, objective: str, negatives: Negatives | None) -> None:
    """Raises the fault, to be raised by a validator, of mining for an objective that has nothing to be mined; or in a
    job that can't train with what is mined. negatives: `data.negatives`."""
    fault: PydanticCustomError
    if objective not in SIDES:
        fault = misplaced("mining", f"objective {objective} has no pairs to mine for", f"Those of {_names()} have.")
        raise fault
    if mining.model == BM25 and objective != "text_text":
        fault = misplaced(
            "mining.model",
            f"bm25 compares words, and objective {objective} looks for texts by image",
            "Name a run or a checkpoint.",
        )
        raise fault
    if mining.in_job:
        _check_in_job(mining, objective, negatives)


def _check_in_job(mining: Mining, objective: str, negatives: Negatives | None) -> None:
    field = "before_training" if mining.before_training else "every_steps"
    if objective != "text_text":
        raise misplaced(
            f"mining.{field}",
            f"objective {objective} does not train with hard negatives",
            "Leave it out; `tandem mine` writes them into tars for other trainers.",
        )
    if negatives is None:
        raise misplaced(
            "data.negatives",
            "'negatives' is missing: the job mines, and this says how many of them go with each query",
            "Write `negatives: {count: 1}` or more.",
        )
    if negatives.column != Negatives().column:
        raise misplaced(
            "data.negatives.column",
            f"{negatives.column} would not be read: the job mines its negatives itself",
            f"Leave it out, or leave mining.{field} out.",
        )
    if negatives.count > mining.count:
        raise misplaced(
            "data.negatives.count",
            f"{negatives.count} negatives a query, and at most {mining.count} are mined (mining.count)",
            "Raise mining.count, or lower this.",
        )


def _names() -> str:
    return " and ".join(SIDES)
