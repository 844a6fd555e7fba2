"""Whether a run can be kept below a root: written once and not over another's, read, listed, deleted; and how fast.

What it writes it deletes; of a folder that was not there, the empty one stays.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator

from jobspecs.errors import AlreadyExistsError, StorageError, TandemError
from orchestrator.doctor.finding import Finding, Level
from workers.storage import Storage, join

PROBE_BYTES = 8 << 20
"""One range of a reader."""
SLOW_BYTES_PER_SECOND = 20 << 20
"""A rank that reads 256 px images at a few hundred a second needs about as much."""


def storage(there: Storage, root: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Finding]:
    """Of the folder `root`, a URI. clock: in seconds."""
    uri = join(root, f".tandem-doctor-{secrets.token_hex(8)}")
    content = secrets.token_bytes(PROBE_BYTES)
    try:
        try:
            times = [clock()]
            there.write(uri, content)
            times.append(clock())
            again = there.read(uri)
            times.append(clock())
            there.list(root, deep=False)
        finally:
            there.delete(uri)
    except TandemError as error:
        yield Finding("storage", Level.FAIL, f"{root}: {error}", "Give storage.root a place that can be written.")
        return
    if again != content:
        yield Finding("storage", Level.FAIL, f"{root} gives back other bytes than it got", "Choose another storage.")
        return
    yield Finding("storage", Level.OK, f"{root} can be written, read, listed and deleted")
    yield _conditions(there, f"{uri}-once")
    yield speed(PROBE_BYTES, times[1] - times[0], times[2] - times[1])


def speed(size: int, write_seconds: float, read_seconds: float) -> Finding:
    """Of one object of that many bytes, by one thread."""
    rates = [size / max(seconds, 1e-9) for seconds in (write_seconds, read_seconds)]
    told = f"writes {rates[0] / (1 << 20):,.0f} MiB/s, reads {rates[1] / (1 << 20):,.0f} MiB/s, in one thread"
    if min(rates) < SLOW_BYTES_PER_SECOND:
        remedy = "Is it near? A bucket in the region of the machines, or a disk of theirs, is several times as fast."
        return Finding("storage speed", Level.WARN, told, remedy)
    return Finding("storage speed", Level.OK, told)


def _conditions(there: Storage, uri: str) -> Finding:
    """Drivers take a run by a write that fails where another was first."""
    remedy = "Choose a storage with conditional writes: two drivers would not notice each other."
    try:
        try:
            there.write(uri, b"first", if_absent=True)
            there.write(uri, b"second", if_absent=True)
        except AlreadyExistsError:
            return Finding("storage conditions", Level.OK, "what is there is not written over")
        finally:
            there.delete(uri)
    except StorageError as error:
        return Finding("storage conditions", Level.FAIL, str(error), remedy)
    return Finding("storage conditions", Level.FAIL, "what is there is written over", remedy)
