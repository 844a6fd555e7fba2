"""A contrastive model of 600 parameters, its batches, and its training on one process by plain torch.

Odd sizes: under ZeRO the ranks' partitions cut through parameters and end in padding. A frozen parameter and a
buffer stand beside the trained ones, as a frozen tower's would; one layer is used in every other step only.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from jobspecs.objective import LogitScale
from jobspecs.training import AdamW, Optimizer, Training
from workers.losses.infonce import infonce
from workers.losses.logit_scale import LogitScaleParameter
from workers.train.engine import Engine
from workers.train.optimizer import parameter_groups

BATCH, INPUTS = 12, 5


class Tiny(nn.Module):
    """Two towers, the second behind a frozen layer; or one tower for both sides."""

    scaling: Tensor

    def __init__(self, width: int = 7, shared: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first = nn.Sequential(nn.Linear(INPUTS, 11), nn.LayerNorm(11), nn.GELU(), nn.Linear(11, width))
            self.frozen = nn.Linear(INPUTS, 9).requires_grad_(False)
            self.second = nn.Sequential(nn.Linear(9, 13), nn.LayerNorm(13), nn.GELU(), nn.Linear(13, width))
            self.sometimes = nn.Linear(INPUTS, INPUTS)
            if shared:
                self.frozen = nn.Linear(INPUTS, INPUTS).requires_grad_(False)
                self.second = self.first
        self.register_buffer("scaling", torch.tensor([1.5]))
        self.logit_scale = LogitScaleParameter(LogitScale(init=10.0))

    def forward(self, side: str, inputs: Tensor, *, more: bool = False) -> Tensor:
        """(n, width), L2-normalised."""
        if more:
            inputs = inputs + self.sometimes(inputs)
        features = self.first(inputs * self.scaling) if side == "first" else self.second(self.frozen(inputs))
        return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)


def training(
    stage: int, precision: str = "fp32", max_grad_norm: float = 1.0, optimizer: Optimizer | None = None
) -> Training:
    fields: dict[str, Any] = {"zero_stage": stage, "precision": precision}
    return Training(
        global_batch=BATCH,
        steps=100,
        optimizer=optimizer or AdamW(kind="adamw", learning_rate=1e-2, weight_decay=0.1),
        max_grad_norm=max_grad_norm,
        **fields,
    )


def batch(step: int) -> dict[str, Tensor]:
    """The global batch of a step, by side: (BATCH, INPUTS)."""
    first, second = torch.randn(2, BATCH, INPUTS, generator=torch.Generator().manual_seed(1000 + step))
    return {"first": first, "second": second}


def rate(step: int) -> float:
    return 1e-2 / (1 + step)


def uses_more(side: str, step: int) -> bool:
    """Whether the layer for some steps is used."""
    return side == "first" and step % 2 == 0


@dataclass(frozen=True)
class Trace:
    """What a training did: of each step the loss and the gradient's norm, and the state at its end."""

    losses: list[float]
    norms: list[float]
    state: dict[str, Tensor]


def direct(engine: Engine, step: int) -> Tensor:
    """One backward pass over this rank's rows. Returns their loss."""
    A, T = (engine(side, rows, more=uses_more(side, step)) for side, rows in own_rows(step).items())
    loss = infonce(A, T, engine.module.logit_scale(), torch.ones(len(A), dtype=torch.bool))
    engine.backward(loss)
    return loss.detach()


