"""A checkpoint as an encoder of evaluation data.

Only what a task asks for is read and decoded: images without augmentation and in one view, whatever the
objective, texts with the prefix of their section.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from jobspecs.data import Data
from jobspecs.job import JobSpec
from workers.data.decode import DecodeError, decode_views
from workers.data.find_shards import Folders, find_shards
from workers.data.shards import Sample, extensions, read_unindexed
from workers.data.tokenize import Tokenizer
from workers.models.build import build
from workers.models.model import ContrastiveModel
from workers.run import RunDirectory
from workers.run_inputs import load_tokenizers
from workers.storage import Storage
from workers.train.checkpoint import load_model

Features = Literal["embedding", "backbone"]
"""Behind the projection and L2-normalised, or pooled before it."""


@dataclass(frozen=True)
class EncodedImages:
    """Images of an evaluation. n images, d width."""

    features: NDArray[np.float32]
    """(n, d)."""
    column: list[bytes]
    """The other column that was asked for, of each image."""
    skipped: int
    """Samples that could not be used."""


@dataclass(frozen=True)
class Members:
    """Undecoded columns of an evaluation."""

    columns: list[tuple[bytes, ...]]
    """Of each sample, those asked for."""
    skipped: int
    """Samples that could not be used."""


class Encoder:
    """A model, ready to encode; fp32, on a GPU where there is one."""

    def __init__(self, data: Data, storage: Storage, tokenizers: dict[str, Tokenizer], model: ContrastiveModel) -> None:
        """`tokenizers`: one for each text column, by its name."""
        self.data = data
        self.storage = storage
        self._tokenizers = tokenizers
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)

    @classmethod
    def of_checkpoint(cls, spec: JobSpec, run: RunDirectory, checkpoint: str) -> Encoder:
        """The model of a spec as the checkpoint at the URI `checkpoint` has it.

        Raises CheckpointError, DataError, StorageError.
        """
        storage = Storage(spec.storage.s3, read_ahead=spec.data.loader.read_ahead)
        tokenizers = load_tokenizers(storage, run, spec.data)
        model = build(spec.model, spec.data, spec.objective, spec.seed, tokenizers)
        load_model(storage, checkpoint, model)
        return cls(spec.data, storage, tokenizers, model)

    @torch.inference_mode()
    def texts(self, texts: list[str], batch: int, side: str = "text") -> NDArray[np.float32]:
        """(n, d), L2-normalised, of texts of the column `side`: text, query or document."""
        section, tokenizer = self.data.texts[side], self._tokenizers[side]
        tokens = np.stack([tokenizer.encode(section.prefix + text, section.context_length) for text in texts])
        parts = [
            self._model.embed(side, {"tokens": torch.from_numpy(tokens[start : start + batch]).to(self._device)})
            for start in range(0, len(tokens), batch)
        ]
        return torch.cat(parts).float().cpu().numpy()

    @torch.inference_mode()
    def images(self, urls: list[str], column: str, batch: int, features: Features = "embedding") -> EncodedImages:
        """The images of the tars at `urls`, unaugmented, each with its other `column`; a sample that lacks
        one of the two or can't be decoded is skipped. Raises DataError, StorageError."""
        image = self.data.image
        assert image is not None, "the spec's own rule"
        wanted = extensions(image.column), extensions(column)
        column_of_image: list[bytes] = []
        skipped = 0
        pending: list[NDArray[np.uint8]] = []
        parts: list[torch.Tensor] = []
        for sample in self._samples(urls, wanted):
            content, other = sample.column(wanted[0]), sample.column(wanted[1])
            view = np.empty((1, image.size, image.size, 3), np.uint8)
            try:
                if sample.fault is not None or content is None or other is None:
                    raise DecodeError("missing_column", "a column is missing")
                decode_views(content, image, None, view)
            except DecodeError:
                skipped += 1
                continue
            pending.append(view[0])
            column_of_image.append(other)
            if len(pending) == batch:
                parts.append(self._pooled(pending, features))
                pending = []
        if pending:
            parts.append(self._pooled(pending, features))
        joined = torch.cat(parts) if parts else torch.empty(0, 0)
        return EncodedImages(joined.numpy(), column_of_image, skipped)

    def members(self, urls: list[str], columns: tuple[str, ...]) -> Members:
        """Those columns of the samples of the tars at `urls` that have them all. Raises DataError, StorageError."""
        wanted = tuple(extensions(column) for column in columns)
        found: list[tuple[bytes, ...]] = []
        skipped = 0
        for sample in self._samples(urls, wanted):
            contents = [sample.column(each) for each in wanted]
            whole = tuple(content for content in contents if content is not None)
            if sample.fault is not None or len(whole) < len(contents):
                skipped += 1
            else:
                found.append(whole)
        return Members(found, skipped)

    def _pooled(self, images: list[NDArray[np.uint8]], features: Features) -> torch.Tensor:
        """(n, d), fp32, on the CPU."""
        inputs = {"pixels": torch.from_numpy(np.stack(images)).to(self._device)}
        encode = self._model.embed if features == "embedding" else self._model.backbone
        return encode("image", inputs).float().cpu()

    def _samples(self, urls: list[str], columns: tuple[tuple[str, ...], ...]) -> Iterator[Sample]:
        for shard in find_shards(urls, Folders(self.storage)):
            yield from read_unindexed(self.storage, shard, columns)
