"""What an objective of a spec comes down to: which side of a pair stays and which travels, and the loss between them.

A *side* is what a tower encodes: `image`, `text`, `query`, `document`. The travelling side is encoded first, so
that its gather runs while the resident side is encoded. The training step and the plan read it, so there is no torch
here; a new objective is a section in jobspecs/objective.py, a function here and a line in `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jobspecs.data import Data
from jobspecs.objective import ImageText, Objective, SigLip, TextText, TwoView
from workers.losses.rule import NTXENT, Prefixes, Rule


@dataclass(frozen=True)
class Contrast:
    """An objective, made ready."""

    travelling: str
    """The side whose features go to all ranks."""
    resident: str
    """The side whose features stay; the travelling one where one tower's views are contrasted."""
    trained: frozenset[str]
    """Sides whose tower is trained; one at least."""
    inputs: dict[str, int]
    """Inputs of each side that belong to a row: 1, 2 views, or a document and its negatives."""
    kinds: tuple[str, ...]
    """Columns whose contents have a key: `text`, `image`, `query`, `document`."""
    equal: tuple[str, ...]
    """Those of them whose equality makes two pairs no negatives of each other."""
    rule: Rule
    """Directions and options of InfoNCE; of a sigmoid loss, only the margin counts."""
    sigmoid: bool
    prefixes: Prefixes | None
    wire: str
    """Type of features between ranks: fp32, fp16 or bf16."""

    @property
    def symmetric(self) -> bool:
        """Whether both sides are the same rows."""
        return self.resident == self.travelling


def contrast_of(objective: Objective, data: Data, trained: Callable[[str], bool]) -> Contrast:
    """The contrast of a spec's objective; `trained(side)` is False for a frozen tower, which had better travel: its
    features need no way back."""
    contrast = OBJECTIVES[type(objective)](objective, data, trained)
    return replace(contrast, trained=frozenset(filter(trained, contrast.inputs)))


def _image_text(objective: ImageText, data: Data, trained: Callable[[str], bool]) -> Contrast:
    # Either could travel, at the same cost: unless one of them is frozen, it is the text.
    travelling, resident = ("text", "image") if trained("image") or not trained("text") else ("image", "text")
    loss = objective.loss
    rule = Rule(margin=objective.false_negatives.margin)
    if not isinstance(loss, SigLip):
        of_images = {"both": 0.5, "image_to_text": 1.0, "text_to_image": 0.0}[loss.direction]
        to_travelling = of_images if resident == "image" else 1 - of_images
        rule = _with_options(rule, loss.label_smoothing, loss.hardness, to_travelling)
    return Contrast(
        travelling=travelling,
        resident=resident,
        trained=frozenset(),
        inputs={"image": 1, "text": 1},
        kinds=("text", "image"),
        equal=tuple(objective.false_negatives.equal),
        rule=rule,
        sigmoid=isinstance(loss, SigLip),
        prefixes=_prefixes(objective),
        wire=objective.wire_dtype,
    )


def _two_view(objective: TwoView, data: Data, trained: Callable[[str], bool]) -> Contrast:
    loss = objective.loss
    return Contrast(
        travelling="image",
        resident="image",
        trained=frozenset(),
        inputs={"image": 2},
        kinds=("image",),
        equal=tuple(objective.false_negatives.equal),
        rule=replace(
            NTXENT,
            label_smoothing=loss.label_smoothing,
            hardness=loss.hardness,
            margin=objective.false_negatives.margin,
        ),
        sigmoid=False,
        prefixes=_prefixes(objective),
        wire=objective.wire_dtype,
    )


def _text_text(objective: TextText, data: Data, trained: Callable[[str], bool]) -> Contrast:
    loss = objective.loss
    of_documents = {"query_to_document": 0.0, "document_to_query": 1.0, "both": 0.5}[loss.direction]
    rule = Rule(margin=objective.false_negatives.margin)
    return Contrast(
        travelling="query",
        resident="document",
        trained=frozenset(),
        inputs={"query": 1, "document": 1 + (data.negatives.count if data.negatives is not None else 0)},
        kinds=("query", "document"),
        equal=tuple(objective.false_negatives.equal),
        rule=_with_options(rule, loss.label_smoothing, loss.hardness, of_documents),
        sigmoid=False,
        prefixes=_prefixes(objective),
        wire=objective.wire_dtype,
    )


OBJECTIVES: dict[type[Objective], Callable[..., Contrast]] = {
    ImageText: _image_text,
    TwoView: _two_view,
    TextText: _text_text,
}
"""Section of a spec -> f(section, data, trained) -> its contrast; whose towers are trained, `contrast_of` says."""


def _with_options(rule: Rule, label_smoothing: float, hardness: float, to_travelling: float) -> Rule:
    return replace(
        rule,
        to_travelling=to_travelling,
        to_resident=1 - to_travelling,
        label_smoothing=label_smoothing,
        hardness=hardness,
    )


def _prefixes(objective: Objective) -> Prefixes | None:
    matryoshka = objective.matryoshka
    if matryoshka is None:
        return None
    return Prefixes(tuple(matryoshka.dims), tuple(matryoshka.weights or [1.0] * len(matryoshka.dims)))
