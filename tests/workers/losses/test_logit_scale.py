"""The scale's values and its gradient rule at the bound."""

from __future__ import annotations

import math

import pytest
import torch

from jobspecs.objective import LogitScale
from workers.losses.logit_scale import LogitScaleParameter


def _at(value: float, most: float = 20.0) -> LogitScaleParameter:
    scale = LogitScaleParameter(LogitScale(init=most, max=most)).double()
    with torch.no_grad():
        scale.log_scale.fill_(math.log(value))
    return scale


def test_starts_at_init() -> None:
    scale = LogitScaleParameter(LogitScale(init=14.3, max=100))
    assert scale().item() == pytest.approx(14.3, rel=1e-6)
    assert scale().shape == ()


def test_a_fixed_scale_is_not_trained() -> None:
    assert not LogitScaleParameter(LogitScale(init=10, learnable=False))().requires_grad


@pytest.mark.parametrize(
    ("value", "gradient", "passed"),
    [
        (10.0, 3.0, 30.0),  # below the bound: d exp(x) = exp(x)
        (10.0, -3.0, -30.0),
        (30.0, 3.0, 90.0),  # above it: descent would lower the scale, so it may
        (30.0, -3.0, 0.0),  # descent would raise it further
    ],
)
def test_gradient(value: float, gradient: float, passed: float) -> None:
    parameter = _at(value)
    scale = parameter()
    assert scale.item() == pytest.approx(min(value, 20.0))
    scale.backward(torch.tensor(gradient, dtype=torch.float64))
    assert parameter.log_scale.grad is not None
    assert parameter.log_scale.grad.item() == pytest.approx(passed)


def test_a_clamped_scale_comes_back() -> None:
    parameter = _at(30.0)
    optimizer = torch.optim.SGD(parameter.parameters(), lr=0.001)
    for _ in range(300):
        optimizer.zero_grad()
        (parameter() - 5).square().backward()
        optimizer.step()
    assert parameter().item() == pytest.approx(5, rel=1e-3)


def test_half_precision_parameter_gives_an_fp32_scale() -> None:
    assert _at(10.0).to(torch.bfloat16)().dtype == torch.float32
