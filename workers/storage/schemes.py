"""The schemes of URIs, and the backend of each. A new storage is a `Backend` in a file of its own, and a line here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from jobspecs.data import Cache
from jobspecs.errors import UsageError
from jobspecs.storage import S3
from workers.storage.backend import Backend
from workers.storage.files import FileStore
from workers.storage.s3 import S3Store
from workers.storage.uris import path_of

BACKENDS: dict[str, Callable[[S3, Cache | None, int], Backend]] = {
    "file": lambda *_: FileStore(),
    "s3": S3Store,
}
"""Scheme -> makes its backend, of what a `Storage` is made of."""


def scheme_of(uri: str) -> str:
    """`s3://b/k` -> `s3`. UsageError for what is no URI of a scheme above."""
    scheme, found, rest = uri.partition("://")
    if not found or scheme not in BACKENDS or (scheme == "file" and not rest.startswith("/")):
        raise UsageError(f"{uri!r} is no URI of the form {_forms()}")
    return scheme


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
    if scheme[1] != "file" and scheme[1] in BACKENDS and re.match("[^:]+://[^/]", uri_or_path):
        return uri_or_path.rstrip("/")
    raise UsageError(
        f"{uri_or_path!r}: the scheme {scheme[1]!r} is unknown or the URI incomplete; give a path, {_forms()}"
    )


def _forms() -> str:
    """As messages name them."""
    return " or ".join("file:///folder/name" if scheme == "file" else f"{scheme}://bucket/key" for scheme in BACKENDS)
