"""LAMB under ranks and ZeRO stages against the paper's formula in float64 on one process."""

from __future__ import annotations

import functools

import pytest
import torch

from jobspecs.training import Lamb
from tests.ranks import run_ranks
from tests.workers.train.tiny import Tiny, Trace, cached, direct, engine, on_engine, plain_gradients, rate
from workers.train.lamb import Lamb as LambOptimizer

SPEC = Lamb(kind="lamb", learning_rate=1e-2, betas=[0.9, 0.99], eps=1e-6, weight_decay=0.1)
STAGES = (0, 1, 2, 3)
STEPS = range(3)


def reference() -> dict[str, torch.Tensor]:
    """You et al. 2020, algorithm 2, a parameter at a time; vectors are neither decayed nor adapted."""
    model = Tiny().double()
    m = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    v = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for step, _ in plain_gradients(STEPS, model, torch.float64):
        norm = sum(p.grad.norm() ** 2 for p in model.parameters() if p.grad is not None) ** 0.5
        with torch.no_grad():
            for name, w in model.named_parameters():
                if w.grad is None:
                    continue
                g = w.grad / max(1.0, float(norm))  # clipped to 1
                t = step + 1
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.99 * v[name] + 0.01 * g * g
                r = (m[name] / (1 - 0.9**t)) / ((v[name] / (1 - 0.99**t)) ** 0.5 + 1e-6)
                if w.ndim >= 2:
                    r = r + 0.1 * w
                    r = r * (w.norm() / r.norm())
                w -= rate(step) * r
    return model.state_dict()


def _train_all() -> list[Trace]:
    return [on_engine(engine(stage, optimizer=SPEC), STEPS, way) for stage in STAGES for way in (direct, cached)]


@functools.cache
def on_ranks(N: int) -> list[list[Trace]]:
    return run_ranks(_train_all, N)


@pytest.mark.parametrize("N", [1, 2, 3])
@pytest.mark.parametrize("stage", STAGES)
def test_is_the_papers_update_of_whole_parameters(N: int, stage: int) -> None:
    expected, start = reference(), Tiny().state_dict()
    for traces in on_ranks(N):
        for trace in traces[2 * stage : 2 * stage + 2]:
            way = torch.cat([(expected[name] - start[name]).flatten() for name in trace.state])
            off = torch.cat([(expected[name] - value).flatten() for name, value in trace.state.items()])
            assert off.norm() < 3e-5 * way.norm()
            for name, value in trace.state.items():
                assert torch.equal(value, on_ranks(N)[0][2 * stage].state[name]) or trace is traces[2 * stage + 1]


def test_the_ratio_is_one_where_a_norm_is_zero() -> None:
    zero = torch.nn.Parameter(torch.zeros(2, 2))
    still = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = LambOptimizer([zero, still], lr=0.5, betas=(0.9, 0.99), eps=0.0 + 1e-12)
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(zero.detach(), torch.full((2, 2), -0.5))
    assert torch.equal(still.detach(), torch.ones(2, 2))
