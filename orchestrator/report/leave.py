"""What a run leaves behind of itself: its report, without what needs the model."""

from __future__ import annotations

from orchestrator.ledger import Ledger
from orchestrator.report.write import write_report
from orchestrator.within import within

SECONDS = 10.0
"""How long the end of a run waits for it."""
LARGEST_METRICS = 64 << 20
"""Bytes of metrics, of some 150,000 steps, which take 2 s and 250 MB: those of more are left to `tandem report`."""
NO_MODEL = "Left out: the run wrote this page itself, and loads no model for it. tandem report RUN adds this."


def leave_report(ledger: Ledger) -> str:
    """Writes it. Never fails, and never takes long: it is not worth a run. Returns why there is none; "" where it was
    written."""
    told = [f"it took longer than {SECONDS:.0f} s"]
    within(SECONDS, lambda: told.append(_leave(ledger)))
    return told[-1]


def _leave(ledger: Ledger) -> str:
    try:
        size = sum(info.size for info in ledger.storage.list(ledger.run.metrics))
        if size > LARGEST_METRICS:
            return f"its metrics have {size >> 20} MiB"
        write_report([(ledger, None)], no_model=NO_MODEL)
    except Exception as error:  # whatever it is, it is told, and the run has ended as it has
        return f"{type(error).__name__}: {error}"
    return ""
