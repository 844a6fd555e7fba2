"""Global batches, how they are spread over ranks, and what one process and what the ranks make of them.

A variant of a case changes how it is computed, and must not change what comes out. Two small towers with scale and
bias stand behind the features, so that parameters' gradients are compared as training would have them.
Letters: N ranks, m rows a rank, K hard negatives of a row, d width.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import workers.losses.contrast
import workers.losses.tiles
from jobspecs.objective import LogitScale
from tests.ranks import run_ranks
from tests.workers.losses.reference import Options, Rows, infonce_loss, ntxent_loss, of_prefixes, siglip_loss
from workers.losses.infonce import infonce
from workers.losses.logit_scale import LogitScaleParameter
from workers.losses.ntxent import ntxent
from workers.losses.pairs import Pairs, gather_pairs
from workers.losses.rule import Prefixes, Rule
from workers.losses.siglip import siglip

D, INPUTS = 5, 7
ROWS = {1: 6, 2: 5, 4: 3}
"""Of a rank, by the number of ranks."""
WORLD_SIZES = tuple(ROWS)
TOLERANCE = 1e-9

Found = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A global batch and how it is spread."""

    name: str
    loss: str
    """infonce | ntxent | siglip."""
    shares: tuple[int, ...]
    """Real rows of each rank; shorter ranks are padded at their end. Of NT-Xent: samples."""
    masked: bool | tuple[bool, ...] = False
    """Whether some of the real rows are not valid; or which are valid."""
    options: Options = field(default_factory=Options)
    kinds: int = 0
    """H, kinds of keys."""
    weights: str = "ones"
    """ones | random | some zero | all zero | large."""
    K: int = 0
    inputs: str = "random"
    scale: float = 14.3
    max_scale: float = 100.0
    bias: float = -3.0

    @property
    def m(self) -> int:
        """Rows of a rank with its padding."""
        return max(1, *self.shares)

    @property
    def views(self) -> int:
        """Rows that a sample has."""
        return 2 if self.loss == "ntxent" else 1


@dataclass(frozen=True)
class Variant:
    """How it is computed."""

    tile_columns: int | None = None
    """None: all in one."""
    plain_logit: float | None = None
    """0 subtracts maxima in any case."""


VARIANTS = (
    Variant(),
    Variant(1),
    Variant(4),
    Variant(None, 0.0),
    Variant(4, 0.0),
    Variant(7, 0.0),
)


def draw(case: Case, what: str) -> torch.Generator:
    return torch.Generator().manual_seed(sum(map(ord, case.name + what)) + 1000 * len(case.shares))


def inputs_of(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """What the towers are fed, of the real rows: (B, INPUTS) twice, and (B·K, INPUTS)."""
    B = sum(case.shares)
    generator = draw(case, "inputs")
    first, second = torch.randn(2, B, INPUTS, dtype=torch.float64, generator=generator)
    negatives = torch.randn(B * case.K, INPUTS, dtype=torch.float64, generator=generator)
    if case.inputs == "equal":
        first, second = first[:1].repeat(B, 1), first[:1].repeat(B, 1)
    elif case.inputs == "agree":
        second = first + 0.2 * second
    elif case.inputs == "opposite":
        second = 0.1 * second - first
    elif case.inputs.startswith("first"):
        # The others outweigh rank 0 in any case.
        rank_0, others = (0.3, -1.0) if case.inputs == "first agrees" else (-0.1, 1.0)
        of_rank_0 = torch.arange(B)[:, None] < case.shares[0]
        second = 0.3 * second + torch.where(of_rank_0, rank_0, others) * first
    return first, second, negatives


def rows_of(case: Case) -> Rows:
    """What is known of the real rows; of NT-Xent, of the views."""
    B, generator = sum(case.shares), draw(case, "rows")
    if isinstance(case.masked, tuple):
        valid = list(case.masked)
    else:
        valid = (torch.rand(B, generator=generator) < (0.6 if case.masked else 2.0)).tolist()
    valid = [v for v in valid for _ in range(case.views)]
    n, count = len(valid), B * case.K
    weight = torch.rand(n, dtype=torch.float64, generator=generator) + 0.1
    weight = {
        "ones": torch.ones(n),
        "random": weight,
        "some zero": weight * (torch.arange(n) % 3 > 0),
        "all zero": 0 * weight,
        "large": 1000 * weight,
    }[case.weights]
    # Few values, so that many are equal; 0 among them; large ones, as hashes are.
    keys = torch.randint(0, 4, (n + count, case.kinds), generator=generator) * 2**61
    pairs = [tuple(row) for row in keys.tolist()]
    negative_valid = (torch.rand(count, generator=generator) < (0.7 if case.masked else 2.0)).tolist()
    return Rows(valid, weight.tolist(), pairs[:n], negative_valid, pairs[n:])


class Towers(nn.Module):
    """Two small towers on the unit sphere, with scale and bias; float64. Both start alike, so that inputs that
    agree are features that agree."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.first = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, D, bias=False))
            self.second = nn.Sequential(nn.Linear(INPUTS, 8), nn.Tanh(), nn.Linear(8, D, bias=False))
        self.second.load_state_dict(self.first.state_dict())
        self.logit_scale = LogitScaleParameter(LogitScale(init=case.max_scale, max=case.max_scale))
        self.bias = nn.Parameter(torch.tensor(case.bias))
        self.double()
        with torch.no_grad():
            # Odd functions: opposite inputs are opposite features. The biases have gradients all the same.
            for tower in (self.first, self.second):
                tower[0].bias.zero_()
            self.logit_scale.log_scale.fill_(math.log(case.scale))

    def encode(self, case: Case, first: Tensor, second: Tensor, negatives: Tensor) -> list[Tensor]:
        """Resident and travelling features, or those of all views."""
        if case.loss == "ntxent":
            views = torch.stack([first, second], 1).flatten(0, 1)
            return [F.normalize(self.first(views), dim=-1)]
        resident = self.first(torch.cat([first, negatives]))
        return [F.normalize(resident, dim=-1), F.normalize(self.second(second), dim=-1)]


def reference(case: Case) -> Found:
    """Loss, gradients of the features and of all parameters, on one process."""
    model, rows = Towers(case), rows_of(case)
    features = model.encode(case, *inputs_of(case))
    for side in features:
        side.retain_grad()
    # The clamp, told anew: forward it is min(scale, max); backward it stops what would raise the scale.
    raw = model.logit_scale.log_scale.exp().squeeze()
    scale = raw.detach().clamp(max=case.max_scale).requires_grad_()

    def loss_of(*sides: Tensor) -> Tensor:
        if case.loss == "infonce":
            return infonce_loss(*sides, scale, rows, case.options)
        if case.loss == "ntxent":
            return ntxent_loss(*sides, scale, rows, case.options)
        return siglip_loss(*sides, scale, model.bias, rows, case.options)

    loss = of_prefixes(loss_of, features, case.options)
    loss.backward()
    assert scale.grad is not None
    stopped = case.scale > case.max_scale and scale.grad < 0
    raw.backward(torch.zeros_like(scale) if stopped else scale.grad)
    found = {"loss": loss.detach(), "scale": scale.grad}
    for number, side in enumerate(features):
        assert side.grad is not None
        found[f"features {number}"] = side.grad
    return found | gradients(model)


def gradients(model: nn.Module) -> Found:
    """Of all parameters; 0 where a loss doesn't know one."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for name, parameter in model.named_parameters()
    }


