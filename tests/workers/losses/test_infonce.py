"""The gathered InfoNCE against the plainest single-process one, in float64 over 1, 2 and 4 ranks.

The reference holds the full matrix of the valid pairs and takes F.cross_entropy of it both ways; it knows
neither masks nor ranks nor tiles. Letters: N ranks, m rows a rank, B = N·m, d width, n valid pairs.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import workers.losses.tiles
from jobspecs.objective import LogitScale
from tests.ranks import run_ranks
from workers.losses.infonce import infonce
from workers.losses.logit_scale import LogitScaleParameter

TOLERANCE = 1e-9
WORLD_SIZES = (1, 2, 4)
D, INPUTS = 5, 7


@dataclass(frozen=True)
class Case:
    """A global batch and how it is spread."""

    name: str
    shares: tuple[int, ...]
    """Real rows of each rank; shorter ranks are padded at their end."""
    valid: tuple[bool, ...]
    """Of each real row."""
    scale: float = 14.3
    max_scale: float = 100.0
    tile_columns: int | None = None
    """Columns of a tile; None takes all."""
    inputs: str = "random"

    @property
    def rows(self) -> int:
        """m."""
        return max(1, *self.shares)


def cases(N: int) -> list[Case]:
    even = (6,) * N
    B = sum(even)
    ragged = tuple(6 - rank % 3 for rank in range(N))
    generator = torch.Generator().manual_seed(N)
    some = tuple((torch.rand(B, generator=generator) < 0.6).tolist())
    ragged_some = tuple((torch.rand(sum(ragged), generator=generator) < 0.6).tolist())
    all_ = (True,) * B
    tiles = [
        Case(f"tiles of {columns}, masked, ragged", ragged, ragged_some, tile_columns=columns)
        for columns in (1, 4, 5, 7)
    ]
    return [
        Case("no mask", even, all_),
        Case("masked", even, some),
        Case("ragged", ragged, (True,) * sum(ragged)),
        Case("masked, ragged", ragged, ragged_some),
        *([Case("a rank without a real row", (0, *even[1:]), (True,) * (B - 6))] if N > 1 else []),
        Case("a rank without a valid row", even, (False,) * 6 + (True,) * (B - 6)),
        Case("one valid row", even, (False,) * (B - 2) + (True, False)),
        Case("no valid row", even, (False,) * B),
        Case("one row a rank", (1,) * N, (True,) * N),
        Case("one row", (1,) + (0,) * (N - 1), (True,)),
        Case("tiles of 4", even, all_, tile_columns=4),
        *tiles,
        Case("scale 100, equal rows", even, all_, scale=100.0, inputs="equal"),
        Case("scale 100, opposite pairs", even, all_, scale=100.0, inputs="opposite", tile_columns=5),
        # At the bound the gradient passes where it leads back below: the sign of the global gradient counts.
        Case("clamped, pairs agree", even, all_, scale=9.0, max_scale=6.0, inputs="agree"),
        Case("clamped, pairs disagree", even, some, scale=30.0, max_scale=20.0, inputs="opposite"),
        Case("clamped, rank 0 alone agrees", even, all_, scale=30.0, max_scale=20.0, inputs="first agrees"),
        Case("clamped, rank 0 alone disagrees", even, all_, scale=9.0, max_scale=0.5, inputs="first disagrees"),
    ]


def inputs_of(case: Case) -> tuple[Tensor, Tensor]:
    """What the towers are fed, of the real rows: (Σ shares, INPUTS) twice."""
    generator = torch.Generator().manual_seed(sum(map(ord, case.name)))
    count = sum(case.shares)
    first, second = torch.randn(2, count, INPUTS, dtype=torch.float64, generator=generator)
    if case.inputs == "equal":
        first, second = first[:1].repeat(count, 1), first[:1].repeat(count, 1)
    elif case.inputs == "agree":
        second = first + 0.2 * second
    elif case.inputs == "opposite":
        second = 0.1 * second - first
    elif case.inputs.startswith("first"):
        # The others outweigh rank 0 in any case.
        rank_0, others = (0.3, -1.0) if case.inputs == "first agrees" else (-0.1, 1.0)
        of_rank_0 = torch.arange(count)[:, None] < case.shares[0]
        second = 0.3 * second + torch.where(of_rank_0, rank_0, others) * first
    return first, second


class Towers(nn.Module):
    """Two small towers on the unit sphere, with the scale; float64. Both start alike, so that inputs that
    agree are features that agree."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, D, bias=False))
            self.second = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, D, bias=False))
        self.second.load_state_dict(self.first.state_dict())
        self.logit_scale = LogitScaleParameter(LogitScale(init=case.max_scale, max=case.max_scale))
        self.double()
        with torch.no_grad():
            # Odd functions: opposite inputs are opposite features. The biases have gradients all the same.
            for tower in (self.first, self.second):
                tower[0].bias.zero_()
            self.logit_scale.log_scale.fill_(math.log(case.scale))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale: Tensor = self.logit_scale()
        return F.normalize(self.first(first), dim=-1), F.normalize(self.second(second), dim=-1), scale


