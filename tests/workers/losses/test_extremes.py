"""Inputs at the edge: finite loss and gradients, and the right ones where there is a right one."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import workers.losses.contrast
from workers.losses.contrast import contrast
from workers.losses.infonce import infonce
from workers.losses.ntxent import ntxent
from workers.losses.pairs import gather_pairs
from workers.losses.rule import NTXENT, Prefixes, Rule
from workers.losses.siglip import siglip, sigmoid_contrast

RULES = {
    "": Rule(),
    ", smoothing": Rule(label_smoothing=0.1),
    ", hardness": Rule(hardness=1.5),
    ", margin": Rule(margin=0.1),
    ", all": Rule(0.3, 0.7, label_smoothing=0.1, hardness=0.5, margin=-0.1),
}
PREFIXES = Prefixes((3,), (1.0,))

Losses = dict[str, Callable[..., Tensor]]
"""Each: (A, T, scale, valid, keys) -> loss; NT-Xent takes A and T as the two views."""


def _losses() -> Losses:
    losses: Losses = {}
    for name, rule in RULES.items():
        losses["infonce" + name] = lambda A, T, s, valid, keys, rule=rule: infonce(
            A, T, s, rule=rule, pairs=gather_pairs(valid, keys=keys), prefixes=PREFIXES
        )
        losses["ntxent" + name] = lambda A, T, s, valid, keys, rule=rule: ntxent(
            torch.stack([A, T], 1),
            s,
            rule=rule,
            pairs=gather_pairs(valid.repeat_interleave(2), keys=keys.repeat_interleave(2, 0), views=2),
            prefixes=PREFIXES,
        )
        if not (rule.label_smoothing or rule.hardness):
            losses["siglip" + name] = lambda A, T, s, valid, keys, rule=rule: siglip(
                A, T, s, s / -10, margin=rule.margin, pairs=gather_pairs(valid, keys=keys), prefixes=PREFIXES
            )
    return losses


LOSSES = _losses()


KINDS = (
    "random",
    "pairs equal",
    "pairs opposite",
    "collapsed",
    "collapsed, sides opposite",
    "zero vectors",
    "all zero",
)


def _inputs(kind: str, n: int = 12, d: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    A, T = F.normalize(torch.randn(2, n, d, dtype=torch.float64, generator=generator), dim=-1)
    return {
        "random": (A, T),
        "pairs equal": (A, A.clone()),
        "pairs opposite": (A, -A),
        "collapsed": (A[:1].repeat(n, 1), A[:1].repeat(n, 1)),
        "collapsed, sides opposite": (A[:1].repeat(n, 1), -A[:1].repeat(n, 1)),
        "zero vectors": (A * (torch.arange(n) % 3 > 0)[:, None], T * (torch.arange(n) % 2 > 0)[:, None]),
        "all zero": (0 * A, 0 * T),
    }[kind]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", LOSSES)
def test_finite_at_scale_100(loss: str, kind: str, dtype: torch.dtype) -> None:
    valid = torch.tensor([True, False, True] * 4)
    none = torch.zeros(12, 1, dtype=torch.int64)
    keys = {
        "no valid row": (valid & False, none),
        "one valid row": (torch.arange(12) == 5, none),
        "some valid": (valid, none),
        "all valid": (valid | True, none),
        "all rows duplicates": (valid | True, none + 7),
        "duplicates, masked": (valid, torch.arange(12)[:, None] % 2 + 1),
    }
    for case, (valid, key) in keys.items():
        A, T = (side.to(dtype).requires_grad_() for side in _inputs(kind))
        scale = torch.tensor(100.0, requires_grad=True)
        value = LOSSES[loss](A, T, scale, valid, key)
        value.backward()
        for name, tensor in {"loss": value, "A": A.grad, "T": T.grad, "scale": scale.grad}.items():
            assert tensor is not None
            assert torch.isfinite(tensor).all(), (case, name)
        if case in ("no valid row", "one valid row", "all rows duplicates") and not loss.startswith("siglip"):
            # No negative is left: log(1), and nothing to learn. One rounding of a logit of 100 is 8e-6 in fp32.
            alone = loss.startswith("ntxent") or case != "no valid row"
            assert abs(value.item()) < (1e-4 if dtype == torch.float32 and alone else 1e-12), case


@pytest.mark.parametrize("loss", LOSSES)
def test_one_row(loss: str) -> None:
    A, T = (side.float().requires_grad_() for side in _inputs("random", n=1))
    value = LOSSES[loss](A, T, torch.tensor(50.0), torch.tensor([True]), torch.zeros(1, 1, dtype=torch.int64))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(A.grad).all()
    if not loss.startswith("siglip"):
        assert abs(value.item()) < 1e-5
        assert A.grad.abs().max() < 1e-5


@pytest.mark.parametrize("scale", [15.0, 60.0, 100.0])
@pytest.mark.parametrize("rule", RULES.values(), ids=[name or "plain" for name in RULES])
@pytest.mark.parametrize("symmetric", [False, True])
def test_a_small_loss_keeps_its_digits_in_fp32(symmetric: bool, rule: Rule, scale: float) -> None:
    """Late in training a loss is far smaller than the rounding of its logits, 4e-6 at 60."""
    generator = torch.Generator().manual_seed(2)
    A = torch.linalg.qr(torch.randn(24, 24, generator=generator))[0][:12]
    T = F.normalize(A + 0.05 * torch.randn(12, 24, generator=generator), dim=-1)
    found = []
    for dtype in (torch.float64, torch.float32):
        sides = [side.to(dtype).requires_grad_() for side in (A, T)]
        loss = ntxent(torch.stack(sides, 1), torch.tensor(scale), rule=rule) if symmetric else None
        loss = infonce(*sides, torch.tensor(scale), rule=rule) if loss is None else loss
        loss.backward()
        found.append((loss.item(), torch.cat([side.grad.double() for side in sides])))
    (expected, gradient), (loss_32, gradient_32) = found
    assert 0 < expected < (20 if rule.label_smoothing else 1e-3)
    assert loss_32 == pytest.approx(expected, rel=1e-4, abs=0)
    assert (gradient_32 - gradient).norm() < 1e-4 * gradient.norm()


def test_many_more_residents_than_travelling_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    A = F.normalize(torch.randn(2 + 300, 8, generator=generator), dim=-1).requires_grad_()
    T = F.normalize(torch.randn(2, 8, generator=generator), dim=-1).requires_grad_()
    loss = infonce(A, T, torch.tensor(100.0), rule=Rule(0.0, 1.0))
    loss.backward()
    S = 100 * T.detach().double() @ A.detach().double().T
    assert loss.item() == pytest.approx(float(F.cross_entropy(S, torch.arange(2))), rel=1e-5)
    assert torch.isfinite(A.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_features_are_taken_as_fp32(dtype: torch.dtype) -> None:
    """exp(100) overflows fp32: the largest logits must be subtracted."""
    generator = torch.Generator().manual_seed(0)
    A = F.normalize(torch.randn(8, 16, generator=generator), dim=-1).to(dtype).requires_grad_()
    T = (-A).detach().requires_grad_()
    loss = infonce(A, T, torch.tensor(100.0, requires_grad=True))
    loss.backward()
    assert loss.dtype == torch.float32
    S = 100 * A.detach().double() @ T.detach().double().T
    expected = (F.cross_entropy(S, torch.arange(8)) + F.cross_entropy(S.T, torch.arange(8))) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert A.grad.dtype == dtype
    assert torch.isfinite(A.grad).all()


def test_the_largest_plain_logit_overflows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just below the bound nothing is subtracted; just above it is. Both give the same, in fp32."""
    found = []
    for bound in (workers.losses.contrast.PLAIN_LOGIT, 0.0):
        monkeypatch.setattr(workers.losses.contrast, "PLAIN_LOGIT", bound)
        for rule, scale in ((Rule(), 70.0), (Rule(hardness=1.0), 35.0), (Rule(label_smoothing=0.1), 70.0)):
            A, T = (side.float().requires_grad_() for side in _inputs("pairs opposite", n=400))
            loss = infonce(A, T, torch.tensor(scale), rule=rule)
            loss.backward()
            found.append((loss.detach(), A.grad, T.grad))
    for plain, subtracted in zip(found[:3], found[3:], strict=True):
        for one, other in zip(plain, subtracted, strict=True):
            assert (one - other).norm() < 1e-4 * other.norm()


