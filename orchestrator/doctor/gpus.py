"""Whether there are the GPUs that a job asks for, and whether PyTorch can use them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.doctor.finding import GIB, Finding, Level, gib

QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits")
ANSWER_SECONDS = 30.0
BUSY_SHARE = 0.1
"""Of a GPU's memory: as much in use is somebody else's job."""


@dataclass(frozen=True)
class Gpu:
    """As the driver has it."""

    name: str
    total: float
    """Bytes."""
    used: float
    """Bytes."""
    driver: str


@dataclass(frozen=True)
class TorchCuda:
    """What PyTorch has of CUDA."""

    built_for: str | None
    """The version of CUDA that it was built for; None: for CPUs alone."""
    visible: int
    """GPUs that it can use."""


def gpus(wanted: int) -> Iterator[Finding]:
    """Of this machine. wanted: as many a job needs here; 0: none."""
    yield from judge(_asked_of_driver(), _asked_of_torch(), wanted)


def judge(there: Sequence[Gpu], torch: TorchCuda, wanted: int) -> Iterator[Finding]:
    """What the driver, PyTorch and the job say together."""
    for number, gpu in enumerate(there):
        told = f"{gpu.name}, {gib(gpu.total)}, {gib(gpu.used)} in use, driver {gpu.driver}"
        if gpu.used > BUSY_SHARE * gpu.total:
            remedy = "Somebody else's job seems to run there: `nvidia-smi` shows whose. Wait, or choose other GPUs."
            yield Finding(f"GPU {number}", Level.WARN, told, remedy)
        else:
            yield Finding(f"GPU {number}", Level.OK, told)
    built = f"PyTorch is built for CUDA {torch.built_for}" if torch.built_for else "PyTorch is built for CPUs alone"
    if there and not torch.visible:
        if torch.built_for is None:
            remedy = "Install a build for CUDA, as https://pytorch.org says for this driver."
        else:
            remedy = (
                f"Is CUDA_VISIBLE_DEVICES empty? Else driver {there[0].driver} is too old for it: update it, or "
                "install a PyTorch for an older CUDA."
            )
        # A job without GPUs runs all the same, and they may be hidden from this process on purpose.
        level = Level.FAIL if wanted else Level.WARN
        yield Finding("CUDA", level, f"{built}, and can use none of {len(there)} GPUs", remedy)
    elif torch.visible < wanted:
        remedy = (
            "Lower cluster.workers, set cluster.gpus_per_worker: 0, or send the job to a cluster with `tandem submit`."
        )
        yield Finding("CUDA", Level.FAIL, f"the job needs {wanted} GPUs here, and there are {torch.visible}", remedy)
    else:
        usable = (
            f"can use {torch.visible} GPU{'s' if torch.visible != 1 else ''}" if torch.visible else "there is no GPU"
        )
        yield Finding("CUDA", Level.OK, f"{built}; {usable}")


def parse(answer: str) -> list[Gpu]:
    """What `nvidia-smi` answers to `QUERY`; its memory is in MiB, and lines that are none of that are left out."""
    found = []
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[1].isdigit() and parts[2].isdigit():
            found.append(Gpu(parts[0], int(parts[1]) * GIB / 1024, int(parts[2]) * GIB / 1024, parts[3]))
    return found


def _asked_of_driver() -> list[Gpu]:
    try:
        answer = subprocess.run(QUERY, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse(answer.stdout)


def _asked_of_torch() -> TorchCuda:
    import torch

    return TorchCuda(torch.version.cuda, torch.cuda.device_count() if torch.cuda.is_available() else 0)
