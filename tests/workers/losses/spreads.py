"""Cases that several losses have: every way to spread and mask a batch, and every option of a query's loss.

Letters: N ranks, B rows in all.
"""

from __future__ import annotations

from tests.workers.losses.cases import ROWS, Case
from tests.workers.losses.reference import Options


def layouts(loss: str, N: int, **what) -> list[Case]:
    """The loss with nothing special, over every way to spread and mask a batch."""
    even = (ROWS[N],) * N
    ragged = tuple(ROWS[N] - rank % 3 for rank in range(N))
    B = sum(even)
    return [
        Case("no mask", loss, even, **what),
        Case("masked", loss, even, True, **what),
        Case("ragged", loss, ragged, **what),
        Case("masked, ragged", loss, ragged, True, **what),
        *([Case("a rank without a real row", loss, (0, *even[1:]), **what)] if N > 1 else []),
        Case("a rank without a valid row", loss, even, (False,) * ROWS[N] + (True,) * (B - ROWS[N]), **what),
        Case("one valid row", loss, even, (False,) * (B - 2) + (True, False), **what),
        Case("no valid row", loss, even, (False,) * B, **what),
        Case("one row a rank", loss, (1,) * N, **what),
        Case("one row", loss, (1,) + (0,) * (N - 1), **what),
    ]


def clamps(loss: str, N: int) -> list[Case]:
    """At the bound the gradient passes where it leads back below: the sign of the global gradient counts."""
    even = (ROWS[N],) * N
    return [
        Case("clamped, pairs agree", loss, even, scale=9.0, max_scale=6.0, inputs="agree"),
        Case("clamped, pairs disagree", loss, even, True, scale=30.0, max_scale=20.0, inputs="opposite"),
        Case("clamped, rank 0 alone agrees", loss, even, scale=30.0, max_scale=20.0, inputs="first agrees"),
        Case("clamped, rank 0 alone disagrees", loss, even, scale=9.0, max_scale=0.5, inputs="first disagrees"),
    ]


def twice(loss: str, N: int, variations: dict[str, dict]) -> list[Case]:
    """Each variation on an even batch, and on one that is masked and ragged."""
    spread = {"": ((ROWS[N],) * N, False), ", masked, ragged": (tuple(ROWS[N] - rank % 3 for rank in range(N)), True)}
    return [
        Case(name + how, loss, shares, masked, **what)
        for name, what in variations.items()
        for how, (shares, masked) in spread.items()
    ]


ALL = {"label_smoothing": 0.2, "hardness": 0.5, "margin": 0.3}
"""Every option of a query's loss at once."""

OF_QUERIES: dict[str, dict] = {
    "label smoothing": {"options": Options(label_smoothing=0.1)},
    "hardness 0.5": {"options": Options(hardness=0.5)},
    "hardness 2": {"options": Options(hardness=2.0)},
    "hardness and label smoothing": {"options": Options(hardness=0.5, label_smoothing=0.3)},
    "one kind of keys": {"kinds": 1},
    "two kinds of keys": {"kinds": 2},
    "margin 0.2": {"options": Options(margin=0.2)},
    "margin 0": {"options": Options(margin=0.0)},
    "margin -0.4": {"options": Options(margin=-0.4)},
    "weights": {"weights": "random"},
    "weights, some zero": {"weights": "some zero"},
    "weights, all zero": {"weights": "all zero"},
    "large weights, keys": {"weights": "large", "kinds": 1},
    "prefixes": {"options": Options(dims=(2, 4), dim_weights=(1.0, 0.3))},
    "everything": {
        "options": Options(**ALL, dims=(1, 3), dim_weights=(0.5, 2.0)),
        "kinds": 2,
        "weights": "some zero",
    },
}
"""Options that InfoNCE and NT-Xent share."""
