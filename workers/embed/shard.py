"""A shard -> its embeddings: decoded, encoded in batches, in the order of the tar.

Images as evaluations see them, in one view without augmentation; texts with the prefix of their section, of a list of
texts the first. A sample that can't be had is left out, and counted by cause.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from jobspecs.columns import Text
from jobspecs.data import Data
from jobspecs.job import JobSpec
from workers.data.decode import DecodeError, decode_views
from workers.data.filters import field_of
from workers.data.row_maker import texts_of
from workers.data.shards import Sample, extensions, read_unindexed
from workers.data.tokenize import Tokenizer
from workers.embed.parquet_file import Rows
from workers.embed.settings import Record, Settings
from workers.models.model import ContrastiveModel
from workers.run import RunDirectory
from workers.storage import ObjectInfo, Storage
from workers.trained import load_trained

BATCH = 128
"""Rows that are encoded at once: 19 MB of pixels at 224²."""
_METADATA = ("json",)


class _MissingError(Exception):
    """The sample has no such column, or no text in it."""


class Embedder:
    """A model, ready to embed shards; fp32, on a GPU where there is one."""

    def __init__(self, data: Data, tokenizers: dict[str, Tokenizer], model: ContrastiveModel) -> None:
        """`tokenizers`: one for each text column, by its name."""
        self._data = data
        self._tokenizers = tokenizers
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)

    @classmethod
    def of_checkpoint(cls, spec: JobSpec, run: RunDirectory, checkpoint: str) -> Embedder:
        """The model of a checkpoint, as `load_trained` has it, which says what is raised."""
        trained = load_trained(Storage(spec.storage.s3), spec, run, checkpoint)
        return cls(spec.data, trained.tokenizers, trained.model)

    def embed(self, storage: Storage, shard: ObjectInfo, settings: Settings) -> tuple[Rows, Record]:
        """The embeddings of a shard. Raises DataError: it is not the one that was found; StorageError."""
        side = settings.side
        column = self._data.image.column if side == "image" and self._data.image else self._data.texts[side].column
        wanted = extensions(column)
        keys: list[str] = []
        places: list[int] = []
        fields: dict[str, list[str | None]] = {name: [] for name in settings.fields}
        skipped: Counter[str] = Counter()
        pending: list[NDArray[Any]] = []
        parts: list[NDArray[np.float32]] = []
        # Either of both is enough to be given a sample: a missing JSON is no reason to leave it out.
        for sample in read_unindexed(storage, shard, ((*wanted, *(_METADATA if settings.fields else ())),)):
            try:
                row = self._row(sample, side, wanted)
            except DecodeError as error:
                skipped[error.cause] += 1
                continue
            except _MissingError:
                skipped[sample.fault or "missing_column"] += 1
                continue
            except ValueError:  # of JSON and of UTF-8
                skipped["undecodable"] += 1
                continue
            keys.append(sample.key)
            places.append(sample.place)
            for name, value in _metadata(sample, settings.fields).items():
                fields[name].append(value)
            pending.append(row)
            if len(pending) == BATCH:
                parts.append(self._encoded(side, pending))
                pending = []
        if pending:
            parts.append(self._encoded(side, pending))
        vectors = np.concatenate(parts) if parts else np.empty((0, settings.dim), np.float32)
        record = Record(settings, shard.uri, shard.size, shard.etag, len(keys), dict(sorted(skipped.items())))
        return Rows(keys, places, vectors, fields), record

    def _row(self, sample: Sample, side: str, wanted: tuple[str, ...]) -> NDArray[Any]:
        """Pixels (P, P, 3) or tokens (T,). Raises DecodeError, _MissingError, ValueError."""
        content = None if sample.fault is not None else sample.column(wanted)
        if content is None:
            raise _MissingError
        if side != "image":
            text = self._data.texts[side]
            return self._tokenizers[side].encode(text.prefix + _text(content, text), text.context_length)
        image = self._data.image
        assert image is not None, "the settings name a side of the model"
        views = np.empty((1, image.size, image.size, 3), np.uint8)
        decode_views(content, image, None, views)
        (view,) = views
        pixels: NDArray[np.uint8] = view
        return pixels

    @torch.inference_mode()
    def _encoded(self, side: str, rows: list[NDArray[Any]]) -> NDArray[np.float32]:
        """(n, d)."""
        inputs = torch.from_numpy(np.stack(rows)).to(self._device)
        embeds = self._model.embed(side, {"pixels" if side == "image" else "tokens": inputs})
        array: NDArray[np.float32] = embeds.float().cpu().numpy()
        return array


def _text(content: bytes, text: Text) -> str:
    decoded = content.decode("utf-8")
    if text.field is None:
        return decoded
    texts = texts_of(decoded, text.field)
    if not texts:
        raise _MissingError
    return texts[0]


def _metadata(sample: Sample, fields: tuple[str, ...]) -> dict[str, str | None]:
    """Values of the JSON member's fields: texts as they are, others as JSON, None for what is not there."""
    if not fields:
        return {}
    try:
        parsed = json.loads(sample.column(_METADATA) or b"null")
    except (ValueError, RecursionError):
        parsed = None
    values = {name: field_of(parsed, name) for name in fields}
    return {
        name: value if value is None or isinstance(value, str) else json.dumps(value) for name, value in values.items()
    }
