"""What is good to have at an end, and must not hold it up."""

from __future__ import annotations

import threading
from collections.abc import Callable


def within(seconds: float, work: Callable[[], object]) -> bool:
    """Does `work` in a thread, and waits for it, but no longer than `seconds`: then it is left to itself, and ends with
    the process at the latest. Returns whether it was done."""
    thread = threading.Thread(target=work, name="within", daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()
