"""A checkpoint as an encoder of evaluation data.

Only what a task asks for is read and decoded: images without augmentation and in one view, whatever the
objective, texts with the prefix of their section. What one evaluation has had encoded is kept for the next ones: an
image passes the tower once, whatever features and columns are asked for (batches may round otherwise, no more).
Another column of tars whose images are kept costs reading them again, and no decoding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobspecs.columns import Image
from jobspecs.data import Data
from jobspecs.job import JobSpec
from workers.data.decode import DecodeError, decode_views
from workers.data.find_shards import Folders, find_shards
from workers.data.shards import Sample, extensions, read_unindexed
from workers.data.tokenize import Tokenizer
from workers.evaluate.cache import Cache
from workers.models.tower import Inputs
from workers.run import RunDirectory
from workers.storage import ObjectInfo, Storage, basename
from workers.trained import load_trained

CACHE_BYTES = 2 << 30
"""Of features and columns that are kept, unless told otherwise."""

Features = Literal["embedding", "backbone"]
"""Behind the projection and L2-normalised, or pooled before it."""


View = Callable[[bytes, Image], NDArray[np.uint8]]
"""Bytes of an image -> its pixels, (size, size, 3). Raises DecodeError."""


class Model(Protocol):
    """What an encoder asks of a model: `ContrastiveModel`, or another one in its place. n rows, w width of the tower,
    d of the embedding."""

    def eval(self) -> Self:
        """In eval mode."""

    def to(self, device: torch.device) -> Self:
        """On a device."""

    def embed(self, side: str, inputs: Inputs) -> Tensor:
        """(n, d), L2-normalised."""

    def backbone(self, side: str, inputs: Inputs) -> Tensor:
        """(n, w): pooled, before the projection."""

    def project(self, side: str, pooled: Tensor) -> Tensor:
        """(n, w) -> (n, d): `embed` out of `backbone`."""


@dataclass(frozen=True)
class EncodedImages:
    """Images of an evaluation. n images, d width."""

    features: NDArray[np.float32]
    """(n, d)."""
    column: list[bytes]
    """The other column that was asked for, of each image."""
    skipped: int
    """Samples that could not be used."""
    fingerprint: str
    """Of the shards' names and sizes and of the contents of both columns."""


@dataclass(frozen=True)
class Members:
    """Undecoded columns of an evaluation."""

    columns: list[tuple[bytes, ...]]
    """Of each sample, those asked for."""
    skipped: int
    """Samples that could not be used."""
    fingerprint: str
    """Of the shards' names and sizes and of the contents of the columns."""


@dataclass(frozen=True)
class _Column:
    """A column of all samples, None where one has none that can be read; and the hash of what there is."""

    contents: list[bytes | None]
    digest: str


@dataclass(frozen=True)
class _Images:
    """The images that could be decoded."""

    samples: NDArray[np.int64]
    """(n,): which of all samples."""
    pooled: Tensor
    """(n, w), on the CPU."""
    digest: str


