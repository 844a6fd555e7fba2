"""Checkpoints of tiny models on the ranks of a test, and how to read one without the code that is tested."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.checkpoint import Manifest, read_manifest
from workers.train.engine import Engine
from workers.train.record import Recorder
from workers.train.saver import Saver


def manifest_of(engine: Engine, step: int, attempt: int = 2) -> Manifest:
    """What the loop would hand to the saver."""
    return Manifest(
        step=step,
        spec_hash="spec",
        index_fingerprint="index",
        masked_samples=4,
        attempt=attempt,
        world_size=dist.get_world_size(),
        shapes={name: tuple(shape) for name, shape in engine.shapes.items()},
        skipped_steps=engine.skipped_steps,
        loss_scale=engine.loss_scale,
        averaged=engine.averaged,
    )


def saver_of(storage: Storage, run: RunDirectory, engine: Engine, attempt: int = 2, age_seconds: float = 60.0) -> Saver:
    recorder = Recorder(storage, run, attempt, dist.get_rank())
    return Saver(storage, run, attempt, engine, recorder, age_seconds)


def save(folder: str, engine: Engine, step: int) -> Manifest:
    """Saves and waits for the commit. `folder`: URI of the run directory."""
    storage, run = Storage(), RunDirectory(folder)
    with saver_of(storage, run, engine) as saver:
        saver.save(manifest_of(engine, step))
        saver.wait()
    return read_manifest(storage, run.checkpoint(step))


def tensors(folder: Path, kind: str) -> dict[str, Tensor]:
    """All tensors of a checkpoint's files of a kind, whole, by name; each element is there once."""
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    whole: dict[str, Tensor] = {}
    left: dict[str, int] = {}
    for file in manifest["files"]:
        if not file["name"].startswith(kind):
            continue
        for name, values in safetensors.torch.load_file(folder / file["name"]).items():
            piece = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", name)
            of, start = (piece[1], int(piece[2])) if piece else (name, 0)
            shape = manifest["shapes"][re.sub(r"^(exp_avg|exp_avg_sq|ema)\.", "", of)]
            if not piece:
                assert list(values.shape) == shape
            flat = whole.setdefault(of, torch.full(shape, torch.nan, dtype=values.dtype)).view(-1)
            if piece:
                assert int(piece[3]) - start == len(values)
            flat[start : start + values.numel()] = values.view(-1)
            left[of] = left.get(of, flat.numel()) - values.numel()
    assert not any(left.values()), f"elements that are missing or written twice: {left}"
    return whole
