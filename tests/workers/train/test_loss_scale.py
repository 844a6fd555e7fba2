"""The loss scale's states one after the other, and torch's own as the judge."""

from __future__ import annotations

import random

import torch

from workers.train.loss_scale import GROWTH_STEPS, MIN_SCALE, LossScale


def test_goes_as_torchs_gradscaler_does() -> None:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    theirs, ours = torch.amp.GradScaler("cpu"), LossScale()
    assert theirs.get_growth_interval() == GROWTH_STEPS
    draw = random.Random(0)
    for _ in range(3 * GROWTH_STEPS):
        overflowed = draw.random() < 0.0005
        parameter.grad = torch.full((1,), float("inf") if overflowed else 1.0)
        theirs.scale(torch.ones(()))
        theirs.step(optimizer)
        theirs.update()
        ours = ours.after(overflowed)
        assert ours.scale == theirs.get_scale()
    assert ours.scale != LossScale().scale


def test_has_a_minimum() -> None:
    scale = LossScale(4.0)
    assert not scale.at_minimum
    for _ in range(5):
        scale = scale.after(True)
    assert (scale.scale, scale.at_minimum) == (MIN_SCALE, True)
