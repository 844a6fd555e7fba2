"""Text -> tokens, whichever tokenizer the spec names.

A `Tokenizer` is made before the start (`byte_tokenizer` here, the others in make_tokenizer.py), kept in the
run directory (`to_bytes`, `from_bytes`), and handed to the loader processes, the model and the evaluations.
Only the `tokenizers` library is needed to use one, and not even that for bytes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError

if TYPE_CHECKING:
    import tokenizers

_FORMAT = 1
"""Of `Tokenizer.to_bytes`."""
_BYTES = 256


@dataclass(frozen=True)
class Tokenizer:
    """Text -> [begin] content end padding…; survives pickling.

    The first `end` of a row is where its text ends: `begin` and the content never hold that id, while
    `padding` may be equal to it, as in CLIP's own tokenizer.
    """

    vocabulary: int
    """Ids are below this."""
    begin: int | None
    """Stands before the content; None for a tokenizer without such a token."""
    end: int
    """Stands after the content."""
    padding: int
    """Fills what is left."""
    fast: str | None = None
    """What the content is made with, as the `tokenizers` library serialises it. None takes the bytes of UTF-8."""

    def __post_init__(self) -> None:
        ids = [self.end, self.padding] if self.begin is None else [self.begin, self.end, self.padding]
        if not all(0 <= token < self.vocabulary for token in ids) or self.begin == self.end:
            raise ValueError(f"begin {self.begin}, end {self.end}, padding {self.padding} of {self.vocabulary} tokens")

    def encode(self, text: str, context_length: int) -> NDArray[np.int32]:
        """(context_length,), which is at least 3; content that doesn't fit is cut at its end.

        byte_tokenizer().encode("hi", 6) -> [256, 104, 105, 257, 258, 258]
        """
        start = 0 if self.begin is None else 1
        content = self._content(text)[: context_length - start - 1]
        stop = start + len(content)
        tokens = np.full(context_length, self.padding, dtype=np.int32)
        if self.begin is not None:
            tokens[0] = self.begin
        tokens[start:stop] = content
        tokens[stop] = self.end
        return tokens

    def _content(self, text: str) -> NDArray[np.uint8] | list[int]:
        if self.fast is None:
            return np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8)
        ids = self._loaded.encode(without_surrogates(text), add_special_tokens=False).ids
        # A caption may spell out "</s>", and some tokenizers make an unknown character of the end token.
        return [token for token in ids if token != self.end and token != self.begin]

    @cached_property
    def _loaded(self) -> tokenizers.Tokenizer:
        from tokenizers import Tokenizer as FastTokenizer

        assert self.fast is not None
        loaded = FastTokenizer.from_str(self.fast)
        loaded.no_truncation()
        loaded.no_padding()
        loaded.encode_special_tokens = True  # "[MASK]" in a caption is six characters
        return loaded

    def __getstate__(self) -> dict[str, object]:
        return asdict(self)  # each process loads it for itself: `_loaded` is as large again

    def to_bytes(self) -> bytes:
        """The tokenizer as stored in the run directory: JSON."""
        return json.dumps({"format": _FORMAT, "kind": self._kind, **asdict(self)}).encode()

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "the tokenizer") -> Tokenizer:
        """The inverse of `to_bytes`. Raises DataError, which calls the data `name`: say where they are from."""
        try:
            stored = json.loads(data)
            found = stored["format"]
            if found == _FORMAT:
                tokenizer = cls(**{field.name: stored[field.name] for field in fields(cls)})
                if stored["kind"] != tokenizer._kind:
                    raise ValueError(f"kind {stored['kind']!r}")
                tokenizer.encode("", 3)
                return tokenizer
        except Exception as error:  # the tokenizers package raises bare ones
            raise DataError(
                f"{name} can't be read ({type(error).__name__}: {error}). It is damaged, or was written with a newer "
                "version of the tokenizers package: put a copy of the file back, or install that version"
            ) from error
        raise DataError(
            f"{name} has the format {found!r}, and this version of Tandem reads {_FORMAT}. Go on with the version "
            "that started the run"
        )

    @property
    def _kind(self) -> str:
        return "bytes" if self.fast is None else "fast"

    def fingerprint(self) -> str:
        """sha256 of `to_bytes()`: equal for tokenizers that give equal tokens because they are the same."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def byte_tokenizer() -> Tokenizer:
    """Bytes as tokens, then begin, end and padding."""
    return Tokenizer(_BYTES + 3, begin=_BYTES, end=_BYTES + 1, padding=_BYTES + 2)


def without_surrogates(text: str) -> str:
    r"""Half a surrogate pair (JSON's "\ud83d" alone, of an emoji cut in two) is no character: "?" instead."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
