"""The names of objects: made from what a user gives, joined, and taken apart. Touches no storage."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from jobspecs.errors import UsageError


def absolute(uri_or_path: str) -> str:
    """The URI of a path or a URI: `data/x` -> `file:///cwd/data/x`, `s3://b/k/` -> `s3://b/k`.

    UsageError for another scheme and for an `s3://` without bucket. Slashes inside a key count for
    S3, so they stay.
    """
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", uri_or_path)
    if scheme is None:
        return f"file://{os.path.abspath(os.path.expanduser(uri_or_path))}"
    if uri_or_path.startswith("file:///"):
        return f"file://{os.path.abspath(path_of(uri_or_path))}"
    if re.match("s3://[^/]", uri_or_path):
        return uri_or_path.rstrip("/")
    raise UsageError(
        f"{uri_or_path!r}: the scheme {scheme[1]!r} is unknown or the URI incomplete; "
        "give a path, file:///folder/name or s3://bucket/key"
    )


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
