"""The sigmoid loss with every option against the plainest single-process one, in float64 on 1, 2 and 4 ranks."""

from __future__ import annotations

import pytest

from tests.workers.losses.cases import WORLD_SIZES, Case, check
from tests.workers.losses.reference import Options
from tests.workers.losses.spreads import OF_QUERIES, layouts, twice

NOT_OURS = ("label smoothing", "hardness", "everything")
"""There is no sum over negatives."""

VARIATIONS: dict[str, dict] = {name: what for name, what in OF_QUERIES.items() if not name.startswith(NOT_OURS)} | {
    "no bias": {"bias": 0.0},
    "strong bias": {"bias": -10.0, "scale": 10.0},
    "all of ours": {
        "options": Options(margin=0.3, dims=(1, 3), dim_weights=(0.5, 2.0)),
        "kinds": 2,
        "weights": "some zero",
    },
}

CASES: dict[int, tuple[Case, ...]] = {N: (*layouts("siglip", N), *twice("siglip", N, VARIATIONS)) for N in WORLD_SIZES}
EACH = [pytest.param(N, case, id=f"{N} ranks: {case.name}") for N in WORLD_SIZES for case in CASES[N]]


@pytest.mark.parametrize(("N", "case"), EACH)
def test_is_the_single_process_loss(N: int, case: Case) -> None:
    check(CASES[N], case)
