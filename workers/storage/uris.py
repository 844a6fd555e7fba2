"""The names of objects, joined and taken apart. Touches no storage."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from jobspecs.errors import UsageError


def join(uri: str, *parts: str) -> str:
    """`join("s3://b/run", "checkpoints/", "step-8")` -> `s3://b/run/checkpoints/step-8`."""
    return "/".join([uri.removesuffix("/"), *(part.strip("/") for part in parts)])


def basename(uri: str) -> str:
    """What follows the last slash: `s3://b/run/spec.yaml` -> `spec.yaml`."""
    return uri.rstrip("/").rpartition("/")[2]


def temporary_name() -> str:
    """A name for what is to be gone soon; listings leave it out."""
    return f".tandem-{secrets.token_hex(8)}.tmp"


def is_temporary(uri: str) -> bool:
    """Whether the last part of a name or URI is a `temporary_name`."""
    return re.search(r"(^|/)\.tandem-[0-9a-f]{16}\.tmp$", uri) is not None


def path_of(uri: str) -> Path:
    """`file:///folder/name` -> `/folder/name`."""
    return Path(uri.removeprefix("file://"))


def bucket_and_prefix(uri: str) -> tuple[str, str]:
    """`s3://b/run/x` -> `b`, `run/x`; the prefix of a whole bucket is empty."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix


def bucket_and_key(uri: str) -> tuple[str, str]:
    """`s3://b/run/x` -> `b`, `run/x`. UsageError where either is missing."""
    bucket, key = bucket_and_prefix(uri)
    if not bucket or not key:
        raise UsageError(f"{uri!r} names no object; give s3://bucket/key")
    return bucket, key
