"""What a rank says of itself."""

from __future__ import annotations

import threading

from orchestrator.beating import python_stacks
from tests.waiting import until


def test_stacks_name_each_thread_and_where_it_is() -> None:
    done = threading.Event()

    def wait_for_it() -> None:
        done.wait()

    thread = threading.Thread(target=wait_for_it, name="the one that waits")
    thread.start()
    stacks = until(lambda: "in wait_for_it\n    done.wait()" in (stacks := python_stacks()) and stacks, "its wait")
    done.set()
    thread.join()
    (own,) = [stack for stack in stacks.split("thread ") if stack.startswith("the one that waits\n")]
    assert "in wait_for_it\n    done.wait()" in own
    assert "thread MainThread\n" in stacks
