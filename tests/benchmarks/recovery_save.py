"""How long a save keeps training standing still, against DeepSpeed's own: the second part of `make bench-recovery`.

The state is that of CLIP's ViT-B/32: 151 M parameters and AdamW's two moments of each, in fp32, 1.8 GB, as the engine
holds them under ZeRO 1. Its values are random or zero: nobody looks at them.

    tandem      Saver.save: from the call to its return. Then the state may change, and a thread writes, confirms and
                commits; that is waited for between two saves, and told as `background`
    deepspeed   save_checkpoint of the same DeepSpeed engine, which returns when all is written. Its files hold the
                parameters twice, as the model's and as the optimizer's: 2.4 GB

One rank with one thread. The contestants take turns; the first save of each warms up and is not counted. Both write to
the same disk without waiting for it to have all (fsync is nobody's), and the files are deleted after each save, outside
of the measured time.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from jobspecs.load import loads
from tests.ranks import run_ranks
from workers.data.tokenize import Tokenizer
from workers.models.build import build
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.checkpoint import Manifest
from workers.train.engine import Engine
from workers.train.record import Recorder
from workers.train.saver import Saver

VIT_B_32 = (
    "model.image={kind: preset, name: ViT-B/32}",
    "model.text={kind: preset, name: ViT-B/32}",
)
_SPEC = """
apiVersion: tandem/v1
name: bench-save
objective: {kind: image_text}
data:
  sources: [{name: none, urls: ["none.tar"]}]
  image: {column: jpg, size: 224}
  text: {column: txt, context_length: 77}
model:
  image: {kind: transformer, width: 32, layers: 1, heads: 2, patch: 32}
  text: {kind: transformer, width: 32, layers: 1, heads: 2}
  embedding_dim: 512
training:
  global_batch: 32
  steps: 1000
  precision: fp32
  zero_stage: 1
  optimizer: {kind: adamw, learning_rate: 1e-4}
  schedule: {kind: cosine, warmup_steps: 1}
"""
_CLIP = Tokenizer(49408, begin=49406, end=49407, padding=49407)
"""The size of CLIP's vocabulary; nothing is tokenized."""
_ATTEMPT = 1
_LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Saves:
    """What was measured, in seconds of each repetition."""

    tandem: list[float]
    deepspeed: list[float]
    background: list[float]
    """From the return of Tandem's save to its commit."""
    tandem_bytes: int
    deepspeed_bytes: int
    """Of one save."""


def measure_saves(repetitions: int, overrides: tuple[str, ...] = VIT_B_32) -> Saves:
    """In a process of its own, on the disk of temporary files. overrides: of the spec; without them it is tiny."""
    with tempfile.TemporaryDirectory(prefix="tandem-bench-save-") as folder:
        saves: Saves = run_ranks(_timed, 1, Path(folder), repetitions, overrides, timeout_seconds=_LONGEST_SECONDS)[0]
    return saves


def _timed(folder: Path, repetitions: int, overrides: tuple[str, ...]) -> Saves:
    """In a process that is a rank."""
    engine = _engine(overrides)
    storage, run = Storage(), RunDirectory(f"file://{folder}/run")
    saves = Saves([], [], [], 0, 0)
    tandem_bytes = deepspeed_bytes = 0
    with Saver(storage, run, _ATTEMPT, engine, Recorder(storage, run, _ATTEMPT, 0), _LONGEST_SECONDS) as saver:
        saver.wait()  # its buffers are there: in training, the first steps give it time
        for step in range(1, repetitions + 2):
            saves.tandem.append(_seconds(saver.save, _manifest(engine, step)))
            saves.background.append(_seconds(saver.wait))
            tandem_bytes = _delete(folder / "run" / "checkpoints")
            saves.deepspeed.append(_seconds(engine._engine.save_checkpoint, str(folder / "deepspeed")))
            deepspeed_bytes = _delete(folder / "deepspeed")
    return Saves(saves.tandem[1:], saves.deepspeed[1:], saves.background[1:], tandem_bytes, deepspeed_bytes)


def _engine(overrides: tuple[str, ...]) -> Engine:
    spec = loads(_SPEC, "bench-save.yaml", overrides)
    model = build(spec.model, spec.data, spec.objective, spec.seed, {"text": _CLIP})
    return Engine(model, spec.training, spec.training.global_batch, torch.device("cpu"))


def _manifest(engine: Engine, step: int) -> Manifest:
    return Manifest(
        step=step,
        spec_hash="none",
        index_fingerprint="none",
        masked_samples=0,
        attempt=_ATTEMPT,
        world_size=dist.get_world_size(),
        shapes={name: tuple(shape) for name, shape in engine.shapes.items()},
    )


def _seconds(work: Callable[..., object], *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def _delete(folder: Path) -> int:
    """Returns the bytes of its files. What the disk had not got yet it need not write any more."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return size
