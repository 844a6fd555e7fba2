"""DeepSpeed under ranks and ZeRO stages against AdamW on one process."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.ranks import run_ranks
from tests.workers.train.tiny import Tiny, Trace, batch, engine, on_engine, plain

STEPS = range(3)


@dataclass(frozen=True)
class Case:
    stage: int
    precision: str
    max_grad_norm: float
    """The norms of the three steps are around 10: 1 clips all of them, 1000 none."""


CASES = [
    Case(stage, precision, max_grad_norm)
    for stage in (0, 1)
    for precision in ("fp32", "bf16")
    for max_grad_norm in (1.0, 1000.0)
]
IDS = [f"ZeRO {case.stage}, {case.precision}, clip {case.max_grad_norm:g}" for case in CASES]


def _broken_norm(stage: int) -> float:
    """The norm of a gradient that is no number."""
    tiny = engine(stage)
    A, _, _ = tiny(*(rows[:2] for rows in batch(0)))
    return tiny.update((A * math.inf).sum() * 0, 1e-3)


def _train_all(cases: list[Case]) -> tuple[list[Trace], list[float]]:
    traces = [on_engine(engine(case.stage, case.precision, case.max_grad_norm), STEPS) for case in cases]
    return traces, [_broken_norm(stage) for stage in (0, 1)]


@functools.cache
def on_ranks(N: int) -> list[tuple[list[Trace], list[float]]]:
    """What each rank found: a trace for each case, and the norms of broken gradients."""
    return run_ranks(_train_all, N, CASES)


def relative_change_error(found: Trace, expected: Trace) -> float:
    """Distance of the trained states over the length of the way from the first weights; all parameters."""
    start = Tiny().state_dict()
    way = torch.cat([(expected.state[name] - start[name]).flatten() for name in start])
    off = torch.cat([(expected.state[name] - found.state[name]).flatten() for name in start])
    return float(off.norm() / way.norm())


@pytest.mark.parametrize("N", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_is_plain_adamw_on_the_whole_batch(N: int, case: Case) -> None:
    expected = plain(STEPS, case.max_grad_norm)
    ours = [traces[CASES.index(case)] for traces, _ in on_ranks(N)]
    # bf16 has 8 bits of precision; AdamW's first steps go by the gradient's sign, which small entries lose.
    tolerance, change = (1e-5, 1e-5) if case.precision == "fp32" else (3e-2, 0.2)
    for trace in ours:
        assert trace.losses == pytest.approx(expected.losses, rel=tolerance)
        assert trace.norms == pytest.approx(expected.norms, rel=tolerance)
        assert relative_change_error(trace, expected) < change
        assert all(torch.equal(value, ours[0].state[name]) for name, value in trace.state.items())
        assert all(value.dtype == torch.float32 for value in trace.state.values())


def test_clipping_is_tested() -> None:
    clipped, free = plain(STEPS, 1.0), plain(STEPS, 1000.0)
    assert 1 < min(clipped.norms + free.norms) < 1000
    assert relative_change_error(clipped, free) > 0.01


def test_a_gradient_that_is_no_number_has_no_finite_norm() -> None:
    for _, norms in on_ranks(2):
        assert not any(math.isfinite(norm) for norm in norms)


def test_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that was killed leaves a lock behind, for which every later job would wait without end."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    run_ranks(_broken_norm, 1, 0)
    assert not list(tmp_path.iterdir())
