"""Figures of health against plain formulas, the same on any number of ranks; and what ends an attempt."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.ranks import run_ranks
from tests.workers.train.small import LAYOUT, Job, global_rows, own_rows
from tests.workers.train.test_step import JOBS, contrast
from workers.data.order import rows_per_rank
from workers.train.batch import GlobalBatch, content_keys, gather_batch
from workers.train.command import Command
from workers.train.health import PATIENCE, DivergedError, Health, Watch, loss_floor, measure_health
from workers.train.step import Stepped

D = 5


def features(job: Job, side: str) -> Tensor:
    """(B, k, D) of the whole batch; row 0 has length 0."""
    inputs = contrast(job).inputs[side]
    generator = torch.Generator().manual_seed(sum(map(ord, side)))
    made = torch.nn.functional.normalize(torch.randn(12, inputs, D, generator=generator) + 0.5, dim=-1)
    made[0] = 0
    return made


def on_rank(jobs: list[Job]) -> list[Health]:
    found = []
    rank, N = dist.get_rank(), dist.get_world_size()
    for job in jobs:
        of = contrast(job)
        own = own_rows(job, 0)
        seen = gather_batch(own, content_keys(own, of.kinds), LAYOUT, torch.device("cpu"), command=Command.GO)
        lanes = [*range(12)]
        share = [lane for lane in lanes if rank * 4 // N <= lane // 3 < (rank + 1) * 4 // N]

        def local(side: str, share: list[int] = share, job: Job = job) -> Tensor:
            padded = torch.full((rows_per_rank(N, LAYOUT), contrast(job).inputs[side], D), torch.nan)
            padded[: len(share)] = features(job, side)[share]
            return padded

        stepped = Stepped(
            loss=1.0,
            accuracy=0.5,
            logit_scale=1.0,
            grad_norm=1.0,
            resident=local(of.resident),
            travelling=local(of.travelling),
        )
        found.append(measure_health(stepped, seen, of))
    return found


def plain(job: Job) -> dict[str, Any]:
    """On one process, in loops."""
    of, rows = contrast(job), global_rows(job, 0)
    n = [i for i in range(12) if rows.valid[i]]
    sides = {side: features(job, side).double()[n] for side in of.inputs}
    one, other = sides[of.travelling][:, 0], sides[of.resident][:, 1 if of.symmetric else 0]
    distances = [float(sum((a - b) ** 2 for a, b in zip(x, y, strict=True))) for x, y in zip(one, other, strict=True)]
    uniformity, rank, cosine = {}, {}, {}
    for side, whole in sides.items():
        x = whole[:, 0]
        pairs = [(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]
        # Rows of length 0 count as if they were 1 long.
        uniformity[side] = math.log(np.mean([math.exp(-2 * float(2 - 2 * x[i] @ x[j])) for i, j in pairs]))
        cosine[side] = float(np.mean([float(x[i] @ x[j]) for i, j in pairs]))
        singular = np.linalg.svd(x.numpy(), compute_uv=False)
        p = singular / singular.sum()
        rank[side] = math.exp(-sum(q * math.log(q) for q in p if q > 1e-12))
    return {
        "alignment": np.mean(distances),
        "uniformity": uniformity,
        "effective_rank": rank,
        "mean_cosine": cosine,
        "clamped": float(rows.valid[0]) / len(n),
    }


@pytest.mark.parametrize("N", [1, 3])
def test_figures_are_those_of_plain_formulas_on_any_number_of_ranks(N: int) -> None:
    jobs = [JOBS[0], JOBS[5], JOBS[6]]
    for of_rank in run_ranks(on_rank, N, jobs):
        for job, health in zip(jobs, of_rank, strict=True):
            for figure, expected in plain(job).items():
                found = asdict(health)[figure]
                assert found == pytest.approx(expected, rel=1e-5), (job.name, figure)


def batch(
    keys: list[tuple[int, ...]], valid: list[bool] | None = None, weights: list[float] | None = None
) -> GlobalBatch:
    mask = np.array(valid or [True] * len(keys))
    return GlobalBatch(
        ids=np.arange(len(keys)),
        usable=mask,
        valid=mask,
        weights=np.array(weights or [1.0] * len(keys), np.float32) * mask,
        keys=np.array(keys, np.int64),
        command=Command.GO,
    )


CLIP, COPIES, SIMCLR = JOBS[0], JOBS[1], JOBS[5]


@pytest.mark.parametrize(
    ("job", "seen", "floor"),
    [
        (CLIP, batch([(1, 9), (2, 8), (3, 7)]), 0.0),
        # Three equal texts of four: those rows can't do better than ln 3.
        (CLIP, batch([(1, 9), (1, 8), (1, 7), (2, 6)]), 3 / 4 * math.log(3)),
        (CLIP, batch([(1, 9), (1, 8), (1, 7), (2, 6)], [True, True, False, True]), 2 / 3 * math.log(2)),
        (CLIP, batch([(1, 9), (1, 8), (2, 7)], weights=[3, 3, 3]), 2 / 3 * math.log(2)),
        # The kind with more copies counts.
        (CLIP, batch([(1, 5), (1, 5), (2, 5)]), math.log(3)),
        (COPIES, batch([(1, 9), (1, 8)]), 0.0),
        (CLIP, batch([(1, 9)], [False]), 0.0),
    ],
)
def test_floor_of_the_loss(job: Job, seen: GlobalBatch, floor: float) -> None:
    assert loss_floor(seen, contrast(job)) == pytest.approx(floor)


def test_the_floor_is_what_the_best_towers_reach() -> None:
    """Towers that tell everything apart but the copies."""
    texts = torch.eye(3)[[0, 0, 0, 1, 2]]
    logits = 1000 * texts @ texts.T
    labels = torch.arange(5)
    best = (torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)) / 2
    floor = loss_floor(batch([(1, 9), (1, 8), (1, 7), (2, 6), (3, 5)]), contrast(CLIP))
    assert floor == pytest.approx(best.item(), rel=1e-6)


def test_two_views_of_copies_have_a_floor_of_their_own() -> None:
    of = replace(contrast(SIMCLR), equal=())
    assert loss_floor(batch([(1,), (1,), (2,)]), of) == pytest.approx(2 / 3 * math.log(3))


def test_copies_that_another_kind_masks_are_no_candidates() -> None:
    of = replace(contrast(CLIP), equal=("text",))
    assert loss_floor(batch([(1, 5), (1, 5), (2, 6)]), of) == pytest.approx(0.0)
    assert loss_floor(batch([(1, 5), (1, 5), (2, 5)]), of) == pytest.approx((2 * math.log(2) + math.log(3)) / 3)


def test_no_floor_where_rows_weigh_differently() -> None:
    assert loss_floor(batch([(1, 9), (1, 8)], weights=[1, 9]), contrast(CLIP)) is None


@pytest.mark.parametrize("change", [{"label_smoothing": 0.1}, {"hardness": 1.0}, {"margin": 0.1}])
def test_no_floor_where_options_change_the_loss(change: dict[str, float]) -> None:
    of = contrast(CLIP)
    assert loss_floor(batch([(1, 9)]), replace(of, rule=replace(of.rule, **change))) is None
    assert loss_floor(batch([(1, 9)]), replace(of, sigmoid=True)) is None


# --- what ends an attempt -----------------------------------------------------------------------------


def stepped(**changes: float) -> Stepped:
    fine = {"loss": 1.0, "accuracy": None, "logit_scale": 10.0, "grad_norm": 1.0}
    return Stepped(**{**fine, **changes}, resident=torch.empty(0), travelling=torch.empty(0))  # type: ignore[arg-type]


REMEDY = r"\. Lower training\.optimizer\.learning_rate, warm up longer, or lower objective\.logit_scale\.max\."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": math.nan}, "the loss of step 4 is nan" + REMEDY),
        ({"grad_norm": math.inf}, "the gradient's norm of step 4 is inf" + REMEDY),
        (
            {"logit_scale": 0.09},
            r"the logit scale of step 4 is 0\.09, less than a hundredth of its first value 10: the loss is least "
            r"when nothing is told apart\. Lower training\.optimizer\.learning_rate, or set "
            r"objective\.logit_scale\.learnable: false\.",
        ),
        ({"logit_scale": math.nan}, "the logit scale of step 4 is nan"),
    ],
)
def test_a_step_that_ends_it(changes: dict[str, float], message: str) -> None:
    with pytest.raises(DivergedError, match=message):
        Watch(10.0, 0).step(4, stepped(**changes), excused=False)


def test_an_overflow_of_fp16_is_excused_but_no_loss_that_is_none() -> None:
    watch = Watch(10.0, 0)
    watch.step(4, stepped(grad_norm=math.inf), excused=True)
    watch.step(5, stepped(), excused=False)
    with pytest.raises(DivergedError, match="loss"):
        watch.step(6, stepped(loss=math.nan, grad_norm=math.nan), excused=True)


def check(cosine: float) -> Health:
    return Health(
        accuracy=0.0,
        alignment=0.0,
        uniformity={},
        effective_rank={},
        mean_cosine={"text": 0.1, "image": cosine},
        clamped=0.0,
        duplicates={"text": 0.5},
        loss_floor=None,
    )


def test_collapse_ends_it_after_a_few_checks() -> None:
    watch = Watch(10.0, warmup_steps=100)
    for step in range(50, 101, 10):
        watch.health(step, check(0.999))  # first weights may look like it
    for step in range(PATIENCE - 1):
        watch.health(110 + step, check(0.999))
    watch.health(120, check(0.9))
    for step in range(PATIENCE - 1):
        watch.health(130 + step, check(0.999))
    with pytest.raises(
        DivergedError,
        match=r"the features of 'image' collapsed: at step 140, for the 3rd check in a row, two different samples have "
        r"a cosine of 0\.9990 on average\. Lower training\.optimizer\.learning_rate or warm up longer, make the batch "
        r"larger, or look at the data: duplicates \{'text': 0\.5\}\.",
    ):
        watch.health(140, check(0.999))
