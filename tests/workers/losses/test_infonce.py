"""The gathered InfoNCE with every option against the plainest single-process one, in float64 on 1, 2 and 4 ranks."""

from __future__ import annotations

import dataclasses
import math

import pytest

from tests.workers.losses.cases import ROWS, WORLD_SIZES, Case, check, reference
from tests.workers.losses.reference import Options
from tests.workers.losses.spreads import ALL, OF_QUERIES, clamps, layouts, twice

TO_TRAVELLING, TO_RESIDENT = {"to_travelling": 1.0, "to_resident": 0.0}, {"to_travelling": 0.0, "to_resident": 1.0}
PREFIXES = {"dims": (2,), "dim_weights": (0.7,)}

VARIATIONS: dict[str, dict] = OF_QUERIES | {
    "to travelling": {"options": Options(**TO_TRAVELLING)},
    "to resident": {"options": Options(**TO_RESIDENT)},
    "uneven directions": {"options": Options(to_travelling=0.3, to_resident=0.7)},
    "to travelling, everything": {"options": Options(**TO_TRAVELLING, **ALL), "kinds": 1, "weights": "random"},
    "to resident, everything": {"options": Options(**TO_RESIDENT, **ALL), "kinds": 1, "weights": "random"},
    "a hard negative": {"K": 1},
    "3 hard negatives": {"K": 3},
    "3 hard negatives, queries alone": {"K": 3, "options": Options(**TO_RESIDENT)},
    "2 hard negatives, documents alone": {"K": 2, "options": Options(**TO_TRAVELLING)},
    "2 hard negatives, keys": {"K": 2, "kinds": 1},
    "2 hard negatives, margin": {"K": 2, "options": Options(margin=0.1)},
    "2 hard negatives, hardness": {"K": 2, "options": Options(hardness=1.0)},
    "2 hard negatives, everything": {
        "K": 2,
        "options": Options(to_travelling=0.3, to_resident=0.7, **ALL, **PREFIXES),
        "kinds": 2,
        "weights": "some zero",
    },
}


SPREADS = {
    N: (
        *layouts("infonce", N),
        *clamps("infonce", N),
        Case("scale 100, equal rows", "infonce", (ROWS[N],) * N, scale=100.0, inputs="equal"),
        Case("scale 100, opposite pairs", "infonce", (ROWS[N],) * N, scale=100.0, inputs="opposite"),
    )
    for N in WORLD_SIZES
}
CASES = {N: (*SPREADS[N], *twice("infonce", N, VARIATIONS)) for N in WORLD_SIZES}
EACH = [pytest.param(N, case, id=f"{N} ranks: {case.name}") for N in WORLD_SIZES for case in CASES[N]]


@pytest.mark.parametrize(("N", "case"), EACH)
def test_is_the_single_process_loss(N: int, case: Case) -> None:
    check(CASES[N], case)


def test_cases_do_what_they_say() -> None:
    for N in WORLD_SIZES:
        by_name = {case.name: reference(case) for case in SPREADS[N]}
        assert by_name["no valid row"]["loss"] == 0
        assert not any(gradient.any() for gradient in by_name["no valid row"].values())
        assert by_name["one valid row"]["loss"] == 0
        mixed = [by_name[f"clamped, rank 0 alone {how}"]["scale"] for how in ("agrees", "disagrees")]
        assert N == 1 or (mixed[0] > 0 > mixed[1]), "no rank's part has another sign than the whole"
        assert by_name["scale 100, equal rows"]["loss"] == pytest.approx(math.log(ROWS[N] * N))
        assert by_name["scale 100, opposite pairs"]["loss"] > 50
        stopped, passed = by_name["clamped, pairs agree"], by_name["clamped, pairs disagree"]
        assert stopped["scale"] < 0
        assert stopped["logit_scale.log_scale"] == 0
        assert passed["scale"] > 0
        assert passed["logit_scale.log_scale"] == pytest.approx(30 * float(passed["scale"]))


@pytest.mark.parametrize("N", WORLD_SIZES)
def test_options_change_the_loss(N: int) -> None:
    """A variation that changes nothing proves nothing."""
    for case in CASES[N]:
        same = dataclasses.replace(case, options=Options(), kinds=0, weights="ones")
        if case.name in VARIATIONS and same != case:
            assert abs(float(reference(case)["loss"]) / float(reference(same)["loss"]) - 1) > 1e-6, case.name