def reference_loss(A: Tensor, T: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
    """CLIP's pseudocode on the valid pairs."""
    logits = scale * A[valid] @ T[valid].T
    labels = torch.arange(len(logits))
    if not len(labels):
        return logits.sum()  # 0, with zero gradients
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def reference(case: Case) -> dict[str, Tensor]:
    """Loss, gradients of the features and of all parameters, on one process."""
    model, valid = Towers(case), torch.tensor(case.valid)
    A, T, scale = model(*inputs_of(case))
    A.retain_grad(), T.retain_grad()
    # The clamp, told anew: forward it is min(scale, max); backward it stops what would raise the scale.
    raw = model.logit_scale.log_scale.exp().squeeze()
    leaf = raw.detach().clamp(max=case.max_scale).requires_grad_()
    torch.testing.assert_close(scale, leaf)
    loss = reference_loss(A, T, leaf, valid)
    loss.backward()
    assert leaf.grad is not None
    stopped = case.scale > case.max_scale and leaf.grad < 0
    raw.backward(torch.zeros_like(leaf) if stopped else leaf.grad)
    return {"loss": loss.detach(), "A": A.grad, "T": T.grad, "scale": leaf.grad} | {
        name: parameter.grad for name, parameter in model.named_parameters()
    }


def on_rank(case: Case) -> dict[str, Tensor]:
    """What this rank computes: the loss and the parameters' gradients averaged as data-parallel training
    averages them, and the gradients of its own real rows' features."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    N = len(case.shares)
    start, count, m = sum(case.shares[:rank]), case.shares[rank], case.rows
    generator = torch.Generator().manual_seed(rank)
    # Padding is masked, whatever stands in it.
    first, second = 9 * torch.randn(2, m, INPUTS, dtype=torch.float64, generator=generator)
    valid = torch.zeros(m, dtype=torch.bool)
    for padded, real in zip((first, second), inputs_of(case), strict=True):
        padded[:count] = real[start : start + count]
    valid[:count] = torch.tensor(case.valid)[start : start + count]

    model = Towers(case)
    with pytest.MonkeyPatch.context() as patch:
        if case.tile_columns is not None:
            patch.setattr(workers.losses.tiles, "TILE_BYTES", case.tile_columns * m * 8)
        A, T, scale = model(first, second)
        A.retain_grad(), T.retain_grad(), scale.retain_grad()
        loss = infonce(A, T, scale, valid)
        loss.backward()
    assert A.grad is not None
    assert T.grad is not None
    assert not A.grad[~valid].any(), "a masked row has a gradient"
    assert not T.grad[~valid].any(), "a masked row has a gradient"
    averaged = {"loss": loss.detach(), "scale": scale.grad}
    averaged |= {name: parameter.grad for name, parameter in model.named_parameters()}
    if N > 1:
        for tensor in averaged.values():
            dist.all_reduce(tensor)
            tensor /= N
    # A rank's own gradient is N times its part: the average over the ranks is yet to come.
    return averaged | {"A": A.grad[:count] / N, "T": T.grad[:count] / N}


def on_rank_all(case_list: list[Case]) -> list[dict[str, Tensor]]:
    return [on_rank(case) for case in case_list]


@functools.cache
def outcomes(N: int) -> list[list[dict[str, Tensor]]]:
    """[rank][case]."""
    return run_ranks(on_rank_all, N, cases(N))


def relative_error(found: Tensor, expected: Tensor, floor: float) -> float:
    """Largest difference over the largest expected value (at least `floor`)."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    if not found.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=floor))


CASES = [(N, number, case) for N in WORLD_SIZES for number, case in enumerate(cases(N))]


@pytest.mark.parametrize(("N", "number", "case"), CASES, ids=[f"{N} ranks: {case.name}" for N, _, case in CASES])
def test_is_the_single_process_loss(N: int, number: int, case: Case) -> None:
    expected = reference(case)
    of_ranks = [results[number] for results in outcomes(N)]
    # Equal rows, or one row alone: sums that cancel to nothing. The size of their terms is the scale's.
    cancels = case.inputs == "equal" or sum(case.valid) == 1
    floor = min(case.scale, case.max_scale) if cancels else 1e-12
    for result in of_ranks:
        for name in expected.keys() - {"A", "T"}:
            assert relative_error(result[name], expected[name], floor) < TOLERANCE, name
    for name in ("A", "T"):
        whole = torch.cat([result[name] for result in of_ranks])
        assert relative_error(whole, expected[name], floor) < TOLERANCE, name


def test_cases_do_what_they_say() -> None:
    for N in WORLD_SIZES:
        by_name = {case.name: reference(case) for case in cases(N)}
        assert by_name["no valid row"]["loss"] == 0
        assert not any(gradient.any() for gradient in by_name["no valid row"].values())
        assert by_name["one valid row"]["loss"] == 0
        mixed = [by_name[f"clamped, rank 0 alone {how}"]["scale"] for how in ("agrees", "disagrees")]
        assert N == 1 or (mixed[0] > 0 > mixed[1]), "no rank's part has another sign than the whole"
        assert by_name["scale 100, equal rows"]["loss"] == pytest.approx(math.log(6 * N))
        assert by_name["scale 100, opposite pairs"]["loss"] > 50
        stopped, passed = by_name["clamped, pairs agree"], by_name["clamped, pairs disagree"]
        assert stopped["scale"] < 0
        assert stopped["logit_scale.log_scale"] == 0
        assert passed["scale"] > 0
        assert passed["logit_scale.log_scale"] == pytest.approx(30 * float(passed["scale"]))


@settings(max_examples=150, deadline=None)
@given(
    m=st.integers(1, 12),
    d=st.integers(1, 6),
    data=st.data(),
    scale=st.floats(0.01, 100),
    tile_columns=st.integers(1, 15),
)
def test_any_shape_mask_and_tile(m: int, d: int, data: st.DataObject, scale: float, tile_columns: int) -> None:
    valid = torch.tensor(data.draw(st.lists(st.booleans(), min_size=m, max_size=m)))
    seed = data.draw(st.integers(0, 2**32))
    features = torch.randn(2, m, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    leaves = [[*F.normalize(features, dim=-1).clone(), torch.tensor(scale, dtype=torch.float64)] for _ in range(2)]
    for leaf in leaves[0] + leaves[1]:
        leaf.requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers.losses.tiles, "TILE_BYTES", tile_columns * m * 8)
        found = infonce(*leaves[0], valid)
    expected = reference_loss(*leaves[1], valid)
    found.backward(), expected.backward()
    found, expected = found.detach(), expected.detach()
    # Sums that cancel (d = 1, or n = 1) have nothing of their own size: the terms' size is 1 (loss: scale).
    assert relative_error(found, expected, max(1.0, scale)) < TOLERANCE
    for ours, theirs in zip(*leaves, strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert relative_error(ours.grad, theirs.grad, max(1.0, scale)) < TOLERANCE


def test_gradcheck() -> None:
    generator = torch.Generator().manual_seed(0)
    A, T = torch.randn(2, 6, 3, dtype=torch.float64, generator=generator)
    valid = torch.tensor([True, True, False, True, True, False])
    scale = torch.tensor(3.0, dtype=torch.float64)
    leaves = [leaf.clone().requires_grad_() for leaf in (A, T, scale)]
    assert torch.autograd.gradcheck(lambda *inputs: infonce(*inputs, valid), leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_features_are_taken_as_fp32(dtype: torch.dtype) -> None:
    """exp(100) overflows fp32: the largest logits must be subtracted."""
    generator = torch.Generator().manual_seed(0)
    A = F.normalize(torch.randn(8, 16, generator=generator), dim=-1).to(dtype).requires_grad_()
    T = (-A).detach().requires_grad_()
    scale, valid = torch.tensor(100.0, requires_grad=True), torch.ones(8, dtype=torch.bool)
    loss = infonce(A, T, scale, valid)
    loss.backward()
    assert loss.dtype == torch.float32
    expected = reference_loss(A.detach().double(), T.detach().double(), scale.detach().double(), valid)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert A.grad is not None
    assert A.grad.dtype == dtype
    assert torch.isfinite(A.grad).all()


class _Largest(TorchDispatchMode):
    """Numbers in the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.numel())
        return made


@pytest.mark.parametrize("tile_columns", [None, 16])
def test_no_full_matrix_is_held(tile_columns: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    m, d = 512, 4
    if tile_columns is not None:
        monkeypatch.setattr(workers.losses.tiles, "TILE_BYTES", tile_columns * m * 8)
    A, T = F.normalize(torch.randn(2, m, d, dtype=torch.float64), dim=-1).requires_grad_().unbind()
    with _Largest() as largest:
        infonce(A, T, torch.tensor(10.0), torch.ones(m, dtype=torch.bool)).backward()
    # The full matrix has 262,144 numbers, a tile 8,192: of which a tensor has one at most.
    assert largest.numel == (m * m if tile_columns is None else m * tile_columns)
