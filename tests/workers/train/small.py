"""A contrastive model with the interface of the real one, batches as a loader makes them, and their training on one
process in the plainest way: the whole batch at once, a full matrix, loops over rows, torch's AdamW.

Masked rows hold noise: they must not show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from jobspecs.data import Data
from jobspecs.objective import LogitScale
from jobspecs.training import AdamW, Training
from tests.workers.train.tiny import whole_state
from workers.data.order import Layout, lanes_of_rank, rows_per_rank
from workers.data.rows import Rows
from workers.losses.gather import traffic
from workers.losses.logit_scale import SCALARS, LogitScaleParameter
from workers.objectives import Contrast
from workers.train.batch import content_keys, gather_batch
from workers.train.command import Command
from workers.train.engine import Engine
from workers.train.micro_batch import MicroBatch
from workers.train.optimizer import parameter_groups
from workers.train.step import ContrastiveStep, Stepped

CPU = torch.device("cpu")
BATCH, LANES, SIDE, WORDS, LENGTH, NEGATIVES = 12, 4, 3, 9, 4, 2
LAYOUT = Layout(seed=0, global_batch=BATCH, lanes=LANES, window=4, slots=(BATCH,))
RATE = 1e-2


@dataclass(frozen=True)
class Job:
    """What is trained."""

    name: str
    kind: str
    """image_text, two_view or text_text."""
    objective: dict[str, Any] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    weighted: bool = False
    dropout: bool = False

    def data(self) -> Data:
        source = [{"name": "s", "urls": ["x.tar"]}]
        columns: dict[str, Any] = {
            "image_text": {"image": {"size": SIDE}, "text": {"context_length": LENGTH}},
            "two_view": {"image": {"size": SIDE, "views": 2}},
            "text_text": {
                "query": {"context_length": LENGTH},
                "document": {"context_length": LENGTH},
                "negatives": {"count": NEGATIVES},
            },
        }[self.kind]
        if self.weighted:
            columns |= {"weight": {"field": "w"}}
        return Data.model_validate({"sources": source, **columns})


class Small(nn.Module):
    """A tower of images and one of texts, which queries and documents share."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            if job.kind != "text_text":
                self.image = nn.Sequential(nn.Linear(SIDE * SIDE * 3, 11), nn.Tanh(), nn.Linear(11, 5))
            if job.kind != "two_view":
                self.text = nn.Sequential(nn.EmbeddingBag(WORDS, 7), nn.Tanh(), nn.Linear(7, 5))
        for tower in job.frozen:
            self.get_submodule(tower).requires_grad_(False)
        self.job = job
        self.logit_scale = LogitScaleParameter(LogitScale(init=8.0))
        self.bias = nn.Parameter(torch.tensor([-2.0]))
        if job.objective.get("loss", {}).get("kind") != "siglip":
            self.bias.requires_grad_(False)

    def trained(self, side: str) -> bool:
        return ("image" if side == "image" else "text") not in self.job.frozen

    def forward(
        self, side: str, inputs: dict[str, Tensor] | None = None, keys: Tensor | None = None, valid: Any = None
    ) -> Tensor:
        if side == SCALARS:
            return torch.stack([self.logit_scale(), self.bias.squeeze()])
        assert inputs is not None
        if side == "image":
            features = self.image(inputs["pixels"].flatten(1).to(self.bias.dtype) / 255)
        else:
            features = self.text(inputs["tokens"].long())
        if self.job.dropout:
            assert keys is not None
            kept = (keys[:, None] >> torch.arange(5, device=keys.device) * 3) % 4 > 0
            features = features * kept / 0.75
        if side == "query":
            features = features * torch.linspace(0.5, 1.5, 5, device=features.device)
        return F.normalize(features.to(self.bias.dtype), dim=-1)


