"""The training step against a bare PyTorch loop, and the cached step against the direct one: `make bench-step`.

    tandem   what the loop does with a batch: keys of its contents, the small gather of what the ranks hold, and
             ContrastiveStep over DeepSpeed's engine, gradient's norm and loss read
    bare     the same towers and losses in the plainest way: both forward passes, cross-entropies of the whole matrix,
             backward pass, clipping, torch's AdamW, loss read
    cached   tandem in micro-batches of a quarter of the batch: all but one are encoded twice (7/8 of a forward pass
             more: with a backward pass of two forward passes, 1.29 times the work; in ever smaller ones, 1.33)

One process with one thread (or one GPU, where torch finds one), no loader: the batch lies in memory. The contestants
take turns and begin with another one each round. On a CPU, processor time is taken, as other work on the machine
lengthens a step by the clock at random; on a GPU, the clock's. What disturbs a step only ever makes it longer, so a
ratio is that of the fastest rounds: `bare` is the bare loop's time over Tandem's, `direct` the direct step's over the
cached one's. The last line is JSON.

Where torch has CUDA, step_cuda.py measures the whole step of ViT-B/32 against open_clip's as well.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.benchmarks.machine import machine
from tests.benchmarks.peers import INSTALL, installed
from tests.ranks import run_ranks
from workers.data.order import Layout
from workers.data.rows import Rows
from workers.data.tokenize import Tokenizer, byte_tokenizer
from workers.models.build import build
from workers.objectives import contrast_of
from workers.train.batch import content_keys, gather_batch
from workers.train.command import Command
from workers.train.engine import Engine
from workers.train.micro_batch import MicroBatch
from workers.train.step import ContrastiveStep

AIMS = {"bare": round(1 / 1.03, 3), "direct": round(1 / 1.4, 3)}
LEARNING_RATE = 1e-4
_LONGEST_SECONDS = 3600.0
_SPEC = """
apiVersion: tandem/v1
name: bench-step
objective: {kind: image_text}
data:
  sources: [{name: none, urls: ["none.tar"]}]
  image: {column: jpg, size: %(pixels)d}
  text: {column: txt, context_length: 32}
model:
  image: {kind: transformer, width: %(width)d, layers: %(layers)d, heads: 4, patch: 8}
  text: {kind: transformer, width: %(width)d, layers: %(layers)d, heads: 4}
  embedding_dim: 64
training:
  global_batch: %(batch)d
  steps: 1000
  precision: fp32
  optimizer: {kind: adamw, learning_rate: 1e-4, weight_decay: 0.1}
  schedule: {kind: cosine, warmup_steps: 1}
"""


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    batch: int
    pixels: int
    width: int
    layers: int
    rounds: int


Seconds = dict[str, list[float]]
"""Of each round, by contestant."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pixels", type=int, default=64, help="side of an image")
    parser.add_argument("--width", type=int, default=192, help="of both towers")
    parser.add_argument("--layers", type=int, default=4, help="of both towers")
    parser.add_argument("--rounds", type=int, default=30)
    plan = Plan(**vars(parser.parse_args()))
    if torch.cuda.is_available() and not installed():
        parser.error(INSTALL)
    seconds = measure(plan)
    table = Table()
    for heading in ("step", "fastest, s", "median, s"):
        table.add_column(heading, justify="left" if heading == "step" else "right")
    for name, of_rounds in seconds.items():
        table.add_row(name, f"{min(of_rounds):.4f}", f"{statistics.median(of_rounds):.4f}")
    Console(width=88).print(table)
    print(*on_gpu(), sep="\n")
    print(json.dumps(summary(seconds)))


def measure(plan: Plan) -> Seconds:
    """In a process of its own."""
    seconds: Seconds = run_ranks(timed, 1, plan, timeout_seconds=_LONGEST_SECONDS, backend=_backend())[0]
    return seconds


