"""Over any number of ranks, with padding and masked rows: torch's own layer over the valid rows of one process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.ranks import run_ranks
from workers.losses.gather import rank
from workers.models.batch_norm import GlobalBatchNorm, ValidRows, replace_batch_norm

C, STEPS = 3, 2
VALID = torch.tensor([True, True, False, True, True, True, False, False])
"""Of a batch of 8 rows: on 4 ranks the last has none."""


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        layers = nn.Sequential(nn.Conv2d(2, C, 1), nn.BatchNorm2d(C), nn.ReLU(), nn.Conv2d(C, C, 2), nn.BatchNorm2d(C))
        for module in layers:
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias)
    return layers.to(dtype)


def batch() -> tuple[Tensor, Tensor]:
    """Pixels (8, 2, 5, 5) far from 0, and the gradient of the outputs (8, C, 4, 4); that of masked rows is 0."""
    generator = torch.Generator().manual_seed(5)
    pixels = 40 + torch.randn(8, 2, 5, 5, generator=generator, dtype=torch.float64)
    weight = torch.randn(8, C, 4, 4, generator=generator, dtype=torch.float64)
    return pixels, weight * VALID[:, None, None, None]


def steps(layers: nn.Module, pixels: Tensor, weight: Tensor) -> dict[str, Tensor]:
    pixels = pixels.clone().requires_grad_()
    for _ in range(STEPS):
        layers.zero_grad()
        pixels.grad = None
        outputs = layers.train()(pixels)
        (outputs * weight).sum().backward()
    found = {"outputs": outputs.detach(), "pixels": pixels.grad}
    found |= {f"grad {name}": p.grad for name, p in layers.named_parameters()}
    found |= {name: b for name, b in layers.named_buffers() if "running" in name}
    found["eval"] = layers.eval()(pixels.detach()).detach()
    return {name: value for name, value in found.items() if value is not None}


def on_a_rank(world_size: int) -> dict[str, Tensor]:
    rows = ValidRows()
    layers = network()
    assert replace_batch_norm(layers, rows) == 2
    pixels, weight = batch()
    own = slice(rank() * 8 // world_size, (rank() + 1) * 8 // world_size)
    rows.valid = VALID[own]
    # Masked rows hold what they like.
    pixels = torch.where(VALID[:, None, None, None], pixels, 1e3)
    return steps(layers, pixels[own], weight[own])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_it_is_torchs_layer_over_the_valid_rows(world_size: int) -> None:
    pixels, weight = batch()
    expected = steps(network(), pixels[VALID], weight[VALID])
    ranks = [on_a_rank(1)] if world_size == 1 else run_ranks(on_a_rank, world_size, world_size)
    close = {"rtol": 1e-9, "atol": 1e-9}
    for name in ("outputs", "pixels", "eval"):
        joined = torch.cat([found[name] for found in ranks])
        torch.testing.assert_close(joined[VALID], expected[name], **close)
    for name in expected:
        if name.startswith("grad"):
            torch.testing.assert_close(sum(found[name] for found in ranks), expected[name], **close)
        if "running" in name:
            for found in ranks:
                torch.testing.assert_close(found[name], expected[name], **close)
                assert torch.equal(found[name], ranks[0][name])


def test_no_valid_row_and_one() -> None:
    rows = ValidRows()
    layer = GlobalBatchNorm(nn.BatchNorm2d(C), rows).train()
    hidden = torch.randn(2, C, 1, 1, requires_grad=True)
    rows.valid = torch.tensor([False, False])
    layer(hidden).sum().backward()
    assert torch.equal(layer.running_mean, torch.zeros(C))
    assert torch.equal(layer.running_var, torch.ones(C))
    rows.valid = torch.tensor([True, False])
    torch.testing.assert_close(layer(hidden)[0], torch.zeros(C, 1, 1))
    assert hidden.grad is not None
    assert torch.isfinite(hidden.grad).all()


def test_running_statistics_stay_in_fp32() -> None:
    layer = GlobalBatchNorm(nn.BatchNorm2d(C), ValidRows()).to(torch.bfloat16).train()
    hidden = torch.randn(4, C, 2, 2, dtype=torch.bfloat16)
    assert layer(hidden).dtype == layer.weight.dtype == torch.bfloat16
    assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
