"""DeepSpeed under ranks and ZeRO stages against AdamW on one process."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.ranks import run_ranks
from tests.workers.train.tiny import Tiny, Trace, cached, direct, engine, on_engine, own_rows, plain, whole_model
from workers.train.deepspeed_config import DeepSpeedConfigurationError
from workers.train.engine import Engine
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
    return run_ranks(_train_all, N, CASES if N < 4 else FEW)


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


# --- collectives --------------------------------------------------------------------------------------


class Collectives(TorchDispatchMode):
    """Counts what reaches the process group, by kind of collective."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            self.calls[function._opname.strip("_")] += 1
        return function(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Counted:
    """Collectives of one step, by where they happened."""

    backward: dict[str, int]
    """In forward and backward passes, without those of the loss."""
    reduction: dict[str, int]
    """When the accumulation ended."""
    step: dict[str, int]


def _surrogate(tiny: Engine, side: str, rows: Tensor) -> None:
    tiny.backward(tiny(side, rows).sum() + tiny.module.logit_scale())


def _count(stage: int, calls: int) -> Counted:
    tiny = engine(stage)
    rows = own_rows(1)
    for _ in range(2):  # the first step is not as the others
        inside, after, step = Collectives(), Collectives(), Collectives()
        accumulation = tiny.accumulation()
        with inside:
            accumulation.__enter__()
            for call in range(calls):
                _surrogate(tiny, ("first", "second")[call % 2], rows["first"][:1])
        with after:
            accumulation.__exit__(None, None, None)
        with step:
            tiny.step(1e-3)
    return Counted(dict(inside.calls), dict(after.calls), dict(step.calls))


def _count_all() -> dict[tuple[int, int], Counted]:
    return {(stage, calls): _count(stage, calls) for stage in STAGES for calls in (2, 6)}


def test_gradients_are_reduced_once_a_step() -> None:
    counted, other = run_ranks(_count_all, 2)
    assert counted == other
    for stage in STAGES:
        few, many = counted[stage, 2], counted[stage, 6]
        assert many.reduction == few.reduction
        assert many.step == few.step
        assert sum(few.reduction.values()) == 1, (stage, few)
        if stage < 3:
            assert few.backward == many.backward == {}
        else:  # parameters are gathered where they are used
            assert few.backward.keys() <= {"allgather_base", "broadcast"}
            assert many.backward == {kind: 3 * calls for kind, calls in few.backward.items()}


# --- overflow, interruption ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Overflow:
    """A step that could not be made."""

    norm: float
    overflowed: bool
    scale: float | None
    """Of the loss, afterwards."""
    unchanged: bool
    """Whether the model was as before."""
    goes_on: Trace
    """The steps after it."""
    overflowed_last: bool
    skipped: int


def _broken(tiny: Engine) -> float:
    """A step whose gradient is not finite, on the last rank alone."""
    with tiny.accumulation():
        features = tiny("first", own_rows(0)["first"])
        last = torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
        tiny.backward((features * (math.inf if last else 1.0)).sum())
    return tiny.step(1e-3)


def _overflow(stage: int, precision: str) -> Overflow:
    tiny = engine(stage, precision)
    if tiny.loss_scale:
        tiny.loss_scale = LossScale(512.0, 1997)
    before = whole_model(tiny)
    norm, overflowed = _broken(tiny), tiny.overflowed
    after = whole_model(tiny)
    scale = tiny.loss_scale.scale if tiny.loss_scale else None
    unchanged = all(torch.equal(before[name], after[name]) for name in before)
    trace = on_engine(tiny, STEPS)
    return Overflow(norm, overflowed, scale, unchanged, trace, tiny.overflowed, tiny.skipped_steps)


def _overflow_all() -> dict[tuple[int, str], Overflow]:
    return {(stage, precision): _overflow(stage, precision) for stage in STAGES for precision in ("fp32", "fp16")}


def test_a_step_that_overflows_is_skipped_by_all_ranks() -> None:
    results = run_ranks(_overflow_all, 2)
    expected = plain(STEPS)
    for found in results:
        for (_, precision), overflow in found.items():
            assert not math.isfinite(overflow.norm)
            assert (overflow.overflowed, overflow.overflowed_last, overflow.skipped) == (True, False, 1)
            assert overflow.scale == (256.0 if precision == "fp16" else None)
            assert overflow.unchanged
            tolerance, change = {"fp32": (1e-5, 2e-5), "fp16": (4e-3, 0.05)}[precision]
            assert overflow.goes_on.losses == pytest.approx(expected.losses, rel=tolerance)
            assert overflow.goes_on.norms == pytest.approx(expected.norms, rel=tolerance)
            assert relative_change_error(overflow.goes_on, expected) < change


def _interrupted(stage: int) -> tuple[list[str], Trace]:
    """A training in which each step is first tried in vain: in a forward pass, after a backward pass, at its end."""
    tiny = engine(stage)
    raised = []
    for where in ("forward", "backward", "end"):
        try:
            with tiny.accumulation():
                if where != "forward":
                    direct(tiny, 5)
                if where == "forward":
                    kept = tiny("second", own_rows(5)["second"])
                    assert kept.requires_grad
                    tiny("first", torch.zeros(2, 99))  # of another width: raises half-way
                if where == "backward":
                    raise MemoryError
        except (MemoryError, RuntimeError) as error:
            raised.append(type(error).__name__)
        if where == "end":
            tiny.discard()
        on_engine(tiny, range(0))
    return raised, on_engine(tiny, STEPS, cached)


def _interrupted_all() -> list[tuple[list[str], Trace]]:
    return [_interrupted(stage) for stage in STAGES]


def test_an_interrupted_step_leaves_nothing_behind() -> None:
    expected = plain(STEPS)
    for found in run_ranks(_interrupted_all, 2):
        for raised, trace in found:
            assert raised == ["RuntimeError", "MemoryError"]
            assert trace.norms == pytest.approx(expected.norms, rel=1e-5)
            assert relative_change_error(trace, expected) < 2e-5


# --- configuration ------------------------------------------------------------------------------------


def _other_settings() -> tuple[list[Trace], list[str]]:
    sections: list[dict[str, Any]] = [
        {},
        {"zero_optimization": {"reduce_bucket_size": 50, "overlap_comm": True, "contiguous_gradients": False}},
    ]
    traces = [on_engine(engine(stage, section=section), STEPS, cached) for stage in STAGES for section in sections]
    traces.append(on_engine(engine(0, section={"prescale_gradients": True, "train_batch_size": 12}), STEPS))
    messages = []
    for section in ({"zero_optimization": {"reduce_buckets": 1}}, {"communication_data_type": "fp8"}):
        try:
            engine(1, section=section)
        except DeepSpeedConfigurationError as error:
            messages.append(str(error))
    return traces, messages


def test_deepspeeds_own_settings() -> None:
    """Other buckets and scalings change nothing, and what DeepSpeed refuses is told with its place."""
    expected = plain(STEPS)
    for traces, messages in run_ranks(_other_settings, 2):
        for trace in traces:
            assert relative_change_error(trace, expected) < 2e-5
        unknown, dtype = messages
        assert unknown == (
            "DeepSpeed does not accept its configuration: deepspeed.zero_optimization.reduce_buckets: Extra inputs are "
            "not permitted, given: 1. Mend the section `deepspeed` of the spec."
        )
        assert "configuration: deepspeed.communication_data_type: Invalid communication_data_type." in dtype


def _start_and_break() -> float:
    return _broken(engine(0))


def test_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that was killed leaves a lock behind, for which every later job would wait without end."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    run_ranks(_start_and_break, 1)
    assert not list(tmp_path.iterdir())