def global_rows(job: Job, step: int) -> Rows:
    """The global batch of a step, some rows masked, some contents equal."""
    data = job.data()
    rows = Rows.empty(BATCH, data)
    random = np.random.default_rng(step)
    rows.ids[:] = random.integers(1, 2**60, BATCH)
    for name, column in rows.columns.items():
        if name == "image":
            column[:] = random.integers(0, 256, column.shape)
        elif name in ("text", "query", "document", "negatives"):
            column[:] = random.integers(0, WORDS, column.shape)
            column[1] = column[5]
        elif name == "image_key":
            column[:] = random.integers(1, 2**60, BATCH)
            column[2] = column[7]
        elif name == "negatives_valid":
            column[:] = random.random(column.shape) < 0.7
        elif name == "weight":
            column[:] = random.integers(0, 4, BATCH)
    rows.valid[:] = True
    rows.valid[random.choice(BATCH, 2, replace=False)] = False
    if "negatives" in rows.columns:
        rows.columns["negatives"][4, 0] = rows.columns["document"][8]
    return rows


def own_rows(job: Job, step: int) -> Rows:
    """This rank's rows, padded at their end."""
    whole = global_rows(job, step)
    N, rank = dist.get_world_size(), dist.get_rank()
    own = Rows.empty(rows_per_rank(N, LAYOUT), job.data())
    lanes = lanes_of_rank(rank, N, LANES)
    part = slice(lanes.start * LAYOUT.lane_batch, lanes.stop * LAYOUT.lane_batch)
    n = part.stop - part.start
    own.ids[:n], own.valid[:n] = whole.ids[part], whole.valid[part]
    for name, column in whole.columns.items():
        own.columns[name][:n] = column[part]
    return own


def training(stage: int, precision: str = "fp32", micro_batch: Any = None) -> Training:
    fields: dict[str, Any] = {"zero_stage": stage, "precision": precision, "micro_batch": micro_batch}
    return Training(
        global_batch=BATCH,
        steps=100,
        optimizer=AdamW(kind="adamw", learning_rate=RATE, weight_decay=0.1),
        max_grad_norm=1.0,
        **fields,
    )


@dataclass(frozen=True)
class Trace:
    """Of each step the loss, the accuracy, the scale and the gradient's norm; and the parameters at the end."""

    steps: list[tuple[float, float, float, float]]
    state: dict[str, Tensor]
    received_bytes: int = 0
    """For the loss, in one more step without a measurement."""


def on_ranks(
    job: Job,
    contrast: Contrast,
    spec: Training,
    steps: int,
    micro_batch: MicroBatch | None = None,
    device: torch.device = CPU,
) -> Trace:
    """Trains on this rank of a group."""
    rows = rows_per_rank(dist.get_world_size(), LAYOUT)
    engine = Engine(Small(job), spec, rows, device)
    step_ = ContrastiveStep(
        engine, contrast, micro_batch or MicroBatch(spec.micro_batch, rows, device), width=5, seed=0, device=device
    )

    def do(step: int, *, measure: bool) -> Stepped:
        own = own_rows(job, step)
        seen = gather_batch(own, content_keys(own, contrast.kinds), LAYOUT, device, command=Command.GO)
        return step_(own, seen, step, RATE, measure=measure)

    found = [_numbers(do(step, measure=True)) for step in range(steps)]
    whole = whole_state(engine)
    state = {name: whole[name] for name in engine.trained}
    traffic.take()
    do(steps, measure=False)
    return Trace(found, state, traffic.take().received_bytes)


def _numbers(done: Stepped) -> tuple[float, float, float, float]:
    assert done.accuracy is not None
    return done.loss, done.accuracy, done.logit_scale, done.grad_norm


# --- the plainest way ---------------------------------------------------------------------------------


def plain(job: Job, contrast: Contrast, steps: int, seed: int = 0) -> Trace:
    """Trains on one process, in float64."""
    model = Small(job).double()
    spec = training(0).optimizer
    optimizer = torch.optim.AdamW(
        parameter_groups(model, spec.weight_decay), lr=RATE, betas=(spec.betas[0], spec.betas[1]), eps=spec.eps
    )
    found = []
    for step in range(steps):
        loss, accuracy, scale = plain_loss(job, contrast, model, step, seed)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append((float(loss.detach()), accuracy, scale, float(norm)))
    trained = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return Trace(found, trained)


