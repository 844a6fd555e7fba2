"""One run of one contestant in a fresh process, with its memory watched from outside.

In: which contestant on what. Out: its `Result`. Called by `data.py`; the process is `data_run.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import psutil

_WATCH_SECONDS = 0.5
_LONGEST_RUN_SECONDS = 180


class RunFailedError(RuntimeError):
    """A contestant ended without a result; the message has the end of what it said."""


@dataclass(frozen=True)
class Result:
    """What was measured in one run."""

    samples_per_second: float
    samples_per_cpu_second: float
    """CPU time of the contestant's own processes: the S3 server's is not in it."""
    first_batch_seconds: float | None
    """From the start of the loader, imports done, to its first batch. None for bare calls."""
    peak_bytes: int
    """Highest sum over the process tree of the proportional set sizes (a page that n processes share counts
    1/n in each), every half second."""


def measure(
    contestant: str, folder: Path, *, endpoint: str | None, processes: int, batch: int, seconds: float
) -> Result:
    """Runs the contestant for about `seconds` after its first batches; the other arguments are those of
    `data_contestants.Case`. Raises RunFailedError."""
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as said:
        options = {"folder": folder, "scratch": scratch, "processes": processes, "batch": batch, "seconds": seconds}
        if endpoint is not None:
            options["endpoint"] = endpoint
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.data_run", contestant]
            + [f"--{name}={value}" for name, value in options.items()],
            stdout=subprocess.PIPE,
            stderr=said,
            start_new_session=True,  # so that what it leaves running can be ended with it
            env=os.environ | {"TMPDIR": scratch},
        )
        peaks: list[int] = [0]
        watcher = threading.Thread(target=_watch_memory, args=(process, peaks))
        watcher.start()
        try:
            answer = process.communicate(timeout=_LONGEST_RUN_SECONDS)[0]
        except subprocess.TimeoutExpired:
            answer = b""
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            watcher.join()
        if not answer:
            said.seek(0)
            raise RunFailedError(f"{contestant} gave no result:\n{said.read()[-2000:].decode(errors='replace')}")
        return Result(**json.loads(answer.splitlines()[-1]), peak_bytes=max(peaks))


def _watch_memory(process: subprocess.Popen[bytes], peaks: list[int]) -> None:
    root = psutil.Process(process.pid)
    while process.returncode is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            peaks.append(sum(map(_proportional_bytes, [root, *root.children(recursive=True)])))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_WATCH_SECONDS)


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it has ended meanwhile
        return 0
