"""A contrastive model of 500 parameters, its batches, and its training on one process by plain torch.

Odd sizes: under ZeRO 1 the ranks' partitions cut through parameters and end in padding. A frozen parameter
and a buffer stand beside the trained ones, as a frozen tower's would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from jobspecs.objective import LogitScale
from jobspecs.training import AdamW, Training
from workers.losses.infonce import infonce
from workers.losses.logit_scale import LogitScaleParameter
from workers.train.engine import Engine, parameter_groups

BATCH, INPUTS = 6, 5


class Tiny(nn.Module):
    """Two towers, the second behind a frozen layer."""

    scaling: Tensor

    def __init__(self, width: int = 7) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first = nn.Sequential(nn.Linear(INPUTS, 11), nn.LayerNorm(11), nn.GELU(), nn.Linear(11, width))
            self.frozen = nn.Linear(INPUTS, 9).requires_grad_(False)
            self.second = nn.Sequential(nn.Linear(9, 13), nn.LayerNorm(13), nn.GELU(), nn.Linear(13, width))
        self.register_buffer("scaling", torch.tensor([1.5]))
        self.logit_scale = LogitScaleParameter(LogitScale(init=10.0))

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        A = self.first(first * self.scaling)
        T = self.second(self.frozen(second))
        return F.normalize(A.float(), dim=-1), F.normalize(T.float(), dim=-1), self.logit_scale()


def training(stage: int, precision: str = "fp32", max_grad_norm: float = 1.0) -> Training:
    fields: dict[str, Any] = {"zero_stage": stage, "precision": precision}
    return Training(
        global_batch=BATCH,
        steps=100,
        optimizer=AdamW(learning_rate=1e-2, weight_decay=0.1),
        max_grad_norm=max_grad_norm,
        **fields,
    )


def batch(step: int) -> tuple[Tensor, Tensor]:
    """The global batch of a step: (BATCH, INPUTS) twice."""
    first, second = torch.randn(2, BATCH, INPUTS, generator=torch.Generator().manual_seed(1000 + step))
    return first, second


def rate(step: int) -> float:
    return 1e-2 / (1 + step)


@dataclass(frozen=True)
class Trace:
    """What a training did: of each step the loss and the gradient's norm, and the state at its end."""

    losses: list[float]
    norms: list[float]
    state: dict[str, Tensor]


def on_engine(engine: Engine, steps: range) -> Trace:
    """Trains this rank's share of each batch."""
    losses, norms = [], []
    m = BATCH // dist.get_world_size()
    rows = slice(dist.get_rank() * m, (dist.get_rank() + 1) * m)
    for step in steps:
        first, second = batch(step)
        A, T, scale = engine(first[rows], second[rows])
        loss = infonce(A, T, scale, torch.ones(m, dtype=torch.bool))
        norms.append(engine.update(loss, rate(step)))
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        losses.append(float(mean) / dist.get_world_size())
    state = {name: value.detach().clone() for name, value in engine.module.state_dict().items()}
    return Trace(losses, norms, state)


def engine(stage: int, precision: str = "fp32", max_grad_norm: float = 1.0, width: int = 7) -> Engine:
    rows = BATCH // dist.get_world_size()
    return Engine(Tiny(width), training(stage, precision, max_grad_norm), rows, torch.device("cpu"))


def plain(steps: range, max_grad_norm: float = 1.0) -> Trace:
    """The whole batch on one process: AdamW, clip_grad_norm_ and a full matrix of similarities."""
    model, spec = Tiny(), training(0).optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(model, spec.weight_decay), lr=1.0, betas=(spec.betas[0], spec.betas[1]), eps=spec.eps
    )
    losses, norms = [], []
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        A, T, scale = model(*batch(step))
        logits, labels = scale * A @ T.T, torch.arange(BATCH)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return Trace(losses, norms, {name: value.detach() for name, value in model.state_dict().items()})
