"""What a rank says of itself."""

from __future__ import annotations

import threading
import time

from orchestrator.beating import python_stacks


def test_stacks_name_each_thread_and_where_it_is() -> None:
    done = threading.Event()

    def wait_for_it() -> None:
        done.wait()

    thread = threading.Thread(target=wait_for_it, name="the one that waits")
    thread.start()
    deadline = time.monotonic() + 60
    while "in wait_for_it\n    done.wait()" not in (stacks := python_stacks()) and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    thread.join()
    (own,) = [stack for stack in stacks.split("thread ") if stack.startswith("the one that waits\n")]
    assert "in wait_for_it\n    done.wait()" in own
    assert "thread MainThread\n" in stacks
