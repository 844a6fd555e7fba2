"""A folder of transformers or sentence-transformers, or a name on the hub -> a model that evaluations can score.

The towers are the folder's, frozen, each with the projection that it brings along or none; the columns of the data are
the spec's, but for what belongs to a model: the size and normalisation of images, tokenizers, context lengths and
prefixes are the folder's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobspecs.data import Data
from jobspecs.errors import UsageError
from jobspecs.model import ImagePretrained, Model, TextPretrained
from jobspecs.objective import ImageText
from workers.data.tokenize import Tokenizer
from workers.models.architecture import Architecture, architecture_of, first_line
from workers.models.build import build, own_widths
from workers.models.model import ContrastiveModel
from workers.models.model_files import ModelFiles
from workers.models.sentence_modules import MODULES
from workers.pretrained.images import ImagePreparation, preparation_of
from workers.pretrained.texts import check_similarity, prepared_texts

_SIDES = ("image", "text", "query", "document")
_OURS = ("spec.yaml", "plan.json", "manifest.json")
"""Of a run or a checkpoint, which are no folders of other libraries."""


@dataclass(frozen=True)
class Pretrained:
    """A model of someone else."""

    data: Data
    """The spec's columns, as they fit the model; no others."""
    model: ContrastiveModel
    """fp32, on the CPU, in eval mode. Its scale of similarities means nothing."""
    tokenizers: dict[str, Tokenizer]
    """By text column."""
    images: ImagePreparation | None
    """How images become pixels; None without images."""

    def __str__(self) -> str:
        """For people: what each side goes through."""
        lines = []
        if self.images is not None:
            lines.append(f"image: {self.images.size}x{self.images.size}, {self._tower('image')}")
        for side, text in self.data.texts.items():
            before = f"{text.prefix!r} before each" if text.prefix else "nothing before them"
            lines.append(f"{side}: up to {text.context_length} tokens, {before}, {self._tower(side)}")
        return "; ".join(lines)

    def _tower(self, side: str) -> str:
        tower = self.model.tower(side)
        return f"{type(tower.network).__name__} pooled by {tower.pooling}"


def is_model_folder(path: str) -> bool:
    """Whether a folder on this machine is one of transformers or sentence-transformers, or holds towers of theirs."""
    folder = Path(os.path.expanduser(path))
    if not folder.is_dir() or any((folder / name).exists() for name in _OURS):
        return False
    return any(_is_model(folder / place) for place in ("", *_SIDES))


def load_pretrained(name: str, data: Data, sides: Sequence[str], revision: str | None = None) -> Pretrained:
    """The folder `name`, or the model of that name on the hub, for the columns `sides` of `data`.

    Raises UsageError: what it lacks for these columns, or what can't be done here as its authors meant it.
    """
    files = {side: _files_of(name, side, revision) for side in sides}
    try:
        return _loaded(files, data)
    except (OSError, ValueError) as error:  # of JSON too
        if os.path.isdir(os.path.expanduser(name)):
            raise UsageError(f"{name}: it can't be read ({first_line(error)}). Bring the files in order") from error
        raise UsageError(
            f"{name}: there is no such folder, and the hub did not give it either ({first_line(error)}). Check name, "
            "revision, network and, for a gated one, HF_TOKEN; or copy the model into a folder and name that"
        ) from error


def _loaded(files: dict[str, ModelFiles], data: Data) -> Pretrained:
    columns: dict[str, object] = dict.fromkeys(("image", "text", "query", "document", "negatives", "weight"))
    towers: dict[str, ImagePretrained | TextPretrained] = {}
    tokenizers: dict[str, Tokenizer] = {}
    images = None
    for side, of_side in files.items():
        # Queries and documents share the tower `text`, unless they have folders of their own.
        shared = side in ("query", "document") and len(set(files.values())) == 1
        tower = "text" if shared else side
        section = ImagePretrained if side == "image" else TextPretrained
        towers[tower] = section(kind="pretrained", name=of_side.name, revision=of_side.revision, frozen=True)
        _refuse_own_export(of_side)
        architecture = architecture_of(towers[tower], f"model.{tower}", "image" if side == "image" else "text")
        _check_half(architecture, side)
        check_similarity(of_side, architecture.modules is not None and architecture.modules.normalizes)
        if side == "image":
            assert data.image is not None, "an evaluation's own rule"
            images = preparation_of(of_side, "" if architecture.modules is None else architecture.modules.network)
            columns[side] = images.section(data.image)
        else:
            texts = prepared_texts(of_side, architecture, side, data.texts[side])
            columns[side], tokenizers[side] = texts.section, texts.tokenizer
    fitted = data.model_copy(update=columns)
    model = Model.model_validate({"embedding_dim": 1} | towers)
    widths = own_widths(model, fitted, tokenizers)
    if len(set(widths.values())) > 1:
        named = ", ".join(f"{tower} {width}" for tower, width in widths.items())
        names = " and ".join(sorted({each.name for each in files.values()}))
        raise UsageError(
            f"{names}: its embeddings differ in width ({named}), and can't be compared. Choose another model"
        )
    model = model.model_copy(update={"embedding_dim": next(iter(widths.values()))})
    built = build(model, fitted, ImageText(kind="image_text"), 0, tokenizers)
    return Pretrained(fitted, built.eval(), tokenizers, images)


def _files_of(name: str, side: str, revision: str | None) -> ModelFiles:
    """Where the tower of a side lies: in the folder, or in one of its own in it, as exports have it."""
    folder = Path(os.path.expanduser(name))
    if not folder.is_dir():
        return ModelFiles(name, revision)
    if revision is not None:
        raise UsageError(f"{name} is a folder, and folders have no revision {revision!r}. Leave it out")
    if not _is_model(folder) and _is_model(folder / side):
        return ModelFiles(str(folder / side))
    return ModelFiles(str(folder))


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (MODULES, "config.json"))


def _refuse_own_export(files: ModelFiles) -> None:
    """Raises UsageError for a folder of `tandem export` that other libraries don't load by themselves."""
    config = files.json("config.json")
    if files.json(MODULES) is not None or not isinstance(config, dict):
        return
    if str(config.get("format", "")).startswith("tandem-export/") or files.path("projection.safetensors") is not None:
        raise UsageError(
            f"{files.name}: how this export of Tandem pools and projects stands in its README.md alone. Evaluate the "
            "checkpoint that it is of, or an export with --format sentence-transformers"
        )


def _check_half(architecture: Architecture, side: str) -> None:
    """Raises UsageError where a text model is to encode images, or the other way round."""
    is_text = hasattr(architecture.config, "vocab_size")
    if is_text != (side != "image"):
        has, lacks = ("texts", "images") if is_text else ("images", "texts")
        raise UsageError(
            f"{architecture.name}: it is a model of {has} ({architecture.config.model_type}), and knows no {lacks}. "
            f"Leave evaluations with {lacks} out by --only, or choose another model"
        )
