"""NT-Xent with every option against the plainest single-process one, in float64 on 1, 2 and 4 ranks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.workers.losses.cases import WORLD_SIZES, Case, check
from tests.workers.losses.spreads import OF_QUERIES, clamps, layouts, twice
from workers.losses.ntxent import ntxent
from workers.losses.rule import Rule

CASES: dict[int, tuple[Case, ...]] = {
    N: (*layouts("ntxent", N), *clamps("ntxent", N)[1:2], *twice("ntxent", N, OF_QUERIES)) for N in WORLD_SIZES
}
EACH = [pytest.param(N, case, id=f"{N} ranks: {case.name}") for N in WORLD_SIZES for case in CASES[N]]


@pytest.mark.parametrize(("N", "case"), EACH)
def test_is_the_single_process_loss(N: int, case: Case) -> None:
    check(CASES[N], case)


def test_directions_of_the_rule_are_one() -> None:
    """A rule made for two towers has two directions; here there is one, and its gradient is whole."""
    Z = F.normalize(torch.randn(5, 2, 4, dtype=torch.float64), dim=-1)
    found = []
    for rule in (Rule(hardness=0.5), Rule(1.0, 0.0, symmetric=True, hardness=0.5), Rule(0.0, 1.0, hardness=0.5)):
        features, scale = Z.clone().requires_grad_(), torch.tensor(9.0, dtype=torch.float64, requires_grad=True)
        loss = ntxent(features, scale, rule=rule)
        loss.backward()
        found.append((loss.detach(), features.grad, scale.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_wants_nothing_of_who_has_the_views_swapped() -> None:
    Z = F.normalize(torch.randn(5, 2, 4, dtype=torch.float64), dim=-1)
    torch.testing.assert_close(ntxent(Z, torch.tensor(9.0)), ntxent(Z.flip(1), torch.tensor(9.0)))
