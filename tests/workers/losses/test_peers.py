"""Our losses against open_clip's and sentence-transformers', on one process and on two ranks, in float64.

Both sides return a rank's loss such that the mean over the ranks is the loss of the global batch, and both leave
gradients whose mean over the ranks is its gradient. So features' gradients must agree rank by rank; of the scale,
theirs is the rank's part and ours the global one already.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.benchmarks.loss_contestants import (
    SCALE,
    Features,
    open_clip_infonce,
    open_clip_siglip,
    random_features,
    sentence_transformers_cached,
    sentence_transformers_infonce,
    sentence_transformers_queries,
    tandem_infonce,
    tandem_queries,
    tandem_siglip,
)
from tests.benchmarks.peers import INSTALL, installed
from tests.ranks import run_ranks

pytestmark = pytest.mark.skipif(not installed(), reason=INSTALL)

TOLERANCE = 1e-12
M, D = 300, 16  # more than one chunk of the cached loss

Outcome = dict[str, Tensor]
"""The loss (mean over the ranks) and the gradients of the features and, where there are, of the scale and the bias."""

PAIRS: dict[str, tuple[Callable[[Features], Tensor], Callable[..., Tensor]]] = {
    "open_clip ClipLoss": (tandem_infonce, open_clip_infonce),
    "open_clip SigLipLoss": (tandem_siglip, open_clip_siglip),
    "sentence-transformers MultipleNegativesRankingLoss, both directions": (
        tandem_infonce,
        sentence_transformers_infonce,
    ),
    "sentence-transformers MultipleNegativesRankingLoss, hard negatives": (
        tandem_queries,
        sentence_transformers_queries,
    ),
    "sentence-transformers CachedMultipleNegativesRankingLoss, both directions": (
        tandem_infonce,
        sentence_transformers_cached,
    ),
}
"""What is compared: ours, theirs."""


LEAVES = ("first", "second", "scale", "bias")


def features_of(name: str, ranks: range) -> Features:
    """Their rows as one batch, in float64."""
    K = 3 if "hard negatives" in name else 0
    parts = [random_features(M, D, K, seed=rank) for rank in ranks]
    leaves = [
        torch.cat([getattr(part, leaf).detach() for part in parts])
        if leaf in ("first", "second")
        else getattr(parts[0], leaf).detach()
        for leaf in LEAVES
    ]
    return Features(*(leaf.double().requires_grad_() for leaf in leaves))


def outcome(run: Callable[..., Tensor], features: Features, **how: bool) -> Outcome:
    found = {"loss": run(features, **how)} | {leaf: getattr(features, leaf).grad for leaf in LEAVES}
    return {name: value for name, value in found.items() if value is not None}


def averaged(found: Outcome) -> Outcome:
    for name in ("loss", "scale", "bias"):
        if name in found:
            dist.all_reduce(found[name])
            found[name] /= dist.get_world_size()
    return found


@dataclass(frozen=True)
class Compared:
    """Of one pair."""

    ours: Outcome
    """Of this rank."""
    theirs: Outcome
    """Of this rank."""
    theirs_alone: Outcome
    """Of a single process that has the whole batch."""


def _on_rank() -> dict[str, Compared]:
    this = range(dist.get_rank(), dist.get_rank() + 1)
    return {
        name: Compared(
            averaged(outcome(ours, features_of(name, this))),
            averaged(outcome(theirs, features_of(name, this))),
            outcome(theirs, features_of(name, range(2)), alone=True),
        )
        for name, (ours, theirs) in PAIRS.items()
    }


@functools.cache
def of_ranks() -> list[dict[str, Compared]]:
    """The peers are imported on the ranks alone, which takes 10 s."""
    return run_ranks(_on_rank, 2)


def assert_agrees(ours: Outcome, theirs: Outcome) -> None:
    # sentence-transformers' scale is a constant, without a gradient.
    assert theirs.keys() >= {"loss", "first", "second"}
    for what, expected in theirs.items():
        error = (ours[what] - expected).abs().max() / expected.abs().max()
        assert error < TOLERANCE, f"{what}: {error}"


@pytest.mark.parametrize("name", PAIRS)
def test_is_the_peers_loss_on_two_ranks(name: str) -> None:
    for compared in of_ranks():
        assert_agrees(compared[name].ours, compared[name].theirs)


@pytest.mark.parametrize("name", PAIRS)
def test_is_the_peers_loss_on_one_process(name: str) -> None:
    assert_agrees(outcome(PAIRS[name][0], features_of(name, range(2))), of_ranks()[0][name].theirs_alone)


def test_open_clip_has_gradients_of_its_scalars() -> None:
    for compared in of_ranks():
        assert SCALE * abs(compared["open_clip ClipLoss"].theirs["scale"]) > 0.1
        assert compared["open_clip SigLipLoss"].theirs.keys() >= {"scale", "bias"}
