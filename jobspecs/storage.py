"""`storage:` where runs are kept, and how S3 is reached. Credentials never stand in a spec."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from jobspecs.base import Pattern, Section, defaults
from jobspecs.units import Seconds

Endpoint = Annotated[
    str,
    Pattern(
        r"^https?://([^\s/@:\[\]]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?/?$",
        "http:// or https://, a host, and a port where it needs one, as in http://minio:9000",
    ),
]
"""The URL of a server: no user, no path."""


class S3(Section):
    """How `s3://` URIs are reached. Credentials come from the usual AWS chain only
    (environment, shared files, instance or container role)."""

    endpoint: Endpoint | None = None
    """URL of an S3-compatible server, such as `http://minio:9000`. None is AWS itself."""
    region: str | None = None
    """Region of the buckets. None takes the AWS chain's."""
    timeout_seconds: Seconds = 60.0
    """An answer, or the next part of a body, that takes longer is asked for again."""


class StorageSpec(Section):
    """Where runs are kept."""

    root: str = Field(default="runs", min_length=1)
    """A folder or an `s3://bucket/prefix`; the run directory is `<root>/<name>`."""
    s3: S3 = defaults(S3)
    """How `s3://` URIs are reached: those of the data and of the run directory."""
