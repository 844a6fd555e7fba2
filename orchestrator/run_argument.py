"""A run as the command that a message tells of takes it."""

from __future__ import annotations

from jobspecs.storage import S3


def run_argument(uri: str, s3: S3) -> str:
    """The run's URI, and --endpoint where S3 is another server than AWS's: the spec that names it is in the run
    directory, which can't be read before."""
    return f"{uri} --endpoint {s3.endpoint}" if s3.endpoint and uri.startswith("s3://") else uri