def cached(engine: Engine, step: int) -> Tensor:
    """As `direct`, in micro-batches of 2, 3 and 1 rows, every other of which keeps its graph."""
    m = BATCH // dist.get_world_size()
    ends = itertools.accumulate(itertools.cycle((2, 3, 1)), initial=0)
    cuts = [slice(a, min(b, m)) for a, b in itertools.pairwise(itertools.takewhile(lambda n: n < m + 3, ends)) if a < m]
    kept: dict[tuple[str, int], Tensor] = {}
    features: dict[str, Tensor] = {}
    for side, rows in own_rows(step).items():
        parts = []
        for number, cut in enumerate(cuts):
            with torch.set_grad_enabled(number % 2 == 1):
                parts.append(engine(side, rows[cut], more=uses_more(side, step)))
            if number % 2 == 1:
                kept[side, number] = parts[-1]
        features[side] = torch.cat(parts).detach().requires_grad_()
    scale = engine.module.logit_scale().detach().requires_grad_()
    loss = infonce(features["first"], features["second"], scale, torch.ones(m, dtype=torch.bool))
    loss.backward()
    for side, rows in own_rows(step).items():
        gradient = features[side].grad
        assert gradient is not None
        for number, cut in enumerate(cuts):
            again = kept.pop((side, number), None)
            part = engine(side, rows[cut], more=uses_more(side, step)) if again is None else again
            surrogate = (part * gradient[cut]).sum()
            if side == "second" and number == 0:
                assert scale.grad is not None
                surrogate = surrogate + engine.module.logit_scale() * scale.grad
            engine.backward(surrogate)
    return loss.detach()


def own_rows(step: int) -> dict[str, Tensor]:
    """This rank's rows of the batch, by side."""
    m = BATCH // dist.get_world_size()
    rows = slice(dist.get_rank() * m, (dist.get_rank() + 1) * m)
    return {side: whole[rows] for side, whole in batch(step).items()}


def on_engine(engine: Engine, steps: range, way: Any = direct) -> Trace:
    """Trains this rank's share of each batch, one `way` (`direct`, `cached`) or the other."""
    losses, norms = [], []
    for step in steps:
        with engine.accumulation():
            loss = way(engine, step)
        norms.append(engine.step(rate(step)))
        dist.all_reduce(loss)
        losses.append(float(loss) / dist.get_world_size())
    return Trace(losses, norms, whole_model(engine))


def whole_state(engine: Engine) -> dict[str, Tensor]:
    """Parameters, buffers and moments (`exp_avg.<name>`), whole on each rank, by name."""
    own = [(one.name, one.shape, one.start, one.values.clone()) for held in engine.held().values() for one in held]
    of_ranks: list[list[Any]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(of_ranks, own)
    whole: dict[str, Tensor] = {}
    for name, shape, start, values in itertools.chain(*of_ranks):
        flat = whole.setdefault(name, torch.full(shape, torch.nan, dtype=values.dtype)).view(-1)
        flat[start : start + len(values)] = values
    return whole


def whole_model(engine: Engine) -> dict[str, Tensor]:
    """All parameters and buffers, by name."""
    state = whole_state(engine)
    return {name: state[name] for name in engine.shapes}


SPLIT_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0, "sub_group_size": 100}}
"""Configuration under which stage 3 keeps no parameter whole, as it does small ones, and makes several groups."""


def engine(
    stage: int,
    precision: str = "fp32",
    max_grad_norm: float = 1.0,
    width: int = 7,
    shared: bool = False,
    optimizer: Optimizer | None = None,
    section: dict[str, Any] = SPLIT_ALL,
) -> Engine:
    rows = BATCH // dist.get_world_size()
    spec = training(stage, precision, max_grad_norm, optimizer)
    return Engine(Tiny(width, shared), spec, rows, torch.device("cpu"), section)


def plain_gradients(steps: range, model: Tiny, dtype: torch.dtype = torch.float32) -> Iterator[tuple[int, float]]:
    """Of each step the whole batch's loss, on one process: a full matrix of similarities. Gradients lie on `model`
    when it yields; parameters that were not used have zeros."""
    for step in steps:
        A, T = (model(side, rows.to(dtype), more=uses_more(side, step)) for side, rows in batch(step).items())
        logits, labels = model.logit_scale() * A @ T.T, torch.arange(BATCH)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        model.zero_grad()
        loss.backward()
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        yield step, float(loss.detach())


def plain(steps: range, max_grad_norm: float = 1.0, shared: bool = False) -> Trace:
    """AdamW and clip_grad_norm_ on one process."""
    model, spec = Tiny(shared=shared), training(0).optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(model, spec.weight_decay), lr=1.0, betas=(spec.betas[0], spec.betas[1]), eps=spec.eps
    )
    losses, norms = [], []
    for step, loss in plain_gradients(steps, model):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)))
        optimizer.step()
        losses.append(loss)
    return Trace(losses, norms, {name: value.detach() for name, value in model.state_dict().items()})