def on_gpu() -> list[str]:
    """Lines to print of what a GPU is needed for."""
    from tests.benchmarks.step_cuda import GPU_NEEDED, measure_cuda

    if not torch.cuda.is_available():
        return [GPU_NEEDED]
    lines: list[str] = run_ranks(measure_cuda, 1, timeout_seconds=_LONGEST_SECONDS, backend=_backend())[0]
    return lines


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def summary(seconds: Seconds) -> dict[str, object]:
    """The JSON line."""

    def ratio(other: str, tandem: str) -> float:
        return round(min(seconds[other]) / min(seconds[tandem]), 3)

    return {
        "benchmark": "step",
        "ratios": {"bare": ratio("bare", "tandem"), "direct": ratio("tandem", "cached")},
        "aims": AIMS,
        "machine": machine(),
    }


def timed(plan: Plan) -> Seconds:
    """In a process that is a rank."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    steps = contestants(plan, device)
    for step in steps.values():
        for _ in range(2):  # the optimizer's state, the allocator, and on a GPU kernels
            step()
    seconds: Seconds = {name: [] for name in steps}
    for number in range(plan.rounds):
        turn = number % len(steps)
        names = list(steps)
        for name in names[turn:] + names[:turn]:
            began = clock()
            steps[name]()  # each ends with reading a number: nothing is left to be waited for
            seconds[name].append(clock() - began)
    return seconds


def contestants(plan: Plan, device: torch.device) -> dict[str, Callable[[], float]]:
    """A step of each, which returns the loss. All begin with the same weights and see the same batch."""
    spec = loads(_SPEC % vars(plan), "bench-step.yaml")
    tokenizer = byte_tokenizer()
    rows = noise(spec, plan.batch, tokenizer)
    model = build(spec.model, spec.data, spec.objective, spec.seed, {"text": tokenizer})
    return {
        "tandem": tandem_step(spec, copy.deepcopy(model), rows, None, device),
        "bare": bare_step(spec, copy.deepcopy(model), rows, device),
        "cached": tandem_step(spec, copy.deepcopy(model), rows, plan.batch // 4, device),
    }


def tandem_step(
    spec: JobSpec, model: nn.Module, rows: Rows, micro_batch: int | None, device: torch.device
) -> Callable[[], float]:
    """As `workers.train.loop` does it. micro_batch: rows; None encodes the whole batch at once."""
    batch = len(rows.ids)
    contrast = contrast_of(spec.objective, spec.data, model.trained)
    engine = Engine(model, spec.training.on_ranks(1), batch, device)
    setting = MicroBatch(micro_batch, batch, device)
    width = spec.model.embedding_dim
    update = ContrastiveStep(engine, contrast, setting, width=width, seed=spec.seed, device=device)
    layout = Layout(seed=spec.seed, global_batch=batch, lanes=1, window=1, slots=(batch,))
    number = 0

    def step() -> float:
        nonlocal number
        seen = gather_batch(rows, content_keys(rows, contrast.kinds), layout, device, command=Command.GO)
        done = update(rows, seen, number, LEARNING_RATE, measure=False)
        number += 1
        return done.loss

    return step


def bare_step(spec: JobSpec, model: nn.Module, rows: Rows, device: torch.device) -> Callable[[], float]:
    """PyTorch alone, but for the towers."""
    model = model.to(device)
    decay = spec.training.optimizer.weight_decay
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, fused=device.type == "cuda")

    def step() -> float:
        pixels = torch.from_numpy(rows.columns["image"][:, 0]).to(device)
        tokens = torch.from_numpy(rows.columns["text"]).to(device)
        image: Tensor = model("image", {"pixels": pixels})
        text: Tensor = model("text", {"tokens": tokens})
        logits = model.logit_scale() * image @ text.T
        labels = torch.arange(len(logits), device=device)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.training.max_grad_norm)
        optimizer.step()
        return loss.item()

    return step


def noise(spec: JobSpec, count: int, tokenizer: Tokenizer) -> Rows:
    """Noise with captions of ten letters."""
    generator = np.random.default_rng(0)
    rows = Rows.empty(count, spec.data)
    rows.columns["image"][:] = generator.integers(0, 256, rows.columns["image"].shape)
    for row in range(count):
        caption = "".join(map(chr, generator.integers(97, 123, 10)))
        rows.columns["text"][row] = tokenizer.encode(caption, rows.columns["text"].shape[1])
    rows.ids[:] = np.arange(count)
    rows.valid[:] = True
    return rows


if __name__ == "__main__":
    main()
