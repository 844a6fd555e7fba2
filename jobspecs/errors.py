"""The exceptions that a user can meet, and the exit code that each leads to.

    TandemError                   every error whose message is meant for the user
    ├── UsageError        exit 2  the spec or the call is wrong; nothing was started
    │   └── SpecError             a spec with faults: all of them, each with its place
    ├── DataError         exit 2 before the start, 1 after it
    │                             shards that are missing, empty, changed or too damaged
    ├── StorageError      exit 2 before the start, 1 after it
    │   ├── NotFoundError         no such object
    │   ├── AlreadyExistsError    a conditional write lost
    │   ├── AccessDeniedError     the credentials may not do this
    │   ├── NoCredentialsError    there are none
    │   └── UnreachableError      no answer from the endpoint
    └── JobFailedError    exit 1  the job ran and failed for good

All survive pickling (Ray carries them between processes): their arguments are plain values.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from textwrap import indent

from jobspecs.places import Place
from jobspecs.redaction import redacted


class TandemError(Exception):
    """Base of every error whose message is written for the user: no traceback is shown for it."""


class UsageError(TandemError):
    """The spec or the call is wrong. Nothing was started."""


@dataclass(frozen=True)
class Fault:
    """One fault of a spec: where it stands, what is wrong, what to do.

    job.yaml:12:17 (training.global_batch): should be a valid integer, given: "lots"
        12 |   global_batch: lots
           |                 ^
        the remedy

    What was given may be a secret: it is blacked out.
    """

    place: Place
    message: str
    """What was given and what is allowed."""
    remedy: str = ""
    path: str = ""
    """The field, dotted; "" where the fault is that of no field."""

    @property
    def where(self) -> str:
        """`job.yaml:12:17 (training.global_batch)`; the path is left out where an override is just it."""
        named = self.path and str(self.place) not in (f"--set {self.path}", f"--set {self.path}+")
        return f"{self.place} ({self.path})" if named else str(self.place)

    def __str__(self) -> str:
        shown = replace(self.place, text=redacted(self.place.text)).shown()  # the whole line: it may be shown in part
        below = "\n".join(filter(None, (shown, self.remedy)))
        return redacted(f"{self.where}: {self.message}") + (f"\n{indent(below, '    ')}" if below else "")


class SpecError(UsageError):
    """A spec with one or more faults, all reported at once."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        count = len(self.faults)
        header = f"{count} fault{'s' if count > 1 else ''} in the spec"
        return "\n".join([header, *(indent(str(fault), "  ") for fault in self.faults)])


class DataError(TandemError):
    """The data are not what the job needs: missing, empty, changed or too damaged."""


class ChangedError(DataError):
    """An object is no longer the one that was opened or indexed."""


class StorageError(TandemError):
    """A storage operation failed for good, retries included. The message names the URI."""


class NotFoundError(StorageError):
    """There is no object at this URI."""


class AlreadyExistsError(StorageError):
    """A write that must create its object found one there."""


class AccessDeniedError(StorageError):
    """The credentials (or the file's permissions) don't allow this."""


class NoCredentialsError(StorageError):
    """No credentials were found in the usual chain."""


class UnreachableError(StorageError):
    """The endpoint gave no answer."""


class JobFailedError(TandemError):
    """The job ran and ended without a result; the message names the cause and the next step."""
