"""DeepSpeed under ranks and ZeRO stages against AdamW on one process."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import pytest
import torch

from tests.ranks import run_ranks
from tests.workers.train.tiny import Tiny, Trace, cached, direct, engine, on_engine, plain
from workers.train.loss_scale import LossScale

STAGES = (0, 1, 2, 3)
STEPS = range(3)
WAYS = {"direct": direct, "cached": cached}


@dataclass(frozen=True)
class Case:
    stage: int
    precision: str
    max_grad_norm: float
    """The norms of the three steps are above 1: 1 clips all of them, 1000 none."""
    way: str
    shared: bool = False

    def __str__(self) -> str:
        tower = ", shared tower" if self.shared else ""
        return f"ZeRO {self.stage}, {self.precision}, clip {self.max_grad_norm:g}, {self.way}{tower}"


CASES = [
    Case(stage, precision, max_grad_norm, way)
    for stage in STAGES
    for precision, max_grad_norm in (("fp32", 1.0), ("fp32", 1000.0), ("bf16", 1.0), ("fp16", 1.0))
    for way in WAYS
] + [Case(stage, "fp32", 1.0, way, shared=True) for stage in STAGES for way in WAYS]
FEW = [case for case in CASES if case.precision == "fp32" and case.max_grad_norm == 1.0]


def _train(case: Case) -> Trace:
    tiny = engine(case.stage, case.precision, case.max_grad_norm, shared=case.shared)
    if tiny.loss_scale:
        tiny.loss_scale = LossScale(256.0)  # no step overflows
    return on_engine(tiny, STEPS, WAYS[case.way])


def _train_all(cases: list[Case]) -> list[Trace]:
    return [_train(case) for case in cases]


@functools.cache
def on_ranks(N: int) -> list[list[Trace]]:
    """What each rank found, for each case."""
    return run_ranks(_train_all, N, CASES if N < 4 else FEW, timeout_seconds=300)


def relative_change_error(found: Trace, expected: Trace, shared: bool = False) -> float:
    """Distance of the trained states over the length of the way from the first weights; all parameters."""
    start = Tiny(shared=shared).state_dict()
    names = found.state
    way = torch.cat([(expected.state[name] - start[name]).flatten() for name in names])
    off = torch.cat([(expected.state[name] - found.state[name]).flatten() for name in names])
    return float(off.norm() / way.norm())


@pytest.mark.parametrize(("N", "case"), [(N, case) for N in (1, 2, 4) for case in (CASES if N < 4 else FEW)], ids=str)
def test_is_plain_adamw_on_the_whole_batch(N: int, case: Case) -> None:
    expected = plain(STEPS, case.max_grad_norm, case.shared)
    ours = [traces[(CASES if N < 4 else FEW).index(case)] for traces in on_ranks(N)]
    # bf16 has 8 bits of precision, fp16 11; AdamW's first steps go by the gradient's sign, which small entries lose.
    tolerance, change = {"fp32": (1e-5, 2e-5), "bf16": (3e-2, 0.2), "fp16": (4e-3, 0.05)}[case.precision]
    for trace in ours:
        assert trace.losses == pytest.approx(expected.losses, rel=tolerance)
        assert trace.norms == pytest.approx(expected.norms, rel=tolerance)
        assert relative_change_error(trace, expected, case.shared) < change
        assert all(torch.equal(value, ours[0].state[name]) for name, value in trace.state.items())
        assert all(value.dtype == torch.float32 for value in trace.state.values())


def test_clipping_is_tested() -> None:
    clipped, free = plain(STEPS, 1.0), plain(STEPS, 1000.0)
    assert 1 < min(clipped.norms + free.norms) < 1000
    assert relative_change_error(clipped, free) > 0.01
