"""A spec's `model:` -> the model with its first weights, or the number of its parameters without any.

A tower is made twice: first as a skeleton on PyTorch's meta device, which tells its width and which parameters
nothing depends on, and finds out at no cost what the architecture can't do; then for real.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from jobspecs.columns import Image, Text
from jobspecs.data import Data
from jobspecs.errors import UsageError
from jobspecs.model import Model
from jobspecs.objective import Objective, SigLip
from workers.data.tokenize import Tokenizer
from workers.losses.logit_scale import BiasParameter, LogitScaleParameter
from workers.models import image_tower, text_tower
from workers.models.activations import Activations, count_activations
from workers.models.architecture import HIDDEN_DROPOUT, Architecture, architecture_of, first_line
from workers.models.batch_norm import GlobalBatchNorm, replace_batch_norm
from workers.models.dropout import KeyedDropout, drawn_at_random, replace_dropout, word_of
from workers.models.image_tower import ImageTower
from workers.models.model import ContrastiveModel
from workers.models.projection import make_projection
from workers.models.shapes import ShapesOnly
from workers.models.text_tower import TextTower
from workers.models.tower import Inputs, Tower
from workers.models.unused import leave_out, unused_parameters


def build(
    model: Model,
    data: Data,
    objective: Objective,
    seed: int,
    tokenizers: dict[str, Tokenizer],
    *,
    gradient_checkpointing: bool = False,
    compile: bool = False,  # noqa: A002 - the spec's word
) -> ContrastiveModel:
    """The model of a spec with its first weights, which depend on `seed` alone. fp32, on the CPU, in train mode.

    tokenizers: by name of the text column. Raises UsageError.
    """
    towers = {recipe.name: _build(recipe, model.embedding_dim, seed) for recipe in _recipes(model, data, tokenizers)}
    for name, made in towers.items():
        if gradient_checkpointing and not made.frozen:
            if any(isinstance(module, GlobalBatchNorm) for module in made.modules()):
                raise UsageError(
                    f"training.gradient_checkpointing: model.{name} normalises over the batch of all ranks, and can't "
                    "compute its blocks twice. Leave it out, or choose an architecture without batch normalisation"
                )
            made.checkpoint_gradients(f"model.{name}")
        if compile:
            made.network.compile()
    tower_of = {side: tower for side in _sides(data) if (tower := model.tower_of(side)) is not None}
    bias = BiasParameter(objective.loss.bias) if isinstance(objective.loss, SigLip) else None
    return ContrastiveModel(towers, tower_of, LogitScaleParameter(objective.logit_scale), bias).train()


@dataclass(frozen=True)
class TowerSize:
    """A tower without its weights."""

    parameters: int
    """All of them, projection included."""
    trained: int
    """Those that are trained: all, or none of a frozen tower."""
    width: int
    """Of the pooled feature."""
    divisible: bool
    """Whether it may encode a batch in parts: not where it is trained and normalises over the batch."""


def tower_sizes(model: Model, data: Data, tokenizers: dict[str, Tokenizer]) -> dict[str, TowerSize]:
    """The size of each tower by name; no weights are read or made. Raises UsageError."""
    sizes = {}
    for recipe in _recipes(model, data, tokenizers):
        with torch.random.fork_rng(devices=[]):
            tower, draft = _skeleton(recipe, model.embedding_dim)
        count = sum(parameter.numel() for parameter in tower.parameters())
        divisible = tower.frozen or not any(isinstance(module, GlobalBatchNorm) for module in tower.modules())
        sizes[recipe.name] = TowerSize(count, 0 if tower.frozen else count, draft.width, divisible)
    return sizes


def own_widths(model: Model, data: Data, tokenizers: dict[str, Tokenizer]) -> dict[str, int]:
    """How wide the embedding of each tower by name is without a projection but the checkpoint's own, whatever
    `embedding_dim` says; no weights are read or made. Raises UsageError."""
    widths = {}
    for recipe in _recipes(model, data, tokenizers):
        with torch.random.fork_rng(devices=[]):
            sketch = _sketch(recipe)
        widths[recipe.name] = sketch.width if sketch.own is None else _reached(sketch.own, sketch.width)
    return widths


def activations_of(
    model: Model,
    data: Data,
    tokenizers: dict[str, Tokenizer],
    precision: Literal["fp32", "bf16", "fp16"],
    *,
    gradient_checkpointing: bool = False,
) -> dict[str, Activations]:
    """What an input of each side makes its tower keep for the backward pass, by side; with gradient checkpointing, what
    one of the blocks keeps while it is computed again is counted in. Nothing is run. Raises UsageError."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    found = {}
    for side in _sides(data):
        (recipe,) = (each for each in _recipes(model, data, tokenizers) if each.name == model.tower_of(side))
        column = data.image if side == "image" else data.texts[side]
        assert column is not None, "one of the data's sides"
        sample = replace(recipe, column=column).sample()
        tower, _ = _skeleton(recipe, model.embedding_dim)
        kept = count_activations(tower, sample, precision)
        if gradient_checkpointing and not tower.frozen:
            tower, _ = _skeleton(recipe, model.embedding_dim)
            tower.checkpoint_gradients(f"model.{recipe.name}")
            blocks = sum(isinstance(module, GradientCheckpointingLayer) for module in tower.modules())
            ends = count_activations(tower, sample, precision)
            per_row, once = (
                end + (whole - end) / max(1, blocks)
                for end, whole in ((ends.per_row, kept.per_row), (ends.once, kept.once))
            )
            kept = Activations(per_row, once)
        found[side] = kept
    return found


