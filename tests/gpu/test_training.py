"""A job on a GPU is the same experiment as on a CPU: digests are equal and losses near, a checkpoint of either goes on
on the other, and evaluations encode the same."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jobspecs.training import Training
from tests.ranks import run_ranks
from tests.workers.tiny_job import scans, write_run, write_shards
from tests.workers.train.test_loop import check_same_experiment, metrics
from workers.evaluate.encode import Encoder
from workers.run import committed_steps
from workers.storage import Storage
from workers.train.loop import train
from workers.train.task import Outcome, TrainTask

STEPS, COMMITTED = 7, 3
GPU = "cluster.gpus_per_worker=1"
SETTINGS: dict[str, tuple[str, ...]] = {
    "zero 0": ("training.zero_stage=0",),
    "zero 1": ("training.zero_stage=1",),
    "zero 2": ("training.zero_stage=2",),
    "zero 3": ("training.zero_stage=3",),
    "micro-batches": ("training.micro_batch=3",),
    "auto": ("training.micro_batch=auto",),
    "gradient checkpointing": ("training.gradient_checkpointing=true",),
    "lamb": ("training.optimizer={kind: lamb, learning_rate: 1e-3}",),
    "ema": ("training.ema={}",),
    "bf16": ("training.precision=bf16",),
    "fp16": ("training.precision=fp16",),
    "products in bf16": ("objective.wire_dtype=bf16",),
    "compiled": ("training.compile=true",),
}
LOW = {"bf16": 0.05, "fp16": 0.01, "products in bf16": 0.01, "compiled": 1e-3}
"""Relative tolerance of losses and norms where arithmetic is another."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def _train(tasks: list[TrainTask]) -> list[Outcome]:
    """With ZeRO, which a job on one rank would leave out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "on_ranks", lambda training, ranks: training)
        return [train(task) for task in tasks]


@dataclass(frozen=True)
class Ran:
    """The same settings on a CPU and on a GPU, and each one's checkpoint gone on with by the other."""

    cpu: dict[str, TrainTask]
    gpu: dict[str, TrainTask]
    resumed_on_gpu: dict[str, TrainTask]
    resumed_on_cpu: dict[str, TrainTask]


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    shards = folder / "data"
    write_shards(shards, list(scans()[:41]), shards=3)

    def tasks(where: str, *more: str) -> dict[str, TrainTask]:
        return {
            name: write_run(folder / where / name.replace(" ", "-"), shards, (*overrides, *more))
            for name, overrides in SETTINGS.items()
        }

    def resumed(tasks: dict[str, TrainTask], of: dict[str, TrainTask]) -> dict[str, TrainTask]:
        return {
            name: replace(task, attempt=2, resume_from=of[name].run.checkpoint(COMMITTED))
            for name, task in tasks.items()
        }

    cpu, gpu = tasks("cpu"), tasks("gpu", GPU)
    resumed_on_gpu, resumed_on_cpu = resumed(tasks("to-gpu", GPU), cpu), resumed(tasks("to-cpu"), gpu)
    run_ranks(_train, 1, list(cpu.values()), timeout_seconds=300)
    run_ranks(_train, 1, [*gpu.values(), *resumed_on_gpu.values()], timeout_seconds=300, backend="nccl")
    run_ranks(_train, 1, list(resumed_on_cpu.values()), timeout_seconds=300)
    return Ran(cpu, gpu, resumed_on_gpu, resumed_on_cpu)


def check(ours: list[dict[str, Any]], expected: list[dict[str, Any]], name: str) -> None:
    if name not in LOW:
        check_same_experiment(ours, expected)
        return
    assert [line["batch_digest"] for line in ours] == [line["batch_digest"] for line in expected]
    of = ([line["loss"] for line in lines] for lines in (ours, expected))
    assert next(of) == pytest.approx(next(of), rel=LOW[name])


@pytest.mark.parametrize("name", SETTINGS)
def test_same_experiment_as_on_a_cpu(ran: Ran, name: str) -> None:
    ours = metrics(ran.gpu[name])
    assert [line["step"] for line in ours] == list(range(1, STEPS + 1))
    check(ours, metrics(ran.cpu[name]), name)


@pytest.mark.parametrize("name", SETTINGS)
def test_goes_on_where_the_other_device_was(ran: Ran, name: str) -> None:
    for resumed, first in ((ran.resumed_on_gpu, ran.gpu), (ran.resumed_on_cpu, ran.cpu)):
        check(metrics(resumed[name]), metrics(first[name])[COMMITTED:], name)
        assert committed_steps(Storage(), resumed[name].run)[-1] == STEPS


def test_evaluations_encode_the_same(folder: Path, ran: Ran) -> None:
    task = ran.gpu["zero 1"]
    encoder = Encoder.of_checkpoint(task.spec, task.run, task.run.checkpoint(STEPS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        on_cpu = Encoder.of_checkpoint(task.spec, task.run, task.run.checkpoint(STEPS))
    texts = ["the digit three", "a scan of a seven"]
    np.testing.assert_allclose(encoder.texts(texts, 2), on_cpu.texts(texts, 2), atol=1e-5)
    urls = [f"file://{folder}/data/00000.tar"]
    ours, theirs = (each.images(urls, "txt", 8) for each in (encoder, on_cpu))
    assert ours.fingerprint == theirs.fingerprint
    np.testing.assert_allclose(ours.features, theirs.features, atol=1e-5)
