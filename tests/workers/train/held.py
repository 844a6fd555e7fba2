"""A job whose memory is looked at: what it is, how it trains for two steps, and what it is said to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.benchmarks.step import noise
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


def _spec(case: Case) -> JobSpec:
    return loads(SPEC % vars(case), "held.yaml")


def train(
    case: Case, device: torch.device, *, micro_batch: Literal["auto"] | None = None, steps: int = 2
) -> tuple[int, int, list[float]]:
    """The rows at a time and the graphs that are kept at the end, and each step's loss."""
    spec, ranks = _spec(case), dist.get_world_size()
    model = build(spec.model, spec.data, spec.objective, spec.seed, TOKENIZERS)
    contrast = contrast_of(spec.objective, spec.data, model.trained)
    rows = noise(spec, case.batch // ranks, TOKENIZERS["text"])
    engine = Engine(model, spec.training, len(rows.ids), device)
    setting = MicroBatch(micro_batch, len(rows.ids), device)
    step = ContrastiveStep(engine, contrast, setting, width=EMBEDDING, seed=spec.seed, device=device)
    layout = Layout(seed=0, global_batch=case.batch, lanes=ranks, window=1, slots=(case.batch,))
    losses = []
    for number in range(steps):
        seen = gather_batch(rows, content_keys(rows, contrast.kinds), layout, device, command=Command.GO)
        losses.append(step(rows, seen, number, 1e-4, measure=False).loss)
    return setting.rows, setting.kept, losses


def estimate(case: Case, device: torch.device) -> int:
    """Bytes that a rank is said to hold at the most."""
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
        device=device,
    ).peak