def _sides(data: Data) -> list[str]:
    return [*(["image"] if data.image is not None else []), *data.texts]


def _recipes(model: Model, data: Data, tokenizers: dict[str, Tokenizer]) -> list[_Recipe]:
    """What is needed to make each tower, in the order image, text, query, document."""
    recipes = []
    for name, section in model.towers().items():
        architecture = architecture_of(section, f"model.{name}", "image" if name == "image" else "text")
        if name == "image":
            assert data.image is not None, "JobSpec asks for it"
            recipes.append(_Recipe(name, architecture, name, data.image, None))
        else:
            # Queries and documents may share a tower and differ in length.
            sides = [side for side in data.texts if model.tower_of(side) == name]
            side = max(sides, key=lambda side: data.texts[side].context_length)
            recipes.append(_Recipe(name, architecture, side, data.texts[side], tokenizers[side]))
    return recipes


@dataclass(frozen=True)
class _Recipe:
    """What is needed to make a tower."""

    name: str
    architecture: Architecture
    side: str
    """The section of `data:`."""
    column: Image | Text
    """That section, of the longest texts where a tower has two."""
    tokenizer: Tokenizer | None
    """Of texts."""

    def fit(self) -> None:
        """Fits the architecture's config to the data."""
        _set_dropout(self.architecture)
        if isinstance(self.column, Image):
            image_tower.fit_to_images(self.architecture, self.column)
        else:
            assert self.tokenizer is not None
            text_tower.fit_to_texts(self.architecture, self.column, self.tokenizer, self.side)

    def tower(self, network: nn.Module) -> Tower:
        """A tower around a network, without projection."""
        if isinstance(self.column, Image):
            interpolate = image_tower.interpolates(self.architecture, network, self.column)
            return ImageTower(network, self.column, interpolate)
        assert self.tokenizer is not None
        return TextTower(network, self.tokenizer)

    def choose_pooling(self, tower: Tower, output: Any, shapes: ShapesOnly) -> None:
        """Sets how the tower pools, given what its network gives, and what was seen while it did."""
        asked = self.architecture.section.pooling
        if isinstance(tower, ImageTower):
            assert isinstance(self.column, Image)
            image_tower.choose_pooling(tower, asked, output, self.architecture, self.column)
        else:
            assert isinstance(tower, TextTower)
            text_tower.choose_pooling(tower, asked, output, self.architecture, mixes_places=bool(shapes.mixed))

    def sample(self) -> Inputs:
        """Two rows of input on the meta device."""
        if isinstance(self.column, Image):
            side = self.column.size
            return {"pixels": torch.empty((2, side, side, 3), dtype=torch.uint8, device="meta")}
        return {"tokens": torch.empty((2, self.column.context_length), dtype=torch.int32, device="meta")}


@dataclass(frozen=True)
class _Draft:
    """What a skeleton told of a tower."""

    sketch: Tower
    """Knows how to pool."""
    width: int
    unused: frozenset[str]
    projection: str
    """own (the checkpoint's), linear, mlp or none."""


def _build(recipe: _Recipe, embedding_dim: int, seed: int) -> Tower:
    """A tower with its first weights."""
    architecture = recipe.architecture
    with torch.random.fork_rng(devices=[]):
        _, draft = _skeleton(recipe, embedding_dim)
        # Each tower has draws of its own: one more layer here leaves the other's weights as they are.
        torch.manual_seed(word_of(f"{seed}/{recipe.name}"))
        network, own = architecture.make()
        lacking = sorted({name for name, _ in network.named_parameters()} & architecture.missing - draft.unused)
        if lacking:
            raise UsageError(
                f"{architecture.place}: {architecture.name} lacks weights that the tower needs: "
                f"{', '.join(lacking[:3])}{', …' if len(lacking) > 3 else ''}. Choose another pooling than "
                f"{draft.sketch.pooling}, or another checkpoint"
            )
        return _finished(recipe, network, own, draft, embedding_dim)


@dataclass(frozen=True)
class _Sketch:
    """A network on the meta device that has encoded two rows."""

    network: nn.Module
    own: nn.Module | None
    """The projection that its checkpoint has."""
    tower: Tower
    """Around it, and knows how to pool."""
    pooled: Tensor
    """(2, w)."""

    @property
    def width(self) -> int:
        return self.pooled.shape[-1]


