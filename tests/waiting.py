"""How tests wait for what they need to see.

    until(lambda: stage.events("evaluation_failed"), "the failure")

Machines are shared and stand still now and then: the limit is of minutes, and only ends what hangs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LIMIT_SECONDS = 600.0


def until(look: Callable[[], T], what: str, every_seconds: float = 0.01) -> T:
    """What `look` returns, as soon as that is true. An assertion that fails in it says: not yet.

    Raises AssertionError, with what the last look failed of, where it never is.
    """
    deadline, failed = time.monotonic() + LIMIT_SECONDS, ""
    while True:
        try:
            if found := look():
                return found
        except AssertionError as error:
            failed = f"\n{error}"
        assert time.monotonic() < deadline, f"waited {LIMIT_SECONDS:.0f} s for {what}{failed}"
        time.sleep(every_seconds)
