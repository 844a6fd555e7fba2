"""What is done to a job's storage, each with a name, as in `faults.py`.

cut_manifest, …          each HOW of damage, of each KIND of file of the newest checkpoint
slow_save, …             each of the proxy's OUTAGES, in each of the PHASES of a checkpoint's life
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable

import psutil

from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.faulty_proxy import OUTAGES
from workers.storage import join

OUTAGE_SECONDS = 6.0
IN_FLIGHT_SECONDS = 0.5
"""What ranks had sent before they died may be there only then."""

HOW: dict[str, Callable[[bytes, int], bytes | None]] = {
    "change": lambda content, place: content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :],
    "cut": lambda content, place: content[:place],
    "delete": lambda content, place: None,
}
"""What becomes of a file's content, at a byte of it; None: the file is gone."""

KINDS: dict[str, Callable[[str], bool]] = {
    "manifest": lambda uri: uri.endswith("/manifest.json"),
    "data": lambda uri: uri.endswith(".safetensors"),
}
"""Files of a checkpoint."""

PHASES: dict[str, Callable[[str, str], bool]] = {
    "save": lambda method, path: method in ("PUT", "POST") and "/checkpoints/" in path,
    "look": lambda method, path: method == "GET" and path.endswith("/manifest.json"),
    "load": lambda method, path: method == "GET" and path.endswith(".safetensors"),
}
"""Which requests make up the phase: ranks save; the driver looks for a checkpoint to go on from; ranks load it."""


def damage(how: str, kind: str, stage: Stage) -> str | None:
    """A file of the newest checkpoint is changed, cut or gone when the next attempt needs it: all ranks die."""
    if not stage.wait_for_commit():
        return None
    began = time.time()
    _kill_workers(stage)  # first: what they had still committed would be the newest
    step = stage.commits()[-1]
    uri = _damaged(how, kind, step, stage)
    time.sleep(IN_FLIGHT_SECONDS)
    if (newest := stage.commits()[-1:]) and newest[0] > step:  # it was on its way when they died
        step = newest[0]
        uri = _damaged(how, kind, step, stage)
    folder = stage.ledger.run.checkpoint(step)
    name = uri.removeprefix(join(stage.ledger.run.uri, ""))
    if not stage.wait(lambda: any(event["step"] < step for event in stage.attempts(began)), "an older checkpoint"):
        return None
    if (how, kind) != ("delete", "manifest"):  # without one it is no checkpoint that could be rejected
        rejected = [event["checkpoint"] for event in stage.events("checkpoint_rejected", began)]
        assert folder in rejected, f"{name} was damaged, {rejected} rejected"
    return f"{how} {name}, killed all workers"


def _damaged(how: str, kind: str, step: int, stage: Stage) -> str:
    """The file that is no longer what it was."""
    storage = stage.ledger.storage
    folder = stage.ledger.run.checkpoint(step)
    uri = stage.draws.choice([info.uri for info in storage.list(folder) if KINDS[kind](info.uri)])
    content = storage.read(uri)
    left = HOW[how](content, stage.draws.randrange(len(content)))
    if left is None:
        storage.delete(uri)
    else:
        storage.write(uri, left)
    return uri


def outage(kind: str, phase: str, stage: Stage) -> str | None:
    """For some seconds the store answers nothing but errors, refuses connections, is slow, or is full, from the first
    request of a phase on."""
    proxy = stage.proxy
    assert proxy is not None, "a fault of jobs in object storage"
    if not stage.wait_for_commit():
        return None
    if phase != "save":
        _kill_workers(stage)
    proxy.plan_outage(kind, OUTAGE_SECONDS, PHASES[phase])
    if not stage.wait(lambda: proxy.outage_is_over, f"the end of the outage at a {phase}"):
        return None
    hit = [request for request in proxy.hit if PHASES[phase](*request)]
    # Reading goes on where the storage is full; what is written meanwhile is refused.
    assert hit or (kind == "full" and proxy.hit), f"the outage met no {phase}: {proxy.hit}"
    return f"storage {kind} for {OUTAGE_SECONDS:g} s at a {phase}: met {len(proxy.hit)} requests, {len(hit)} of it"


STORAGE_FAULTS: dict[str, Fault] = {
    **{f"{how}_{kind}": functools.partial(damage, how, kind) for how in HOW for kind in KINDS},
    **{f"{kind}_{phase}": functools.partial(outage, kind, phase) for kind in OUTAGES for phase in PHASES},
}


def _kill_workers(stage: Stage) -> None:
    for worker in stage.workers():
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