def plain_loss(job: Job, contrast: Contrast, model: Small, step: int, seed: int) -> tuple[Tensor, float, float]:
    """Loss, accuracy and scale of a step, query by query over lists of candidates."""
    from workers.train.keys import draw_keys

    rows = global_rows(job, step)
    n = [i for i in range(BATCH) if rows.valid[i]]
    scale, bias = model(SCALARS)

    def encode(name: str, array: Any, number: int, side: str) -> Tensor:
        keys = torch.from_numpy(draw_keys(rows.ids, side, number, seed, step))
        features: Tensor = model(side, {name: torch.from_numpy(np.ascontiguousarray(array))}, keys)
        return features

    weights = rows.columns["weight"] if job.weighted else np.ones(BATCH)
    W = float(sum(weights[i] for i in n))
    equal = job.objective.get("false_negatives", {}).get("equal", [])

    def same(i: int, j: int) -> bool:
        columns = {"image": "image_key", "text": "text", "query": "query", "document": "document"}
        return any(np.array_equal(rows.columns[columns[kind]][i], rows.columns[columns[kind]][j]) for kind in equal)

    def is_document(i: int, tokens: Any) -> bool:
        return "document" in equal and np.array_equal(tokens, rows.columns["document"][i])

    # Each query: its weight, its positive's cosine, its negatives' cosines.
    queries: list[tuple[float, Tensor, list[Tensor]]] = []
    if job.kind == "image_text":
        images = encode("pixels", rows.columns["image"][:, 0], 0, "image")
        texts = encode("tokens", rows.columns["text"], 0, "text")
        for one, other in ((images, texts), (texts, images)):
            for i in n:
                negatives = [one[i] @ other[j] for j in n if j != i and not same(i, j)]
                queries.append((weights[i] / 2, one[i] @ other[i], negatives))
    elif job.kind == "two_view":
        views = [encode("pixels", rows.columns["image"][:, v], v, "image") for v in (0, 1)]
        for v in (0, 1):
            for i in n:
                negatives = [views[v][i] @ views[u][j] for u in (0, 1) for j in n if j != i and not same(i, j)]
                queries.append((weights[i] / 2, views[v][i] @ views[1 - v][i], negatives))
    else:
        asked = encode("tokens", rows.columns["query"], 0, "query")
        documents = encode("tokens", rows.columns["document"], 0, "document")
        hard = [encode("tokens", rows.columns["negatives"][:, k], k + 1, "document") for k in range(NEGATIVES)]
        for i in n:
            negatives = [asked[i] @ documents[j] for j in n if j != i and not same(i, j)]
            negatives += [
                asked[i] @ hard[k][j]
                for k in range(NEGATIVES)
                for j in n
                if rows.columns["negatives_valid"][j, k]
                and not (
                    "document" in equal and np.array_equal(rows.columns["negatives"][j, k], rows.columns["document"][i])
                )
            ]
            queries.append((weights[i], asked[i] @ documents[i], negatives))
    loss, hits = scale.new_zeros(()), 0.0
    for weight, positive, negatives in queries:
        if contrast.sigmoid:
            # Both directions hold each negative once, at half the weight.
            loss = loss - 2 * weight * F.logsigmoid(scale * positive + bias) / 2
            for negative in negatives:
                loss = loss - weight * F.logsigmoid(-scale * negative - bias)
        else:
            logits = scale * torch.stack([positive, *negatives])
            loss = loss + weight * (torch.logsumexp(logits, 0) - logits[0])
        hits += float(weight) * all(positive > negative + 1e-6 for negative in negatives)
    if contrast.sigmoid:  # counts images alone
        hits = 2 * sum(float(w) * all(p > q + 1e-6 for q in others) for w, p, others in queries[: len(n)])
    return loss / W, hits / W, float(scale.detach())


def relative_change_error(found: Trace, expected: Trace, job: Job) -> float:
    """Distance of the trained states over the length of the way from the first weights."""
    start = {name: p.detach().double() for name, p in Small(job).named_parameters() if p.requires_grad}
    assert found.state.keys() == start.keys()
    way = torch.cat([(expected.state[name] - start[name]).flatten() for name in start])
    off = torch.cat([(expected.state[name] - found.state[name]).flatten() for name in start])
    return float(off.norm() / way.norm()) if math.isfinite(float(off.norm())) else math.inf
