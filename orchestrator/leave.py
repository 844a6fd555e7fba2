"""What a pod does before it goes: `python -m orchestrator.leave SECONDS`, run by Kubernetes' preStop.

A pod with a driver asks it to stop, as Ctrl-C does: it saves a checkpoint and ends. Any other one tells Ray that its
node is about to be preempted: the driver sees it and lets the attempt save and end. Either way the pod waits until that
is done, SECONDS at most. Kubernetes kills what is left then.
"""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_LOOK_SECONDS = 0.5
_RAY_SECONDS = 30.0
"""For telling Ray: without its head there is nobody to tell."""
_IDLE = "ray::IDLE"


def leave(seconds: float) -> None:
    """Leaves within `seconds`."""
    until = time.monotonic() + seconds
    drivers = [process for process in psutil.process_iter() if is_driver(_command(process))]
    if drivers:
        for driver in drivers:
            with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
                driver.terminate()
        psutil.wait_procs(drivers, timeout=seconds)
        return
    _tell_ray(seconds)
    _wait(lambda: not any(is_work(_command(process)) for process in psutil.process_iter()), until)


def is_driver(command: list[str]) -> bool:
    """Whether a command line is that of a driver: `…/tandem run SPEC`, or `python -m orchestrator.cli run SPEC`."""
    return any(
        after == "run" and (Path(word).name == "tandem" or word == "orchestrator.cli")
        for word, after in itertools.pairwise(command)
    )


def is_work(command: list[str]) -> bool:
    """Whether a command line is that of a rank or a task of Ray: it calls itself `ray::<name>`."""
    return bool(command) and command[0].startswith("ray::") and not command[0].startswith(_IDLE)


def _tell_ray(seconds: float) -> None:
    tell = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    tell += ["--reason-message", "the pod is going", "--deadline-remaining-seconds", str(int(seconds))]
    try:
        subprocess.run(tell, timeout=min(seconds, _RAY_SECONDS), check=True)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"Ray could not be told that this node is going: {type(error).__name__}", file=sys.stderr)


def _wait(done: Callable[[], bool], until: float) -> None:
    while not done() and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)


def _command(process: psutil.Process) -> list[str]:
    try:
        command: list[str] = process.cmdline()
    except psutil.Error:  # it has just ended, or is not ours
        return []
    return command


if __name__ == "__main__":
    leave(float(sys.argv[1]))
