"""The contestants of `loss.py`: forward and backward pass of a loss over features that are leaves.

In: `Features` of this rank. Out: the loss of this rank; the gradients are in the leaves. Each contestant is used
as in training: every rank calls it on its own rows, and averaging over the ranks gives the global batch's gradient.

Letters: N ranks, m rows a rank, B = N·m, d width, K hard negatives of a query.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.peers import open_clip_losses, sentence_transformers_losses
from workers.losses.infonce import infonce
from workers.losses.rule import QUERY_TO_DOCUMENT
from workers.losses.siglip import siglip

SCALE = 20.0
"""Inverse temperature: sentence-transformers' default."""
BIAS = -10.0
"""Of the sigmoid loss: open_clip's and SigLIP's own first value."""
CACHED_ROWS = 256
"""Rows of a chunk of sentence-transformers' cached loss. Each chunk sends the gradients of all gathered features
again (each chunk's backward pass goes through the gather), so that small chunks cost time and large ones memory."""


@dataclass(frozen=True)
class Features:
    """Of this rank; L2-normalised leaves in fp32."""

    first: Tensor
    """(m, d): images or queries."""
    second: Tensor
    """(m, 1 + K, d): texts, or documents: the positive first."""
    scale: Tensor
    """Scalar, a leaf."""
    bias: Tensor
    """Scalar, a leaf: of the sigmoid loss."""


@dataclass(frozen=True)
class Contestant:
    """One implementation of a case's loss."""

    run: Callable[[Features], Tensor]
    """Forward and backward pass; returns this rank's loss, detached."""
    matrices: float
    """Score matrices in fp32 (a rank's queries × all documents) that live at once at the peak, as measured: whether a
    size fits into the machine is known beforehand by it. 0: the memory is linear in B."""


def random_features(m: int, d: int, K: int, seed: int) -> Features:
    """Features whose pairs agree a little, as in training."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(m, d, generator=generator)
    second = torch.randn(m, 1 + K, d, generator=generator)
    second += 0.3 * first[:, None]
    return Features(
        F.normalize(first, dim=-1).requires_grad_(),
        F.normalize(second, dim=-1).requires_grad_(),
        torch.tensor(SCALE, requires_grad=True),
        torch.tensor(BIAS, requires_grad=True),
    )


def tandem_infonce(features: Features) -> Tensor:
    return _backward(infonce(features.first, features.second[:, 0], features.scale))


def tandem_queries(features: Features) -> Tensor:
    """Documents stay, queries travel."""
    documents = torch.cat([features.second[:, 0], features.second[:, 1:].flatten(0, 1)])
    return _backward(infonce(documents, features.first, features.scale, rule=QUERY_TO_DOCUMENT))


def tandem_siglip(features: Features) -> Tensor:
    return _backward(siglip(features.first, features.second[:, 0], features.scale, features.bias))


def open_clip_infonce(features: Features, *, alone: bool = False) -> Tensor:
    """As trained at scale, `--local-loss --gather-with-grad`; or, `alone`, this rank's rows as the whole batch."""
    loss = open_clip_losses().ClipLoss(local_loss=True, gather_with_grad=True, **_place(alone))
    return _backward(loss(features.first, features.second[:, 0], features.scale))


def open_clip_siglip(features: Features, *, alone: bool = False) -> Tensor:
    """By its default, texts go around the ring in both directions."""
    loss = open_clip_losses().SigLipLoss(**_place(alone))
    return _backward(loss(features.first, features.second[:, 0], features.scale, features.bias))


def _place(alone: bool) -> dict[str, int]:
    return {} if alone else {"rank": dist.get_rank(), "world_size": dist.get_world_size()}


def sentence_transformers_infonce(features: Features, *, alone: bool = False) -> Tensor:
    """Both directions, as in CLIP."""
    return _sentence_transformers(features, ("query_to_doc", "doc_to_query"), "per_direction", alone)


def sentence_transformers_queries(features: Features, *, alone: bool = False) -> Tensor:
    """From queries to documents only, which is its default."""
    return _sentence_transformers(features, ("query_to_doc",), "joint", alone)


def sentence_transformers_cached(features: Features, *, alone: bool = False) -> Tensor:
    """The same in chunks of rows, each with its own backward pass. In training, the chunks are also those of the
    towers."""
    losses = sentence_transformers_losses()
    loss = losses.CachedMultipleNegativesRankingLoss(
        nn.Sequential(nn.Identity()),  # it looks at the model's first module, whatever that is
        scale=SCALE,
        similarity_fct=_dot(),
        mini_batch_size=CACHED_ROWS,
        gather_across_devices=not alone,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    columns = [features.first, *features.second.unbind(1)]
    chunks = [[chunk.requires_grad_() for chunk in column.detach().split(CACHED_ROWS)] for column in columns]
    total: Tensor = loss.calculate_loss(chunks, with_backward=True)
    gradients = [torch.cat([chunk.grad for chunk in of_column]) for of_column in chunks]  # type: ignore[misc]
    features.first.grad, features.second.grad = gradients[0], torch.stack(gradients[1:], dim=1)
    return total.detach()


def _sentence_transformers(features: Features, directions: tuple[str, ...], partition_mode: str, alone: bool) -> Tensor:
    loss = sentence_transformers_losses().MultipleNegativesRankingLoss(
        None,
        scale=SCALE,
        similarity_fct=_dot(),
        gather_across_devices=not alone,
        directions=directions,
        partition_mode=partition_mode,
    )
    columns = [features.first, *features.second.unbind(1)]
    return _backward(loss.compute_loss_from_embeddings(columns, None))


@cache
def _dot() -> Callable[[Tensor, Tensor], Tensor]:
    """Features are normalised already: it need not do it once more."""
    sentence_transformers_losses()
    from sentence_transformers.util import dot_score

    return dot_score  # type: ignore[no-any-return]


def _backward(loss: Tensor) -> Tensor:
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach()


@dataclass(frozen=True)
class Case:
    """One loss, by everyone who has it."""

    K: int
    batches: tuple[int, ...]
    contestants: dict[str, Contestant]


CASES = {
    "image-text": Case(
        K=0,
        batches=(2048, 4096, 8192, 16384, 32768),
        contestants={
            "tandem": Contestant(tandem_infonce, 0),
            "open_clip": Contestant(open_clip_infonce, 5.5),
            "sentence_transformers": Contestant(sentence_transformers_infonce, 6.5),
            "sentence_transformers_cached": Contestant(sentence_transformers_cached, 0),
        },
    ),
    "siglip": Case(
        K=0,
        batches=(2048, 8192, 16384),
        contestants={"tandem": Contestant(tandem_siglip, 0), "open_clip": Contestant(open_clip_siglip, 6)},
    ),
    "hard negatives": Case(
        K=7,
        batches=(2048, 4096),
        contestants={
            "tandem": Contestant(tandem_queries, 0),
            "sentence_transformers": Contestant(sentence_transformers_queries, 5.5),
        },
    ),
}
