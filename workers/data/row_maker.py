"""One sample -> one row: decoding, cropping, tokenizing, and every draw that goes with it.

Only the columns that the spec names are decoded. Draws are keyed by (seed, purpose, pass, sample).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xxhash

from jobspecs.columns import Image, Negatives, Text, Weight
from jobspecs.data import Data
from workers.data.augment import draw_color
from workers.data.decode import DecodeError, decode_views
from workers.data.filters import field_of
from workers.data.keyed import Key, hash64, permutation, uniform
from workers.data.rows import BadSample, Rows
from workers.data.shards import Sample, extensions
from workers.data.stream import Placed
from workers.data.tokenize import Tokenizer


class _MissingError(Exception):
    """A column has no text, or no weight."""


class RowMaker:
    """Fills rows by the sections of a spec."""

    def __init__(self, data: Data, tokenizers: dict[str, Tokenizer], seed: int, mined: bool = False) -> None:
        """`tokenizers`: one for each text column, by its name. mined: negatives are those that the job mined, and not
        a member of the sample."""
        self._data = data
        self._tokenizers = tokenizers
        self._seed = seed
        self._mined = mined
        sections = [data.image, *data.texts.values(), None if mined else data.negatives, data.weight]
        self._extensions = {section.column: extensions(section.column) for section in sections if section is not None}

    @property
    def columns(self) -> tuple[tuple[str, ...], ...]:
        """The members that a sample must have, alternatives together."""
        return tuple(self._extensions.values())

    def fill(self, placed: Placed, rows: Rows, row: int) -> BadSample | None:
        """Fills a row, or masks it and says why."""
        sample = placed.sample
        rows.ids[row] = hash64(*placed.identity, sample.key)
        cause = sample.fault
        if cause is None:
            try:
                self._fill(placed, rows, row)
            except DecodeError as error:
                cause = error.cause
            except _MissingError:
                cause = "missing_column"
            except ValueError:  # of JSON and of UTF-8
                cause = "undecodable"
        if cause is None:
            rows.valid[row] = True
            return None
        rows.mask(row)
        return BadSample(placed.uri, sample.place, sample.key, cause)

    def _fill(self, placed: Placed, rows: Rows, row: int) -> None:
        data, sample, about = self._data, placed.sample, (placed.pass_, *placed.identity)
        if data.image is not None:
            self._image(sample, data.image, about, rows, row)
        for name, text in data.texts.items():
            chosen = self._text(sample, name, text, about)
            rows.columns[name][row] = self._tokenizers[name].encode(text.prefix + chosen, text.context_length)
        if data.negatives is not None:
            texts = list(placed.negatives) if self._mined else self._listed_negatives(sample, data.negatives)
            self._negatives(texts, data.negatives, about, rows, row)
        if data.weight is not None:
            rows.columns["weight"][row] = self._weight(sample, data.weight)

    def _image(self, sample: Sample, image: Image, about: Key, rows: Rows, row: int) -> None:
        content = self._member(sample, image.column)
        decode_views(content, image, (self._seed, "crop", *about), rows.columns["image"][row])
        rows.columns["image_key"][row] = image_key(content)
        if image.color is not None:
            for view in range(image.views):
                rows.columns["color"][row, view] = draw_color(image.color, (self._seed, "color", *about, view))

    def _text(self, sample: Sample, name: str, text: Text, about: Key) -> str:
        content = self._member(sample, text.column).decode("utf-8")
        if text.field is None:
            return content
        texts = texts_of(content, text.field)
        if not texts:
            raise _MissingError
        if len(texts) == 1:
            return texts[0]
        draw = uniform(1, self._seed, "text", *about, name)[0]
        return texts[int(draw * len(texts))]

    def _listed_negatives(self, sample: Sample, negatives: Negatives) -> list[str]:
        return _listed(_parsed(self._member(sample, negatives.column)))

    def _negatives(self, texts: list[str], negatives: Negatives, about: Key, rows: Rows, row: int) -> None:
        document = self._data.document
        assert document is not None  # the spec's own rule
        if len(texts) > negatives.count:
            order = permutation(len(texts), self._seed, "negatives", *about)[: negatives.count]
            texts = [texts[number] for number in order]
        tokens, valid = rows.columns["negatives"][row], rows.columns["negatives_valid"][row]
        tokens[:], valid[:] = 0, False
        for number, text in enumerate(texts):
            tokens[number] = self._tokenizers["document"].encode(document.prefix + text, document.context_length)
            valid[number] = True

    def _weight(self, sample: Sample, weight: Weight) -> np.float32:
        value = field_of(_parsed(self._member(sample, weight.column)), weight.field)
        if value is None:
            raise _MissingError
        return weight_of(value)

    def _member(self, sample: Sample, column: str) -> bytes:
        content = sample.column(self._extensions[column])
        if content is None:
            raise _MissingError
        return content


def image_key(content: bytes) -> int:
    """XXH3-64 of a file's bytes, signed. Of 64 KB it takes 2 µs, of 225 KB 6 µs, where decoding a JPEG of that size
    to a view of 224² takes 1.0 and 2.6 ms."""
    key = xxhash.xxh3_64_intdigest(content)
    return key - (1 << 64) if key >> 63 else key


def weight_of(value: Any) -> np.float32:
    """A weight as JSON gives it. Raises ValueError where it is no number, negative, or not finite in 32 bits."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a number is expected")
    if not 0 <= value <= float(np.finfo(np.float32).max):  # NaN fails it too
        raise ValueError("a weight is 0 or more, and finite")
    return np.float32(value)


def texts_of(content: str, field: str) -> list[str]:
    """The texts in a field of a JSON member: one, several, or none. Raises ValueError."""
    value = field_of(_parsed(content), field)
    return [] if value is None else _listed(value)


def _parsed(content: str | bytes) -> Any:
    try:
        return json.loads(content)
    except RecursionError as error:  # it takes a thousand brackets
        raise ValueError("JSON that is nested too deeply") from error


def _listed(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is expected")
    return texts