def _sketch(recipe: _Recipe) -> _Sketch:
    """Raises UsageError for what the architecture can't do."""
    recipe.fit()
    architecture = recipe.architecture
    network, own = architecture.skeleton()
    sketch = recipe.tower(network).eval()
    try:
        with ShapesOnly() as shapes:
            output = sketch.output(recipe.sample())
        output.last_hidden_state  # noqa: B018
    except Exception as error:  # whatever the architecture raises
        raise UsageError(
            f"{architecture.place}: {architecture.name} ({type(network).__name__}) can't encode the {recipe.name}s of "
            f"the data ({type(error).__name__}: {first_line(error)}). Choose another architecture, or other sizes"
        ) from error
    if shapes.drawn:
        raise UsageError(
            f"{architecture.place}: {architecture.name} ({type(network).__name__}) draws at random "
            f"({shapes.drawn[0]}), so that features would depend on the number of ranks. Choose another architecture"
        )
    recipe.choose_pooling(sketch, output, shapes)
    with ShapesOnly():
        pooled = sketch.pooled(recipe.sample())
    return _Sketch(network, own, sketch, pooled)


def _skeleton(recipe: _Recipe, embedding_dim: int) -> tuple[Tower, _Draft]:
    """The tower on the meta device. Raises UsageError for what the architecture can't do."""
    sketch = _sketch(recipe)
    projection = _projection(recipe.architecture, sketch.own, sketch.width, embedding_dim)
    draft = _Draft(sketch.tower, sketch.width, unused_parameters(sketch.network, sketch.pooled), projection)
    with torch.device("meta"):
        finished = _finished(recipe, sketch.network, sketch.own, draft, embedding_dim)
    _check_dropout(finished, recipe)
    return finished, draft


def _reached(own: nn.Module, width: int) -> int:
    """How wide a projection on the meta device makes features of `width`."""
    reached: int = own(torch.empty((1, width), device="meta")).shape[-1]
    return reached


def _finished(recipe: _Recipe, network: nn.Module, own: nn.Module | None, draft: _Draft, embedding_dim: int) -> Tower:
    section = recipe.architecture.section
    leave_out(network, draft.unused)
    tower = recipe.tower(network)
    tower.pool_as(draft.sketch)
    if draft.projection == "own":
        assert own is not None
        tower.projection = own
    else:
        tower.projection = make_projection(draft.projection, draft.width, embedding_dim)
    replace_dropout(network, recipe.name, tower.keys)
    replace_batch_norm(network, tower.rows)
    tower.train()
    if section.frozen:
        tower.freeze()
    return tower


def _projection(architecture: Architecture, own: nn.Module | None, width: int, embedding_dim: int) -> str:
    """own, linear, mlp or none. Raises UsageError where the widths don't fit."""
    section, place = architecture.section, architecture.place
    if section.projection == "auto":
        if own is not None:
            reached = _reached(own, width)
            if reached != embedding_dim:
                raise UsageError(
                    f"model.embedding_dim: {embedding_dim}, and the projection of {architecture.name} in {place} has "
                    f"the width {reached}. Set embedding_dim to {reached}, or {place}.projection to linear"
                )
            return "own"
        if width == embedding_dim and (section.frozen or architecture.config.model_type.startswith("siglip")):
            return "none"
        if section.frozen:
            raise UsageError(
                f"{place}.projection: {architecture.name} has no projection of its own, and a new one would stay "
                f"random in a frozen tower. Set model.embedding_dim to its width, {width}, or say linear anyhow"
            )
        return "linear"
    if section.projection == "none" and width != embedding_dim:
        raise UsageError(
            f"{place}.projection: none, but {architecture.name} has the width {width} and model.embedding_dim is "
            f"{embedding_dim}. Set embedding_dim to {width}, or choose linear or mlp"
        )
    return section.projection


def _set_dropout(architecture: Architecture) -> None:
    rate = architecture.section.dropout
    for name in HIDDEN_DROPOUT if rate else ():
        if hasattr(architecture.config, name):
            setattr(architecture.config, name, rate)


def _check_dropout(tower: Tower, recipe: _Recipe) -> None:
    """Tries dropout on the skeleton. Raises UsageError where it can't be keyed by the rows."""
    rate, architecture = recipe.architecture.section.dropout, recipe.architecture
    if not rate:
        return
    reason = ""
    layers = [module for module in tower.modules() if isinstance(module, KeyedDropout)]
    if not layers:
        reason = "it has no dropout of hidden states"
    elif random := drawn_at_random(tower):
        reason = f"{random[0]} draws from a generator"
    else:
        for layer in layers:
            layer.train()
        try:
            with ShapesOnly(), tower.keys.of(torch.empty(2, dtype=torch.int64, device="meta")):
                tower.pooled(recipe.sample())
        except ValueError as error:
            reason = f"it drops elements of what is not laid out in rows: {error}"
        tower.train()
    if reason:
        raise UsageError(
            f"{architecture.place}.dropout: {architecture.name} can't have it ({reason}): masks would depend on the "
            "number of ranks. Leave it out, or choose another architecture"
        )
