"""A checkpoint as an encoder of evaluation data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jobspecs.job import JobSpec
from workers.data.decode import DecodeError, decode_views
from workers.data.find_shards import Folders, find_shards
from workers.data.shards import Sample, extensions, read_unindexed
from workers.models.build import build
from workers.run import RunDirectory
from workers.run_inputs import load_tokenizers
from workers.storage import Storage
from workers.train.checkpoint import load_model


@dataclass(frozen=True)
class EncodedImages:
    """Images of an evaluation. n images, d width."""

    features: NDArray[np.float32]
    """(n, d), L2-normalised."""
    column: list[bytes]
    """The other column that was asked for, of each image."""
    skipped: int
    """Samples that could not be used."""


class Encoder:
    """The model of a checkpoint, ready to encode; fp32, on a GPU where there is one."""

    def __init__(self, spec: JobSpec, run: RunDirectory, checkpoint: str) -> None:
        assert spec.data.image is not None
        assert spec.data.text is not None  # the spec's own rule
        self.spec = spec
        self.image = spec.data.image
        self.text = spec.data.text
        self.storage = Storage(spec.storage.s3, read_ahead=spec.data.loader.read_ahead)
        tokenizers = load_tokenizers(self.storage, run, spec.data)
        self._tokenizer = tokenizers["text"]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build(spec.model, spec.data, spec.objective, spec.seed, tokenizers)
        self.manifest = load_model(self.storage, checkpoint, model)
        self._model = model.eval().to(self._device)

    @torch.inference_mode()
    def texts(self, texts: list[str], batch: int) -> NDArray[np.float32]:
        """(n, d), L2-normalised."""
        tokens = np.stack([self._tokenizer.encode(text, self.text.context_length) for text in texts])
        parts = [
            self._model.embed("text", {"tokens": torch.from_numpy(tokens[start : start + batch]).to(self._device)})
            for start in range(0, len(tokens), batch)
        ]
        return torch.cat(parts).float().cpu().numpy()

    @torch.inference_mode()
    def images(self, urls: list[str], column: str, batch: int) -> EncodedImages:
        """The images of the tars at `urls`, unaugmented, each with its other `column`; a sample that lacks
        one of the two or can't be decoded is skipped. Raises DataError, StorageError."""
        wanted = extensions(self.image.column), extensions(column)
        size = self.image.size
        column_of_image: list[bytes] = []
        skipped = 0
        pending: list[NDArray[np.uint8]] = []
        features: list[torch.Tensor] = []
        for sample in self._samples(urls, wanted):
            image, other = sample.column(wanted[0]), sample.column(wanted[1])
            view = np.empty((1, size, size, 3), np.uint8)
            try:
                if sample.fault is not None or image is None or other is None:
                    raise DecodeError("missing_column", "a column is missing")
                decode_views(image, self.image, None, view)
            except DecodeError:
                skipped += 1
                continue
            pending.append(view[0])
            column_of_image.append(other)
            if len(pending) == batch:
                features.append(self._encode(pending))
                pending = []
        if pending:
            features.append(self._encode(pending))
        width = self.spec.model.embedding_dim
        joined = torch.cat(features) if features else torch.empty(0, width)
        return EncodedImages(joined.float().cpu().numpy(), column_of_image, skipped)

    def _encode(self, images: list[NDArray[np.uint8]]) -> torch.Tensor:
        return self._model.embed("image", {"pixels": torch.from_numpy(np.stack(images)).to(self._device)})

    def _samples(self, urls: list[str], columns: tuple[tuple[str, ...], ...]) -> Iterator[Sample]:
        for shard in find_shards(urls, Folders(self.storage)):
            yield from read_unindexed(self.storage, shard, columns)
