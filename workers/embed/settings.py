"""What is embedded and how; and the record that each file carries, by which a later call knows it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workers.data.tokenize import Tokenizer
from workers.train.checkpoint import Manifest

FORMAT = "tandem-embeddings/1"


@dataclass(frozen=True)
class Settings:
    """Files with equal settings hold comparable vectors."""

    model: str
    """`fingerprint` of the checkpoint."""
    side: str
    """image, text, query or document."""
    dim: int
    dtype: Literal["float32", "float16"]
    fields: tuple[str, ...]
    """Fields of the samples' `.json` member that become columns."""


@dataclass(frozen=True)
class Record:
    """What a file says of itself."""

    settings: Settings
    shard: str
    """URI."""
    size: int
    """Bytes of the shard."""
    etag: str
    """Of the shard."""
    rows: int
    skipped: dict[str, int]
    """Samples that could not be embedded, by cause: `workers.data.shards.FAULTS`."""

    def to_json(self) -> bytes:
        """As stored in the file's metadata."""
        return json.dumps({"format": FORMAT, **asdict(self)}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Record:
        """The inverse of `to_json`. Raises ValueError, KeyError, TypeError: of another format."""
        stored: dict[str, Any] = json.loads(data)
        if stored.pop("format") != FORMAT:
            raise ValueError("another format")
        settings = stored.pop("settings")
        return cls(Settings(**{**settings, "fields": tuple(settings["fields"])}), **stored)


def fingerprint(manifest: Manifest, tokenizers: Mapping[str, Tokenizer]) -> str:
    """sha256 of what makes embeddings: the experiment, the weights and the tokenizers, wherever they lie."""
    weights = sorted(file.sha256 for file in manifest.files if file.name.startswith("model-"))
    made_of = [manifest.spec_hash, weights, {name: one.fingerprint() for name, one in sorted(tokenizers.items())}]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
