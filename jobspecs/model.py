"""`model:` the towers. Vocabulary, context and image size come from `data:`, stated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from jobspecs.base import Section, misplaced
from jobspecs.data import Data
from jobspecs.descriptions import description
from jobspecs.units import PositiveInt

Projection = Literal["auto", "linear", "mlp", "none"]
Dropout = Annotated[float, Field(ge=0.0, lt=1.0)]

FROM_DATA = {
    "image_size": "data.image.size says it",
    "num_channels": "images have three",
    "vocab_size": "the tokenizer says it",
}
"""Settings of an architecture that are stated elsewhere, and where."""


class _Tower(Section):
    """What a tower has whichever its architecture."""

    projection: Projection = "auto"
    """From the tower's width to `embedding_dim`: `linear` (without bias, as in CLIP), `mlp` (SimCLR's head: two
    layers with a ReLU between them), `none` (the widths are equal). `auto` takes the checkpoint's own where it has
    one, none for SigLIP's towers where the widths are equal, and else linear; a frozen tower is given none that
    would stay random."""
    frozen: bool = False
    """Whether the whole tower, its projection included, keeps its first weights (LiT)."""
    dropout: Dropout = 0.0
    """Dropout of the hidden states. Its masks are drawn for each row, so that they depend neither on the number of
    ranks nor on micro-batches. Dropout of attention and stochastic depth are off in all architectures."""


class _ImageTower(_Tower):
    pooling: Literal["auto", "own", "cls", "mean"] = "auto"
    """How patches become one feature: `own` as the architecture does it, `cls` the class token, `mean` the mean of
    the patches. `auto` is `own` where the architecture pools (not by a layer meant for classification), then
    `cls`, then `mean`."""


class _TextTower(_Tower):
    pooling: Literal["auto", "own", "cls", "mean", "last"] = "auto"
    """How tokens become one feature: `own` as the architecture does it, `cls` the first token, `mean` the mean of
    the tokens, `last` the token that ends the text. `auto` is what a sentence-transformers folder says, `own` for
    SigLIP, `last` for causal architectures (CLIP's among them), and else `mean`."""


class _Transformer(Section):
    """CLIP's transformer from scratch (Radford et al. 2021)."""

    kind: Literal["transformer"]
    """Where the architecture is from."""
    width: PositiveInt
    """Width of the residual stream."""
    layers: PositiveInt
    """Number of transformer blocks."""
    heads: PositiveInt
    """Attention heads of each block."""
    mlp_ratio: PositiveInt = 4
    """Width of the feed-forward layers over `width`."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> _Transformer:
        if self.width % self.heads:
            raise misplaced("heads", f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class _Config(Section):
    """An architecture of transformers from scratch, by its `model_type`."""

    kind: Literal["config"]
    """Where the architecture is from."""
    architecture: str = Field(min_length=1)
    """Its `model_type` in transformers, such as `vit`, `dinov2`, `convnext`, `bert` or `qwen2`."""
    settings: dict[str, JsonValue] = Field(default={})
    """Fields of its configuration; the others keep transformers' defaults."""

    @model_validator(mode="after")
    def _stated_once(self) -> _Config:
        for name, where in FROM_DATA.items():
            if name in self.settings:
                raise misplaced(f"settings.{name}", f"{name!r} is not set here: {where}", "Leave it out.")
        for name in self.settings:
            if name.startswith("_"):
                raise misplaced(
                    f"settings.{name}",
                    f"{name!r} is none of the fields of a configuration",
                    "Leave it out: transformers' own switches, of which some load code, are not reached from a spec.",
                )
            if "drop" in name:
                raise misplaced(
                    f"settings.{name}",
                    f"{name!r} is not set here: dropout must not depend on the number of ranks",
                    "Leave it out; `dropout` of the tower is that of its hidden states.",
                )
        return self


class _Pretrained(Section):
    """A checkpoint of transformers with its weights (safetensors only; none of its code is run)."""

    kind: Literal["pretrained"]
    """Where the architecture is from."""
    name: str = Field(min_length=1)
    """A folder, or a name on the hub such as `openai/clip-vit-base-patch32`; of a model with an image and a text
    half the tower takes its half."""
    revision: str | None = None
    """A commit or tag on the hub: name one, so that the weights are the same tomorrow."""


class ImageTransformer(_ImageTower, _Transformer):
    """A vision transformer with a class token (Dosovitskiy et al. 2021), as CLIP builds it."""

    patch: PositiveInt
    """Side of a patch in pixels; must divide `data.image.size`."""


class ImagePreset(_ImageTower):
    """An image tower of published dimensions, from scratch."""

    kind: Literal["preset"]
    """Where the architecture is from."""
    name: Literal["ViT-B/32", "ViT-B/16", "ViT-L/14", "SigLIP-B/16", "ResNet-50"]
    """Which one."""


class ImageConfig(_ImageTower, _Config):
    """A vision architecture of transformers from scratch, by its `model_type`."""


class ImagePretrained(_ImageTower, _Pretrained):
    """A vision checkpoint of transformers, or the image half of one with two."""


class TextTransformer(_TextTower, _Transformer):
    """A causal transformer pooled at the end token, as CLIP builds it."""


class TextPreset(_TextTower):
    """A text tower of published dimensions, from scratch."""

    kind: Literal["preset"]
    """Where the architecture is from."""
    name: Literal["ViT-B/32", "ViT-B/16", "ViT-L/14", "SigLIP-B/16", "MiniLM-L6", "BERT-base"]
    """Which one; those of image towers stand for the text tower that was published with them."""


class TextConfig(_TextTower, _Config):
    """A text architecture of transformers from scratch, by its `model_type`."""


class TextPretrained(_TextTower, _Pretrained):
    """A text checkpoint of transformers, or the text half of one with two."""


ImageTower = Annotated[
    ImageTransformer | ImagePreset | ImageConfig | ImagePretrained,
    Field(discriminator="kind"),
]
"""The sections of an image tower."""
TextTower = Annotated[
    TextTransformer | TextPreset | TextConfig | TextPretrained,
    Field(discriminator="kind"),
]
"""The sections of a text tower."""


class Model(Section):
    """The towers, which end in one embedding space."""

    image: ImageTower | None = None
    """The tower of images."""
    text: TextTower | None = None
    """The tower of texts; queries and documents share it unless they have towers of their own."""
    query: TextTower | None = None
    """A tower for queries alone."""
    document: TextTower | None = None
    """A tower for documents alone."""
    embedding_dim: PositiveInt = 512
    """Width of the shared embedding."""

    def tower_of(self, side: str) -> str | None:
        """The tower's name that encodes `side` (image, text, query or document), None where there is none."""
        for name in (side, "text") if side in ("query", "document") else (side,):
            if getattr(self, name) is not None:
                return name
        return None

    def towers(self) -> dict[str, ImageTower | TextTower]:
        """The towers' sections by name."""
        named = {name: getattr(self, name) for name in ("image", "text", "query", "document")}
        return {name: tower for name, tower in named.items() if tower is not None}


def check_towers(model: Model, sides: Sequence[str], objective: str) -> None:
    """Each of `sides` (image, text, query, document) has its tower, and each tower its side. Raises the faults of
    a spec, with paths from its root; `objective` is named in them."""
    used = set()
    for side in sides:
        tower = model.tower_of(side)
        if tower is None:
            name = "text" if side in ("query", "document") else side
            remedy = f"{description(Model, name)} Objective {objective} needs it."
            raise misplaced(f"model.{name}", f"{name!r} is missing", " ".join(remedy.split()))
        used.add(tower)
    for name in model.towers():
        if name not in used:
            encodes = ", ".join(f"model.{model.tower_of(side)} encodes its {side}" for side in sides)
            raise misplaced(
                f"model.{name}", f"objective {objective} has no use for model.{name}", f"Leave it out: {encodes}."
            )
    towers = model.towers()
    if all(tower.frozen for tower in towers.values()):
        name = next(iter(towers))
        raise misplaced(f"model.{name}.frozen", "every tower is frozen", "Nothing would be trained: leave one free.")


def check_inputs(model: Model, data: Data) -> None:
    """What the towers take is what `data` gives. Raises the faults of a spec, with paths from its root."""
    if isinstance(model.image, ImageTransformer) and data.image is not None:
        size, patch = data.image.size, model.image.patch
        if size % patch:
            raise misplaced("data.image.size", f"size {size} is not a multiple of model.image.patch, {patch}")
    for side, text in data.texts.items():
        tower = model.tower_of(side)
        section = None if tower is None else getattr(model, tower)
        if isinstance(section, TextPretrained) and text.tokenizer.kind != "pretrained":
            raise misplaced(
                f"data.{side}.tokenizer.kind",
                f"model.{tower} is pretrained, and knows no tokens of a {text.tokenizer.kind!r} tokenizer",
                f"Give it its own: {{kind: pretrained, name: {section.name}}}.",
            )
    shared = [text.tokenizer for side, text in data.texts.items() if model.tower_of(side) == "text" and side != "text"]
    if len(shared) == 2 and shared[0] != shared[1]:
        raise misplaced(
            "data.document.tokenizer",
            "queries and documents share the tower model.text, but not their tokenizer",
            "Give both the same, or give model.query and model.document.",
        )
