"""`tandem report`: reads runs, looks through their models, and writes the page."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from jobspecs.errors import TandemError, UsageError
from jobspecs.redaction import redacted
from jobspecs.storage import S3
from orchestrator.ledger import Ledger
from orchestrator.report.page import Reported, page
from orchestrator.report.record import read_record
from workers.storage import Storage, join


def write_report(runs: Sequence[tuple[Ledger, S3 | None]], out: str | None = None, *, no_model: str = "") -> str:
    """Writes the report of one run, or of several in one, and returns its URI.

    runs: each with how S3 is reached for its model and data, in place of its spec's. out: URI; None: report.html in the
    run directory, of several runs comparison.html in that of the first. no_model: why what needs a model is left out,
    if it is to be; where it fails, the page says why.

    Raises UsageError: no run, or one run twice; RunDirectoryError, StorageError.
    """
    if not runs:
        raise UsageError("There is no run to report. Name one at least.")
    uris = [ledger.run.uri for ledger, _ in runs]
    for place, uri in enumerate(uris):
        if uri in uris[:place]:
            raise UsageError(f"{uri} is named twice. Name each run once.")
    reported = [_reported(ledger, s3, no_model) for ledger, s3 in runs]
    out = out or join(uris[0], "report.html" if len(uris) == 1 else "comparison.html")
    storage = runs[0][0].storage if out.startswith("s3://") else Storage()
    storage.write(out, page(reported).encode())
    return out


def _reported(ledger: Ledger, s3: S3 | None, no_model: str) -> Reported:
    record = read_record(ledger)
    if no_model:
        return Reported(record, None, no_model)
    try:
        from orchestrator.report.look import look  # torch

        return Reported(record, look(ledger.run.uri, s3), "")
    except TandemError as error:
        return Reported(record, None, redacted(f"Left out: {error}"))
    except Exception as error:  # the rest of the report is whole without it
        (frame,) = traceback.extract_tb(error.__traceback__)[-1:]
        place = f"{frame.name}, line {frame.lineno} of {frame.filename}"
        return Reported(record, None, redacted(f"Left out: {type(error).__name__}: {error} ({place})"))
