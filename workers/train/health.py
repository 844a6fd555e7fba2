"""Figures that tell whether a contrastive training is well, taken every `training.health_every` steps.

They come out of the features that the step had anyway, of a sample of SAMPLE rows (the first valid ones of the global
batch, in slot order: the same on any number of ranks) and of counts over all rows; two small all-reduces.

Letters: m rows of this rank, k inputs of a row on a side, n valid rows of the global batch, d width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jobspecs.errors import TandemError
from workers.losses.gather import all_reduce_sum, rank
from workers.objectives import Contrast
from workers.sphere import effective_rank, uniformity
from workers.train.batch import GlobalBatch
from workers.train.step import Stepped

SAMPLE = 256
"""Rows that spectra and distances are taken of: 10 ms on one core at width 512."""
COLLAPSED_COSINE = 0.99
"""Mean cosine of two different rows beyond which a side's features say nothing any more; transformers with their first
weights come close to it, so it counts after the warm-up, and PATIENCE times in a row."""
PATIENCE = 3
SMALLEST_SCALE = 0.01
"""Logit scale, as a share of its first value, below which it is on its way to 0."""


class DivergedError(TandemError):
    """The training came to nothing: no finite loss, collapsed features, or a logit scale that falls to
    nothing (above its bound it has no gradient that leads on)."""


@dataclass(frozen=True)
class Health:
    """One check. The JSON of `health` in the metrics."""

    accuracy: float
    """Share of queries whose positive beats all candidates of the global batch."""
    alignment: float
    """Mean squared distance of positives (Wang and Isola 2020, eq. 2 with α = 2); 0 … 4, less is better."""
    uniformity: dict[str, float]
    """log mean exp(-2·squared distance) of different rows (eq. 3 with t = 2), by side; about -4 … 0, less is better."""
    effective_rank: dict[str, float]
    """exp of the entropy of the singular values (Roy and Vetterli 2007), by side; 1 … min(SAMPLE, d)."""
    mean_cosine: dict[str, float]
    """Of different rows, by side; 1 when all features are equal."""
    clamped: float
    """Share of inputs whose features had length 0, and could not be normalised."""
    duplicates: dict[str, float]
    """Share of rows whose content stands in an earlier row of the batch too, by column."""
    loss_floor: float | None
    """What the loss can't fall below given the duplicates (not for every option of the loss)."""


def measure_health(stepped: Stepped, seen: GlobalBatch, contrast: Contrast) -> Health:
    """Health of the model before the update of a step that measured its accuracy. Collective."""
    assert stepped.accuracy is not None
    sides = dict.fromkeys((contrast.travelling, contrast.resident))
    of = {contrast.travelling: stepped.travelling, contrast.resident: stepped.resident}
    m = len(stepped.travelling)
    valid = torch.from_numpy(seen.valid[rank() * m : (rank() + 1) * m]).to(stepped.travelling.device)
    sample = {name: _sample(of[name][:, 0], seen.valid) for name in sides}

    one = stepped.travelling[:, 0]
    other = stepped.resident[:, 1 if contrast.symmetric else 0]
    distances = (one - other).square().sum(1)[valid]
    # Not of masked rows, whose features may be anything.
    zero = sum((of[name][valid].norm(dim=-1) < 0.5).sum() for name in sides)
    inputs = sum(of[name][valid][..., 0].numel() for name in sides)
    sums = torch.stack(
        [distances.sum(), distances.new_tensor(len(distances)), zero + 0.0, distances.new_tensor(inputs)]
    )
    total, count, clamped, all_inputs = all_reduce_sum(sums.double()).tolist()

    spectra = {name: effective_rank(rows) for name, rows in sample.items()}
    cosines = {name: _off_diagonal(rows @ rows.T) for name, rows in sample.items()}
    return Health(
        accuracy=stepped.accuracy,
        alignment=total / max(1, count),
        uniformity={name: uniformity(cosine) for name, cosine in cosines.items()},
        effective_rank=spectra,
        mean_cosine={name: float(cosine.mean()) if len(cosine) else 0.0 for name, cosine in cosines.items()},
        clamped=clamped / max(1, all_inputs),
        duplicates={
            kind: _share_of_repeats(seen.keys[seen.valid, number]) for number, kind in enumerate(contrast.kinds)
        },
        loss_floor=loss_floor(seen, contrast),
    )