def batch_of_rank(case: Case) -> tuple[list[Tensor], Pairs]:
    """What this rank's towers are fed, padded, and what it knows of all rows."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    m, K, views = case.m, case.K, case.views
    start, count = sum(case.shares[:rank]), case.shares[rank]
    of_case = rows_of(case)

    def mine(of_all: Tensor, each: int, padding: Tensor) -> Tensor:
        """This rank's part of what has `each` rows a sample, in place of the padding's first rows."""
        padding = padding.clone()
        padding[: count * each] = of_all[start * each : (start + count) * each]
        return padding

    # Padding is masked, whatever stands in it: features, weights, keys that others have too.
    generator = torch.Generator().manual_seed(rank)
    noise = 9 * torch.randn(m * max(1, K), INPUTS, dtype=torch.float64, generator=generator)
    first, second, negatives = inputs_of(case)
    inputs = [mine(first, 1, noise[:m]), mine(second, 1, -noise[:m]), mine(negatives, K, noise[: m * K])]
    no_row, no_negative = torch.zeros(m * views, dtype=torch.bool), torch.zeros(m * K, dtype=torch.bool)
    weight = mine(
        torch.tensor(of_case.weight, dtype=torch.float64), views, torch.full((m * views,), 5.0, dtype=torch.float64)
    )
    keys = torch.tensor(of_case.keys, dtype=torch.int64).reshape(-1, max(1, case.kinds))
    negative_keys = torch.tensor(of_case.negative_keys, dtype=torch.int64).reshape(-1, max(1, case.kinds))
    pairs = gather_pairs(
        mine(torch.tensor(of_case.valid), views, no_row),
        weight=None if case.weights == "ones" else weight,
        keys=mine(keys, views, torch.full((m * views, case.kinds), 2**61)) if case.kinds else None,
        negatives_valid=mine(torch.tensor(of_case.negative_valid, dtype=torch.bool), K, no_negative) if K else None,
        negative_keys=mine(negative_keys, K, torch.full((m * K, case.kinds), 2**61)) if case.kinds and K else None,
        views=views,
    )
    return inputs, pairs


def on_rank(case: Case, variant: Variant, inputs: list[Tensor], pairs: Pairs) -> Found:
    """What this rank computes: the loss, the gradients of the parameters and of its own real rows' features."""
    N, m, K, views = len(case.shares), case.m, case.K, case.views
    count = case.shares[dist.get_rank() if dist.is_initialized() else 0]
    model = Towers(case).to(inputs[0].device)
    with pytest.MonkeyPatch.context() as patch:
        if variant.tile_columns is not None:
            resident = m * (views + K)
            for name in ("TILE_BYTES", "CUDA_TILE_BYTES"):
                patch.setattr(workers.losses.tiles, name, variant.tile_columns * resident * 8)
        if variant.plain_logit is not None:
            patch.setattr(workers.losses.contrast, "PLAIN_LOGIT", variant.plain_logit)
        features = model.encode(case, *inputs)
        scale = model.logit_scale()
        for kept in (*features, scale):
            kept.retain_grad()
        loss = loss_of_rank(case, features, scale, model.bias, pairs)
        loss.backward()
    found = {"loss": loss.detach(), "scale": scale.grad} | gradients(model)
    # A rank's own gradient is N times its part: the average over the ranks is yet to come.
    for number, side in enumerate(features):
        assert side.grad is not None
        counted = pairs.valid_R if number == 0 else pairs.valid_C[pairs.own]
        assert not side.grad[~counted].any(), "a masked row has a gradient"
        found[f"features {number}"] = side.grad[: count * views] / N
        if number == 0 and K:
            found["negatives"] = side.grad[m : m + count * K] / N
    return found


