"""What training is said to hold on a device, against the resident memory of ranks that train."""

from __future__ import annotations

import ctypes
import gc
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.benchmarks.step import noise
from tests.ranks import run_ranks
from workers.data.order import Layout
from workers.data.tokenize import byte_tokenizer
from workers.models.build import activations_of, build, tower_sizes
from workers.objectives import contrast_of
from workers.train.batch import content_keys, gather_batch
from workers.train.command import Command
from workers.train.engine import Engine
from workers.train.memory import device_memory
from workers.train.micro_batch import MicroBatch
from workers.train.step import ContrastiveStep

CPU = torch.device("cpu")
TOKENIZERS = {"text": byte_tokenizer()}
EMBEDDING = 32
SPEC = """
apiVersion: tandem/v1
name: held
objective: {kind: image_text}
data:
  sources: [{name: none, urls: ["none.tar"]}]
  image: {column: jpg, size: 32}
  text: {column: txt, context_length: 32}
model:
  image: {kind: transformer, width: %(width)d, layers: %(layers)d, heads: 4, patch: 8}
  text: {kind: transformer, width: %(width)d, layers: %(layers)d, heads: 4}
  embedding_dim: 32
training:
  global_batch: %(batch)d
  steps: 10
  zero_stage: %(stage)d
  precision: %(precision)s
  optimizer: {kind: adamw, learning_rate: 1e-4}
"""


@dataclass(frozen=True)
class Case:
    """A job."""

    width: int
    layers: int
    batch: int
    stage: int
    precision: str = "fp32"


CASES = {
    "weights": (1, Case(width=512, layers=4, batch=4, stage=0)),
    "activations": (1, Case(width=128, layers=6, batch=160, stage=0)),
    "bf16": (1, Case(width=128, layers=6, batch=160, stage=0, precision="bf16")),
    "zero": (2, Case(width=512, layers=4, batch=4, stage=1)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_estimate_is_within_15_percent(name: str) -> None:
    ranks, case = CASES[name]
    for measured, estimated in run_ranks(_measure, ranks, case, timeout_seconds=600):
        assert estimated == pytest.approx(measured, rel=0.15), (measured >> 20, estimated >> 20)


def _measure(case: Case) -> tuple[int, int]:
    """Bytes that a rank's training added to what it held before, and what they are said to be."""
    torch.set_num_threads(1)
    _train(Case(width=32, layers=1, batch=4, stage=case.stage, precision=case.precision))  # libraries' own
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    _train(case)
    return _status("VmHWM") - before, _estimate(case)


def _spec(case: Case) -> JobSpec:
    return loads(SPEC % vars(case), "held.yaml")


def _train(case: Case) -> None:
    spec, ranks = _spec(case), dist.get_world_size()
    model = build(spec.model, spec.data, spec.objective, spec.seed, TOKENIZERS)
    contrast = contrast_of(spec.objective, spec.data, model.trained)
    rows = noise(spec, case.batch // ranks, TOKENIZERS["text"])
    engine = Engine(model, spec.training, len(rows.ids), CPU)
    step = ContrastiveStep(
        engine, contrast, MicroBatch(None, len(rows.ids), CPU), width=EMBEDDING, seed=spec.seed, device=CPU
    )
    layout = Layout(seed=0, global_batch=case.batch, lanes=ranks, window=1, slots=(case.batch,))
    for number in range(2):
        seen = gather_batch(rows, content_keys(rows, contrast.kinds), layout, CPU, command=Command.GO)
        step(rows, seen, number, 1e-4, measure=False)


def _estimate(case: Case) -> int:
    spec, ranks = _spec(case), dist.get_world_size()
    sizes = tower_sizes(spec.model, spec.data, TOKENIZERS).values()
    return device_memory(
        spec.training,
        contrast_of(spec.objective, spec.data, lambda side: True),
        parameters=sum(size.parameters for size in sizes),
        trained=sum(size.trained for size in sizes),
        activations=activations_of(spec.model, spec.data, TOKENIZERS, spec.training.precision),
        ranks=ranks,
        rows=case.batch // ranks,
        width=EMBEDDING,
        device=CPU,
    ).peak


def _status(field: str) -> int:
    """Bytes (proc(5), status)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)
