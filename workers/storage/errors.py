"""From what the system and botocore raise to the errors that users read.

Each message says what failed at which URI, the cause as a code or in the system's words, and what to do.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from jobspecs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    ChangedError,
    NoCredentialsError,
    NotFoundError,
    StorageError,
    TandemError,
    UnreachableError,
)
from jobspecs.redaction import redacted
from workers.storage.uris import bucket_and_prefix

_BUSY = ("SlowDown", "Throttling", "ThrottlingException", "RequestThrottled", "RequestLimitExceeded", "RequestTimeout")


@contextlib.contextmanager
def translated(verb: str, uri: str, endpoint: str | None = None) -> Iterator[None]:
    """Turns what is raised inside into errors for the user; `endpoint` is None for a file."""
    try:
        yield
    except TandemError:
        raise
    except Exception as error:
        # botocore first: some of its errors are OSErrors too.
        ours = None if endpoint is None else _s3_error(error, verb, uri, endpoint)
        if ours is None and isinstance(error, OSError):
            ours = _os_error(error, verb, uri)
        if ours is None:
            raise
        raise ours from error


def already_exists(uri: str) -> AlreadyExistsError:
    """What a conditional write raises that finds an object."""
    return AlreadyExistsError(
        f"cannot create {uri}: there is an object already. Another writer was first, or it is left from an earlier run"
    )


def changed(uri: str, seen: str) -> ChangedError:
    """What reading an object raises that is no longer the one that was `seen`: "opened", "indexed"."""
    return ChangedError(
        f"cannot read {uri}: it was changed or replaced since it was {seen}. Put the old object back, or give the new "
        "data names of their own and use those"
    )


def transient(error: Exception) -> str | None:
    """The name of a failure that another request may mend; None for any other."""
    from botocore import exceptions as boto
    from urllib3.exceptions import HTTPError  # botocore passes it on where the body of an error breaks

    if isinstance(error, boto.ClientError):
        code, status = error.response.get("Error", {}).get("Code", "?"), http_status(error) or 0
        return f"{code} (HTTP {status})" if status in (429, *range(500, 600)) or code in _BUSY else None
    if isinstance(
        error, (boto.IncompleteReadError, boto.ResponseStreamingError, boto.FlexibleChecksumError, HTTPError)
    ):
        return "broken body"
    return type(error).__name__ if isinstance(error, (boto.ConnectionError, boto.HTTPClientError, OSError)) else None


def unanswered(error: Exception) -> bool:
    """Whether the server said nothing at all."""
    from botocore import exceptions as boto

    silence = (boto.ConnectionError, boto.ConnectionClosedError, boto.ReadTimeoutError)
    return isinstance(error, silence)


def http_status(error: Exception) -> int | None:
    """The HTTP status of a botocore ClientError, None for any other error."""
    response: dict[str, Any] = getattr(error, "response", None) or {}  # None: a request without an answer
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def _os_error(error: OSError, verb: str, uri: str) -> StorageError:
    failed = f"cannot {verb} {uri}"
    place = f" ({error.filename})" if error.filename is not None else ""
    if isinstance(error, FileNotFoundError):
        return NotFoundError(f"{failed}: there is no such file{place}. Check the path")
    if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError):
        kind = NotFoundError if verb in ("look up", "read") else StorageError
        return kind(f"{failed}: a file stands where a folder should, or the reverse{place}. Check the path")
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return AccessDeniedError(f"{failed}: {error.strerror}{place}. Check the permissions of the file and its folder")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"{failed}: {error.strerror}{place}. Free some space or choose another folder")
    return StorageError(f"{failed}: {error.strerror or error}{place}. Check the disk and its mount")


def _s3_error(error: Exception, verb: str, uri: str, endpoint: str) -> TandemError | None:
    """What a botocore error means to the user; None if it is none of botocore's."""
    from botocore import exceptions as boto

    failed, endpoint = f"cannot {verb} {uri}", redacted(endpoint)  # AWS_ENDPOINT_URL may have a password in it
    bucket = bucket_and_prefix(uri)[0]
    no_credentials = (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.SSOError,
        boto.ProfileNotFound,
    )
    if isinstance(error, no_credentials):
        return NoCredentialsError(
            f"{failed}: no usable AWS credentials were found ({type(error).__name__}). Set AWS_ACCESS_KEY_ID "
            "and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine an instance role"
        )
    if isinstance(error, boto.ConnectionError | boto.HTTPClientError):
        return UnreachableError(
            f"{failed}: no answer from {endpoint} ({type(error).__name__}). "
            "Check storage.s3.endpoint, the server and the network"
        )
    if isinstance(error, boto.ClientError):
        code, status = error.response.get("Error", {}).get("Code", "?"), http_status(error)
        if code == "NoSuchBucket" or (status == 404 and error.operation_name == "HeadBucket"):
            return NotFoundError(f"{failed}: there is no bucket {bucket!r} at {endpoint}. Create it or correct the URI")
        if status == 404:
            return NotFoundError(f"{failed}: there is no such object. Check the URI")
        if status in (401, 403) or code in ("ExpiredToken", "InvalidToken"):
            return AccessDeniedError(
                f"{failed}: access denied ({code}). Check that the credentials are valid and may {verb} "
                f"objects of the bucket {bucket!r}. Without the right to list, S3 says this of a missing "
                "object too"
            )
        return StorageError(
            f"{failed}: {endpoint} answered {code} (HTTP {status}). Look the code up in the S3 manual or "
            "the server's log; codes about a region mean storage.s3.region"
        )
    if isinstance(error, boto.BotoCoreError):
        return StorageError(f"{failed}: {type(error).__name__}: {error}")
    return None
