"""A checkpoint as an encoder of evaluation data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from jobspecs.job import JobSpec
from workers.data.decode import UndecodableError, image_array
from workers.data.index import expand, stat_shards
from workers.data.shards import Sample, extensions, read_samples
from workers.data.tokenize import byte_tokens
from workers.models.two_tower import build
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

    def __init__(self, spec: JobSpec, checkpoint: str) -> None:
        self.spec = spec
        self.storage = Storage(spec.storage.s3)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = build(spec.model, spec.data, spec.objective, spec.seed)
        self.manifest = load_model(self.storage, checkpoint, model)
        self._model = model.eval().to(self._device)

    @torch.inference_mode()
    def texts(self, texts: list[str], batch: int) -> NDArray[np.float32]:
        """(n, d), L2-normalised."""
        length = self.spec.data.text.context_length
        tokens = np.stack([byte_tokens(text, length) for text in texts])
        parts = [
            self._model.encode_text(torch.from_numpy(tokens[start : start + batch]).to(self._device))
            for start in range(0, len(tokens), batch)
        ]
        return torch.cat(parts).float().cpu().numpy()

    @torch.inference_mode()
    def images(self, urls: list[str], column: str, batch: int) -> EncodedImages:
        """The images of the tars at `urls`, unaugmented, each with its other `column`; a sample that lacks
        one of the two or can't be decoded is skipped. Raises DataError, StorageError."""
        wanted = extensions(self.spec.data.image.column), extensions(column)
        column_of_image: list[bytes] = []
        skipped = 0
        pending: list[NDArray[np.uint8]] = []
        features: list[torch.Tensor] = []
        for sample in self._samples(urls, frozenset(wanted[0] + wanted[1])):
            image, other = sample.column(wanted[0]), sample.column(wanted[1])
            try:
                if image is None or other is None:
                    raise UndecodableError("a column is missing")
                pending.append(image_array(image, self.spec.data.image, key=None))
            except UndecodableError:
                skipped += 1
                continue
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
        return self._model.encode_image(torch.from_numpy(np.stack(images)).to(self._device))

    def _samples(self, urls: list[str], columns: frozenset[str]) -> Iterator[Sample]:
        for info in stat_shards(expand(urls, self.storage), self.storage):
            yield from read_samples(self.storage, info.uri, columns)
