"""The step on a GPU, over NCCL: the plain training of the whole batch in float64, in fp32 and bf16, in every ZeRO
stage, at once and in micro-batches."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.ranks import run_ranks
from tests.workers.train.small import CPU, Trace, on_ranks, relative_change_error, training
from tests.workers.train.test_step import JOBS, STEPS, Case, contrast, expected

CASES = [
    *(Case(job, micro_batch, 1) for job in JOBS for micro_batch in (None, 5)),
    *(Case(job, micro_batch, stage) for job in (JOBS[0], JOBS[6]) for stage in (0, 2, 3) for micro_batch in (None, 5)),
    *(Case(JOBS[1], micro_batch, stage, "bf16") for stage in (0, 1, 2, 3) for micro_batch in (None, 5)),
]


def _run_all(cases: list[Case]) -> list[Trace]:
    found = []
    for case in cases:
        spec = training(case.stage, case.precision, case.micro_batch)
        trace = on_ranks(case.job, contrast(case.job), spec, STEPS, device=torch.device("cuda"))
        state = {name: values.to(CPU) for name, values in trace.state.items()}
        found.append(Trace(trace.steps, state, trace.received_bytes))
    return found


@functools.cache
def traces() -> list[Trace]:
    found: list[Trace] = run_ranks(_run_all, 1, CASES, timeout_seconds=300, backend="nccl")[0]
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_is_the_plain_training_of_the_whole_batch(case: Case) -> None:
    found, wanted = traces()[CASES.index(case)], expected(case.job.name)
    tolerance, change = {"fp32": (2e-5, 5e-5), "bf16": (3e-2, 0.2)}[case.precision]
    for ours, theirs in zip(found.steps, wanted.steps, strict=True):
        compared = slice(0, 4) if case.precision == "fp32" else slice(2, 4)
        assert ours[0] == pytest.approx(theirs[0], rel=tolerance)
        assert ours[compared] == pytest.approx(theirs[compared], rel=tolerance)
    assert relative_change_error(found, wanted, case.job) < change