def loss_floor(seen: GlobalBatch, contrast: Contrast) -> float | None:
    """The least that InfoNCE can be on this batch, however good the towers; None where options change its scale.

    A query whose positive stands k times among the candidates can't tell which one is meant: its loss is ln k at
    least, and so is the mean loss of k equal queries. Two views of k copies of an image: ln(2k - 1), in expectation.
    Copies that are no negatives of each other cost nothing. None also where rows weigh differently.
    """
    if contrast.sigmoid or contrast.prefixes or contrast.rule.counts or contrast.rule.margin is not None:
        return None
    keys, weights = seen.keys[seen.valid], seen.weights[seen.valid]
    if len(np.unique(weights)) > 1:
        return None
    masked = [number for number, kind in enumerate(contrast.kinds) if kind in contrast.equal]
    floors = [0.0]
    for number, kind in enumerate(contrast.kinds):
        if kind not in contrast.equal and len(keys):
            # Copies that are masked by another kind are no candidates.
            copies = _copies(keys[:, [number]]) - (_copies(keys[:, [number, *masked]]) - 1 if masked else 0)
            floors.append(float(np.log(2 * copies - 1 if contrast.symmetric else copies).mean()))
    return max(floors)


def _copies(keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, H) -> (n,): how many rows are equal to each, itself included."""
    _, row, count = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    copies: NDArray[np.int64] = count[row.reshape(-1)]
    return copies


class Watch:
    """Ends an attempt whose training came to nothing. The last checkpoint, from before, stays."""

    def __init__(self, first_scale: float, warmup_steps: int) -> None:
        self._first_scale = first_scale
        self._warmup_steps = warmup_steps
        self._collapsed = 0

    def step(self, step: int, done: Stepped, *, excused: bool) -> None:
        """Looks at step `step`, which is the same on all ranks; `excused` where fp16's loss scale is to blame for a
        gradient that is not finite. Raises DivergedError."""
        logit_scale = done.logit_scale
        for value, what, ends_it in ((done.loss, "loss", True), (done.grad_norm, "gradient's norm", not excused)):
            if ends_it and not math.isfinite(value):
                raise DivergedError(
                    f"the {what} of step {step} is {value}. Lower training.optimizer.learning_rate, "
                    "warm up longer, or lower objective.logit_scale.max."
                )
        if not logit_scale > SMALLEST_SCALE * self._first_scale:
            raise DivergedError(
                f"the logit scale of step {step} is {logit_scale:g}, less than a hundredth of its first value "
                f"{self._first_scale:g}: the loss is least when nothing is told apart. Lower "
                "training.optimizer.learning_rate, or set objective.logit_scale.learnable: false."
            )

    def health(self, step: int, health: Health) -> None:
        """Looks at a check, the same on all ranks. Raises DivergedError."""
        worst = max(health.mean_cosine, key=lambda side: health.mean_cosine[side])
        collapsed = step > self._warmup_steps and health.mean_cosine[worst] > COLLAPSED_COSINE
        self._collapsed = self._collapsed + 1 if collapsed else 0
        if self._collapsed == PATIENCE:
            raise DivergedError(
                f"the features of {worst!r} collapsed: at step {step}, for the {PATIENCE}rd check in a row, two "
                f"different samples have a cosine of {health.mean_cosine[worst]:.4f} on average. Lower "
                "training.optimizer.learning_rate or warm up longer, make the batch larger, or look at the data: "
                f"duplicates {health.duplicates}."
            )


def _sample(features: Tensor, valid: NDArray[np.bool_]) -> Tensor:
    """The first SAMPLE valid rows of the global batch, on all ranks; features: (m, d) of this rank."""
    m = len(features)
    chosen = np.flatnonzero(valid)[:SAMPLE]
    own = (chosen >= rank() * m) & (chosen < (rank() + 1) * m)
    sample = features.new_zeros(len(chosen), features.shape[1])
    places = torch.from_numpy(np.flatnonzero(own)).to(features.device)
    rows = torch.from_numpy(chosen[own] - rank() * m).to(features.device)
    sample[places] = features[rows]
    return all_reduce_sum(sample).double()


def _off_diagonal(matrix: Tensor) -> Tensor:
    return matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]


def _share_of_repeats(keys: NDArray[np.int64]) -> float:
    return 1 - len(np.unique(keys)) / len(keys) if len(keys) else 0.0