class Encoder:
    """A model, ready to encode; fp32, on a GPU where there is one."""

    def __init__(
        self,
        data: Data,
        storage: Storage,
        tokenizers: dict[str, Tokenizer],
        model: Model,
        cache_bytes: int = CACHE_BYTES,
        view: View | None = None,
    ) -> None:
        """`tokenizers`: one for each text column, by its name. view: None takes the largest centred square."""
        self.data = data
        self.storage = storage
        self._tokenizers = tokenizers
        self._view = view or _centred
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.eval().to(self._device)
        self._cache = Cache(cache_bytes)

    @classmethod
    def of_checkpoint(cls, spec: JobSpec, run: RunDirectory, checkpoint: str, *, raw: bool = False) -> Encoder:
        """The model of a checkpoint, as `load_trained` has it, which says what is raised."""
        storage = Storage(spec.storage.s3, read_ahead=spec.data.loader.read_ahead)
        trained = load_trained(storage, spec, run, checkpoint, raw=raw)
        return cls(spec.data, storage, trained.tokenizers, trained.model)

    @torch.inference_mode()
    def texts(self, texts: list[str], batch: int, side: str = "text") -> NDArray[np.float32]:
        """(n, d), L2-normalised, of texts of the column `side`: text, query or document."""
        key = ("texts", side, _digest(text.encode("utf-8", "surrogatepass") for text in texts))
        features: NDArray[np.float32] | None = self._cache.get(key)
        if features is None:
            section, tokenizer = self.data.texts[side], self._tokenizers[side]
            tokens = np.stack([tokenizer.encode(section.prefix + text, section.context_length) for text in texts])
            parts = [
                self._model.embed(side, {"tokens": torch.from_numpy(tokens[start : start + batch]).to(self._device)})
                for start in range(0, len(tokens), batch)
            ]
            features = torch.cat(parts).float().cpu().numpy()
            self._cache.put(key, features, features.nbytes)
        return features

    @torch.inference_mode()
    def pixels(self, pixels: NDArray[np.uint8], batch: int) -> NDArray[np.float32]:
        """(n, d), L2-normalised, of images that are decoded already: (n, P, P, 3)."""
        parts = [
            self._model.embed("image", {"pixels": torch.from_numpy(pixels[start : start + batch]).to(self._device)})
            for start in range(0, len(pixels), batch)
        ]
        features: NDArray[np.float32] = torch.cat(parts).float().cpu().numpy()
        return features

    def images(self, urls: list[str], column: str, batch: int, features: Features = "embedding") -> EncodedImages:
        """The images of the tars at `urls`, unaugmented, each with its other `column`; a sample that lacks
        one of the two or can't be decoded is skipped. Raises DataError, StorageError."""
        images: _Images | None = self._cache.get(("images", *urls))
        if images is None:
            images = self._encoded(urls, column, batch)
        (other,) = self._columns(urls, (column,))
        rows = np.array([other.contents[sample] is not None for sample in images.samples], np.bool_)
        contents = [other.contents[sample] for sample in images.samples]
        pooled = images.pooled[torch.from_numpy(rows)]
        return EncodedImages(
            features=(pooled if features == "backbone" else self._projected(pooled, batch)).numpy(),
            column=[content for content in contents if content is not None],
            skipped=len(other.contents) - int(rows.sum()),
            fingerprint=self._fingerprint(urls, images.digest, other.digest),
        )

    def members(self, urls: list[str], columns: tuple[str, ...]) -> Members:
        """Those columns of the samples of the tars at `urls` that have them all. Raises DataError, StorageError."""
        found = self._columns(urls, columns)
        rows = list(zip(*(column.contents for column in found), strict=True))
        whole = [tuple(content for content in row if content is not None) for row in rows]
        kept = [row for row in whole if len(row) == len(columns)]
        fingerprint = self._fingerprint(urls, *(column.digest for column in found))
        return Members(kept, len(rows) - len(kept), fingerprint)

    @torch.inference_mode()
    def _encoded(self, urls: list[str], column: str, batch: int) -> _Images:
        """The images, kept; and so is `column`, which is read on the way."""
        image = self.data.image
        assert image is not None, "the spec's own rule"
        others: list[bytes | None] = []
        usable: list[int] = []
        pending: list[NDArray[np.uint8]] = []
        parts: list[Tensor] = []
        hashed = hashlib.sha256()
        for number, (content, other) in enumerate(self._contents(urls, (image.column, column))):
            others.append(other)
            _add(hashed, content)
            try:
                if content is None:
                    raise DecodeError("missing_column", "there is no image")
                pending.append(self._view(content, image))
            except DecodeError:
                continue
            usable.append(number)
            if len(pending) == batch:
                parts.append(self._pooled(pending))
                pending = []
        if pending:
            parts.append(self._pooled(pending))
        pooled = torch.cat(parts) if parts else torch.empty(0, 0)
        images = _Images(np.array(usable, np.int64), pooled, hashed.hexdigest())
        self._cache.put(("images", *urls), images, pooled.nbytes + images.samples.nbytes)
        self._keep(urls, column, _Column(others, _digest(others)))
        return images

    def _columns(self, urls: list[str], columns: tuple[str, ...]) -> list[_Column]:
        """Each column of all samples; one pass over the tars for all that are not kept."""
        found: dict[str, _Column | None] = {column: self._cache.get(("column", column, *urls)) for column in columns}
        missing = tuple(column for column, kept in found.items() if kept is None)
        if missing:
            rows = list(self._contents(urls, missing))
            for place, column in enumerate(missing):
                contents = [row[place] for row in rows]
                found[column] = _Column(contents, _digest(contents))
                self._keep(urls, column, found[column])
        return [column for column in (found[name] for name in columns) if column is not None]

    def _keep(self, urls: list[str], name: str, column: _Column | None) -> None:
        if column is not None and self._cache.get(("column", name, *urls)) is None:
            # A bytes object takes 33 bytes more than it holds, and 8 in the list.
            size = sum(41 + len(content or b"") for content in column.contents)
            self._cache.put(("column", name, *urls), column, size)

    def _contents(self, urls: list[str], columns: tuple[str, ...]) -> Iterator[tuple[bytes | None, ...]]:
        """Of each sample its members of those columns; None for one that is not there or can't be read."""
        wanted = tuple(extensions(column) for column in columns)
        for shard in self._shards(urls):
            for sample in read_unindexed(self.storage, shard, wanted):
                yield tuple(_member(sample, each) for each in wanted)

    def _shards(self, urls: list[str]) -> list[ObjectInfo]:
        shards: list[ObjectInfo] | None = self._cache.get(("shards", *urls))
        if shards is None:
            shards = find_shards(urls, Folders(self.storage))
            self._cache.put(("shards", *urls), shards, 500 * len(shards))
        return shards

    def _fingerprint(self, urls: list[str], *digests: str) -> str:
        """Wherever the shards lie: copies elsewhere are the same data."""
        shards = [f"{basename(shard.uri)} {shard.size}" for shard in self._shards(urls)]
        return hashlib.sha256("\n".join([*shards, *digests]).encode()).hexdigest()

    def _pooled(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """(n, w), fp32, on the CPU."""
        inputs = {"pixels": torch.from_numpy(np.stack(images)).to(self._device)}
        return self._model.backbone("image", inputs).float().cpu()

    @torch.inference_mode()
    def _projected(self, pooled: Tensor, batch: int) -> Tensor:
        """(n, d) of (n, w)."""
        if not len(pooled):
            return torch.empty(0, 0)
        parts = [
            self._model.project("image", part.to(self._device)).float().cpu() for part in torch.split(pooled, batch)
        ]
        return torch.cat(parts)


def _centred(content: bytes, image: Image) -> NDArray[np.uint8]:
    views = np.empty((1, image.size, image.size, 3), np.uint8)
    decode_views(content, image, None, views)
    view: NDArray[np.uint8] = views[0]
    return view


def _member(sample: Sample, wanted: tuple[str, ...]) -> bytes | None:
    """What is there of a sample that lacks another column counts."""
    return sample.column(wanted) if sample.fault in (None, "missing_column") else None


def _digest(contents: Iterable[bytes | None]) -> str:
    hashed = hashlib.sha256()
    for content in contents:
        _add(hashed, content)
    return hashed.hexdigest()


def _add(hashed: hashlib._Hash, content: bytes | None) -> None:
    """With its length, so that contents can't run into each other."""
    hashed.update(b"-" if content is None else b"%d " % len(content) + content)