# --- accuracy -----------------------------------------------------------------------------------------


def _accuracy(A: Tensor, T: Tensor, rule: Rule | None, valid: Tensor) -> float:
    scale = torch.tensor(30.0, dtype=A.dtype)
    if rule is None:
        return float(sigmoid_contrast(A, T, scale, scale * 0, gather_pairs(valid), measure=True)[1])
    return float(contrast(A, T, scale, gather_pairs(valid), rule, measure=True)[1])


def _share_of_hits(S: Tensor, valid: Tensor) -> float:
    """Of valid rows, whose own column is the only largest of the valid ones."""
    kept = S[valid][:, valid]
    right = kept.argmax(1) == torch.arange(len(kept))
    alone = (kept == kept.amax(1, keepdim=True)).sum(1) == 1
    return float((right & alone).double().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_accuracy_is_that_of_argmax(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    A, noise = torch.randn(2, 40, 8, dtype=dtype, generator=generator)
    A, T = F.normalize(A, dim=-1), F.normalize(A + noise, dim=-1)
    valid = torch.rand(40, generator=generator) < 0.8
    of_rows, of_columns = _share_of_hits(A @ T.T, valid), _share_of_hits(T @ A.T, valid)
    assert 0.1 < of_rows < 0.9
    assert _accuracy(A, T, Rule(1.0, 0.0), valid) == pytest.approx(of_rows)
    assert _accuracy(A, T, Rule(0.0, 1.0), valid) == pytest.approx(of_columns)
    assert _accuracy(A, T, Rule(), valid) == pytest.approx((of_rows + of_columns) / 2)
    assert _accuracy(A, T, None, valid) == pytest.approx(of_rows)

    Z = torch.stack([A, T], 1).flatten(0, 1)
    views = valid.repeat_interleave(2)
    S = (Z @ Z.T).fill_diagonal_(-2)
    S = S[:, torch.arange(80) ^ 1]  # the positive, on the diagonal
    pairs = gather_pairs(views, views=2)
    hits = contrast(Z, Z.clone(), torch.tensor(30.0, dtype=dtype), pairs, NTXENT, measure=True)[1]
    assert float(hits) == pytest.approx(_share_of_hits(S, views))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", [Rule(), Rule(1.0, 0.0), Rule(0.0, 1.0), None, NTXENT])
def test_ties_are_no_hits(rule: Rule | None, dtype: torch.dtype) -> None:
    """However a model collapses, and in whatever order a product of 513 terms is summed."""
    for seed in range(20):
        one = F.normalize(torch.randn(513, dtype=dtype, generator=torch.Generator().manual_seed(seed)), dim=-1)
        A = one.repeat(24, 1)
        if rule is NTXENT:
            pairs = gather_pairs(torch.ones(24, dtype=torch.bool), views=2)
            assert float(contrast(A, A.clone(), torch.tensor(30.0, dtype=dtype), pairs, NTXENT, measure=True)[1]) == 0
        else:
            assert _accuracy(A, A.clone(), rule, torch.ones(24, dtype=torch.bool)) == 0


def test_it_is_measured_only_where_asked_for() -> None:
    A, T = _inputs("pairs equal")
    pairs = gather_pairs(torch.ones(12, dtype=torch.bool))
    loss, hits = contrast(A, T, torch.tensor(10.0), pairs, Rule())
    measured, share = contrast(A, T, torch.tensor(10.0), pairs, Rule(), measure=True)
    assert (float(hits), float(share)) == (0.0, pytest.approx(1.0))
    assert float(loss) == float(measured)
    assert math.isfinite(float(loss))


@pytest.mark.parametrize("loss", [infonce, lambda A, T, s: siglip(A, T, s, torch.tensor(-1.0))])
def test_a_second_derivative_is_refused(loss: Callable[..., Tensor]) -> None:
    A, T = (features.requires_grad_() for features in _inputs("pairs equal"))
    (gradient,) = torch.autograd.grad(loss(A, T, torch.tensor(10.0)), A, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradient.sum().backward()