def loss_of_rank(case: Case, features: list[Tensor], scale: Tensor, bias: Tensor, pairs: Pairs) -> Tensor:
    """The loss under test."""
    options = case.options
    rule = Rule(
        options.to_travelling,
        options.to_resident,
        label_smoothing=options.label_smoothing,
        hardness=options.hardness,
        margin=options.margin,
    )
    prefixes = Prefixes(options.dims, options.dim_weights) if options.dims else None
    if case.loss == "infonce":
        return infonce(*features, scale, rule=rule, pairs=pairs, prefixes=prefixes)
    if case.loss == "ntxent":
        views = features[0].unflatten(0, (-1, 2))
        return ntxent(views, scale, rule=rule, pairs=pairs, prefixes=prefixes)
    return siglip(*features, scale, bias, margin=options.margin, pairs=pairs, prefixes=prefixes)


def on_rank_all(cases: tuple[Case, ...]) -> list[list[Found]]:
    """[case][variant]."""
    found = []
    for case in cases:
        inputs, pairs = batch_of_rank(case)
        found.append([on_rank(case, variant, inputs, pairs) for variant in variants(case)])
    return found


def variants(case: Case) -> tuple[Variant, ...]:
    """All on one rank; some of them, others for each case, on several."""
    if len(case.shares) == 1:
        return VARIANTS
    at = sum(map(ord, case.name)) % 3
    return VARIANTS[at], VARIANTS[at + 3]


@functools.cache
def _outcomes(cases: tuple[Case, ...]) -> list[list[list[Found]]] | Exception:
    N = len(cases[0].shares)
    try:
        return [on_rank_all(cases)] if N == 1 else run_ranks(on_rank_all, N, cases)
    except Exception as error:
        return error


def outcomes(cases: tuple[Case, ...]) -> list[list[list[Found]]]:
    """[rank][case][variant]; all cases have the same number of ranks. What failed once is not tried again."""
    found = _outcomes(cases)
    if isinstance(found, Exception):
        raise found
    return found


def relative_error(found: Tensor, expected: Tensor, floor: float) -> float:
    """Largest difference over the largest expected value (at least `floor`)."""
    assert found.shape == expected.shape
    assert torch.isfinite(found).all()
    if not found.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=floor))


def check(cases: tuple[Case, ...], case: Case) -> None:
    """Every variant of a case is the single process's, on every rank."""
    expected, number = reference(case), cases.index(case)
    B = sum(case.shares) * case.views
    if case.K:
        expected["negatives"] = expected["features 0"][B:]
        expected["features 0"] = expected["features 0"][:B]
    of_features = {name for name in expected if name.startswith(("features", "negatives"))}
    parameters = sorted(expected.keys() - of_features - {"loss", "scale"})
    # Equal rows, or one row alone: sums that cancel to nothing. The size of their terms is the scale's.
    alone = sum(rows_of(case).valid) <= case.views
    floor = min(case.scale, case.max_scale) if case.inputs == "equal" or alone else 1e-12
    for at, variant in enumerate(variants(case)):
        of_ranks = [results[number][at] for results in outcomes(cases)]
        assert all(found.keys() == expected.keys() for found in of_ranks)
        averaged = {
            name: (torch.cat if name in of_features else _mean)([found[name] for found in of_ranks])
            for name in expected
        }
        for name in expected:
            assert relative_error(averaged[name], expected[name], floor) < TOLERANCE, (name, variant)
        assert all(torch.equal(found["scale"], averaged["scale"]) for found in of_ranks), "averaged already"
        ours, theirs = (torch.cat([of[name].flatten() for name in parameters]) for of in (averaged, expected))
        if theirs.norm() > floor:
            assert abs(float(ours.norm() / theirs.norm()) - 1) < TOLERANCE, variant
            assert float(F.cosine_similarity(ours, theirs, dim=0)) > 1 - TOLERANCE, variant


def _mean(of_ranks: list[Tensor]) -> Tensor:
    """As data-parallel training averages."""
    return torch.stack(of_ranks).mean(0)
