"""The control plane: plans a job, runs it on Ray, keeps its record.

    from orchestrator import Run, submit

is all that a notebook or a script needs: see `orchestrator.api`. Nothing is loaded before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import Run, submit

__all__ = ["Run", "submit"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from orchestrator import api

    return getattr(api, name)
