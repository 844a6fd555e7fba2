"""The interface that a driver shows its job by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from orchestrator.ledger import Status

TOLD_OTHERWISE = "run_failed"
"""The event whose message the command ends with, as its error: people need not read it twice."""


class View(ABC):
    """Shows a run. A context manager, open while the run goes on. Its methods are called from several threads, and none
    of them raises when whatever shows it is gone: a closed terminal takes no job with it, and the event log has it all.
    """

    @abstractmethod
    def event(self, event: dict[str, Any]) -> None:
        """An event of the ledger: `time` (Unix), `event` (its kind), `message`, and fields of the kind."""

    @abstractmethod
    def line(self, message: str) -> None:
        """Something to see that no ledger keeps."""

    @abstractmethod
    def progress(self, metrics: dict[str, Any], total_steps: int) -> None:
        """The newest step: `workers.train.record.StepMetrics`. May come several times for one step."""

    @abstractmethod
    def results(self, status: Status, title: str) -> None:
        """How it ended, after the context."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
