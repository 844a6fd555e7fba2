"""The losses on a GPU: in float64 they are the plain ones, and in fp32 as near to them as fp32 is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import workers.losses.tiles
from tests.benchmarks.loss_contestants import random_features
from tests.workers.losses import test_infonce, test_ntxent, test_siglip
from tests.workers.losses.cases import Case, Found, batch_of_rank, on_rank, reference, relative_error, rows_of, variants
from workers.losses.infonce import infonce
from workers.losses.siglip import siglip

CUDA = torch.device("cuda")
CASES = [case for of in (test_infonce, test_ntxent, test_siglip) for case in of.CASES[1]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.loss}: {case.name}")
def test_is_the_single_process_loss(case: Case) -> None:
    expected = _of_pairs(case, reference(case))
    inputs, pairs = batch_of_rank(case)
    alone = sum(rows_of(case).valid) <= case.views
    floor = min(case.scale, case.max_scale) if case.inputs == "equal" or alone else 1e-12
    for variant in variants(case):
        found = on_rank(case, variant, [each.to(CUDA) for each in inputs], pairs.to(CUDA))
        for name, value in expected.items():
            assert found[name].is_cuda
            assert relative_error(found[name].cpu(), value, floor) < 1e-9, (name, variant)


@pytest.mark.parametrize("loss", [infonce, siglip])
@pytest.mark.parametrize("scale", [20.0, 100.0])
def test_bf16_features_are_multiplied_as_such(loss: Any, scale: float) -> None:
    """On tensor cores, with the loss and the gradients of the same rounded features in fp32 within bf16's digits."""
    features = random_features(9000, 64, 0, seed=1)  # several tiles of rows and of columns
    rounded = [features.first.detach().bfloat16(), features.second.detach()[:, 0].bfloat16()]
    more = () if loss is infonce else (torch.tensor(-10.0, device=CUDA),)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        sides = [side.to(CUDA, dtype).requires_grad_() for side in rounded]
        of_scale = torch.tensor(scale, device=CUDA, requires_grad=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(workers.losses.tiles, "CUDA_TILE_BYTES", 64 * 2**20)
            value = loss(*sides, of_scale, *more)
            value.backward()
        found.append([value.detach(), *(each.grad.float() for each in (*sides, of_scale))])
    low, wide = found
    assert float(low[0]) == pytest.approx(float(wide[0]), rel=2e-3)
    assert float(low[3]) == pytest.approx(float(wide[3]), rel=2e-2)
    for ours, theirs in zip(low[1:3], wide[1:3], strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def _of_pairs(case: Case, expected: Found) -> Found:
    """The gradients of hard negatives apart, as a rank has them."""
    if case.K:
        B = sum(case.shares) * case.views
        expected["features 0"], expected["negatives"] = expected["features 0"][:B], expected["features 0"][B:]
    return expected
