"""One optimizer step over a global batch of any size: encode, gather, contrast, backpropagate, update.

A rank encodes its share in micro-batches. The loss is taken once, over the features of the whole batch: it does not
know micro-batches. Then each micro-batch is backpropagated from the gradient of its features (GradCache, Gao et al.
2021). The last few keep their graph from the first pass; the others are encoded again, and so cost a second forward
pass: with the same random draws, as those depend on the samples alone. With one micro-batch a side, this is the
ordinary step.

    encode travelling side -> gather starts   |  encode resident side  |  loss, gradient of all features
    gradient of G -> scatter starts           |  backpropagate resident side, then travelling side  |  reduce, update

The ranks' gradients are averaged once a step; those of the scale and the bias enter once, beside the towers'.

Letters: m rows a rank, d width, A resident and G travelling features, C travelling rows of all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.data.rows import Rows
from workers.losses.contrast import contrast as info_nce
from workers.losses.gather import global_mean, start_feature_gather, start_gradient_scatter, world_size
from workers.losses.infonce import typical_gradient
from workers.losses.logit_scale import SCALARS
from workers.losses.matryoshka import over_prefixes
from workers.losses.memory import loss_bytes
from workers.losses.pairs import Pairs
from workers.losses.siglip import sigmoid_contrast
from workers.losses.tiles import product_type
from workers.objectives import Contrast
from workers.train.batch import GlobalBatch
from workers.train.engine import Engine
from workers.train.micro_batch import MicroBatch
from workers.train.pulse import pulse
from workers.train.sides import Inputs, Side, pairs_of, resident_rows, sides_of

WIRE = {"fp32": None, "fp16": torch.float16, "bf16": torch.bfloat16}
"""Types of features on the wire; None leaves them as they are."""


@dataclass(frozen=True)
class Stepped:
    """What a step did."""

    loss: float
    """Of the global batch."""
    accuracy: float | None
    """Share of queries whose positive beat all negatives; None where it was not measured."""
    logit_scale: float
    grad_norm: float
    """Global L2 norm before clipping."""
    resident: Tensor
    """(m, k, d): the features that stayed, detached."""
    travelling: Tensor
    """(m, k, d): this rank's features that travelled, detached."""


@dataclass(frozen=True)
class _Encoded:
    """A micro-batch and its features, with their graph where it was kept."""

    inputs: Inputs
    features: Tensor
    """(n, d)."""


@dataclass(frozen=True)
class _Accumulated:
    """What is known of a step when its gradients are there."""

    loss: Tensor
    """Scalar: this rank's part."""
    hits: Tensor
    """Scalar: this rank's part."""
    scale: Tensor
    features: dict[str, Tensor]
    """(m, k, d) of each side."""


class _OutOfMemoryError(Exception):
    """A rank ran out of memory while the setting is still being tried: all start the step again."""


class ContrastiveStep:
    """Does steps with an engine. All ranks call it together."""

    def __init__(
        self,
        engine: Engine,
        contrast: Contrast,
        micro_batch: MicroBatch,
        *,
        width: int,
        seed: int,
        device: torch.device,
    ) -> None:
        """width: d."""
        self._engine = engine
        self._contrast = contrast
        self._micro_batch = micro_batch
        self._width = width
        self._seed = seed
        self._device = device

    def __call__(self, rows: Rows, seen: GlobalBatch, step: int, learning_rate: float, *, measure: bool) -> Stepped:
        """Step number `step`, from 0. Raises torch.OutOfMemoryError: no setting fits, or one that did does no more."""
        sides = sides_of(rows, self._contrast, self._seed, step)
        pairs = pairs_of(rows, seen, self._contrast).to(self._device)
        while (done := self._try(sides, pairs, measure=measure)) is None:
            # Behind the except: a failed try's activations are free only when its exception is gone.
            self._engine.discard()
            if not self._micro_batch.shrink():
                raise torch.OutOfMemoryError(
                    f"no memory for a step with {self._micro_batch.rows} of a rank's rows at a time. Use more workers, "
                    "training.gradient_checkpointing, or smaller towers."
                )
        self._micro_batch.succeeded()
        grad_norm = self._engine.step(learning_rate)
        return Stepped(
            loss=float(global_mean(done.loss)),
            accuracy=float(global_mean(done.hits)) if measure else None,
            logit_scale=float(done.scale),
            grad_norm=grad_norm,
            travelling=done.features[self._contrast.travelling],
            resident=done.features[self._contrast.resident],
        )

    def _try(self, sides: dict[str, Side], pairs: Pairs, *, measure: bool) -> _Accumulated | None:
        """`_accumulate`, or None where a rank ran out of memory with a setting that is still being tried."""
        try:
            return self._accumulate(sides, pairs, measure=measure)
        except _OutOfMemoryError:
            return None

    def _accumulate(self, sides: dict[str, Side], pairs: Pairs, *, measure: bool) -> _Accumulated:
        """Leaves the gradients of a step, averaged over the ranks, in the engine."""
        contrast, micro_batch = self._contrast, self._micro_batch
        names = list(dict.fromkeys((contrast.travelling, contrast.resident)))
        batches: dict[str, list[Inputs]] = {}
        for name in names:
            batches[name] = list(sides[name].split(micro_batch.rows, self._device))
        trained = [batch for name in names if name in contrast.trained for batch in batches[name]]
        kept = set(map(id, trained if micro_batch.whole else trained[-micro_batch.kept :]))
        encoded: dict[str, list[_Encoded]] = {}
        features: dict[str, Tensor] = {}
        gathering = None
        with self._agreement():
            reserved = self._reserve(sides) if micro_batch.trying else None
            for name in names:
                encoded[name] = [self._encode(batch, keep=id(batch) in kept) for batch in batches[name]]
                joined = torch.cat([one.features.detach() for one in encoded[name]])
                features[name] = joined.view(*sides[name].keys.shape, -1)
                if gathering is None and not micro_batch.trying:
                    gathering = start_feature_gather(features[name].flatten(0, 1), WIRE[contrast.wire])
        del reserved
        if gathering is None:  # while it is tried, all agree first that none is out of memory
            gathering = start_feature_gather(features[contrast.travelling].flatten(0, 1), WIRE[contrast.wire])

        pulse.phase("gather")
        G = gathering.wait()
        resident = features[contrast.resident]
        if contrast.symmetric:  # as the other ranks see them
            resident = G[pairs.own].view_as(resident)
        resident = resident.clone().requires_grad_(contrast.resident in contrast.trained)
        G.requires_grad_(contrast.travelling in contrast.trained and not contrast.symmetric)
        of_model = self._engine(SCALARS)
        scalars = of_model.detach().clone().requires_grad_(of_model.requires_grad)
        scale, bias = scalars[0], scalars[1] if len(scalars) > 1 else None
        loss, hits = _loss(contrast, resident_rows(resident, contrast), G, scale, bias, pairs, measure=measure)
        loss.backward()  # type: ignore[no-untyped-call]

        scattering = None
        if G.grad is not None:
            scattering = start_gradient_scatter(G.grad, WIRE[contrast.wire], typical_gradient(scale, pairs))
        with self._engine.accumulation(), self._agreement():
            if scalars.grad is not None:
                self._engine.backward((of_model * scalars.grad).sum())
            if resident.grad is not None:
                self._backpropagate(encoded.pop(contrast.resident), resident.grad)
            if scattering is not None:
                pulse.phase("gather")
                grad = scattering.wait().view_as(features[contrast.travelling])
                self._backpropagate(encoded.pop(contrast.travelling), grad)
            pulse.phase("update")  # from here on the ranks' gradients meet
        return _Accumulated(loss.detach(), hits, scale.detach(), features)

    def _reserve(self, sides: dict[str, Side]) -> Tensor:
        """As much memory as the loss takes, so that it does not run out where no rank could tell the others."""
        contrast = self._contrast
        nbytes = loss_bytes(
            sides[contrast.resident].keys.size,
            world_size() * sides[contrast.travelling].keys.size,
            self._width,
            contrast.rule,
            contrast.prefixes,
            self._device,
            sigmoid=contrast.sigmoid,
        )
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def _encode(self, inputs: Inputs, *, keep: bool) -> _Encoded:
        """Encodes a micro-batch, the same way each time; `keep`s its graph."""
        pulse.phase("forward")
        with torch.set_grad_enabled(keep), self._micro_batch.measured() if keep else nullcontext():
            return _Encoded(inputs, self._engine(inputs.side, inputs.tensors, inputs.keys, inputs.valid))

    def _backpropagate(self, encoded: list[_Encoded], grad: Tensor) -> None:
        """Adds up the parameters' gradients, given those of the features, (m, k, d). The last micro-batch goes first:
        if any has its graph, it has."""
        while encoded:
            one = encoded.pop()
            if not one.features.requires_grad:
                one = self._encode(one.inputs, keep=True)
            start = one.inputs.start
            own = grad[start : start + self._micro_batch.rows].flatten(0, 1)
            pulse.phase("backward")
            # The gradient of this with respect to the features is `own`; an engine takes one number.
            self._engine.backward((one.features * own).sum())

    @contextmanager
    def _agreement(self) -> Iterator[None]:
        """While a setting is tried: where one rank runs out of memory, all raise _OutOfMemoryError."""
        if not self._micro_batch.trying:
            yield
            return
        failed = False
        try:
            yield
        except torch.OutOfMemoryError:
            # Not kept: its traceback holds the frames with all that they had allocated.
            failed = True
        if self._micro_batch.agree(failed):
            raise _OutOfMemoryError


def _loss(
    contrast: Contrast, A: Tensor, G: Tensor, scale: Tensor, bias: Tensor | None, pairs: Pairs, *, measure: bool
) -> tuple[Tensor, Tensor]:
    """This rank's part of the loss, and of the accuracy; see `losses.contrast`. A: (R, d), G: (C, d)."""
    products = product_type(A.device, WIRE[contrast.wire])

    def between(A: Tensor, G: Tensor, measure: bool) -> tuple[Tensor, Tensor]:
        if contrast.sigmoid:
            assert bias is not None
            margin = contrast.rule.margin
            return sigmoid_contrast(A, G, scale, bias, pairs, margin, measure=measure, products=products)
        return info_nce(A, G, scale, pairs, contrast.rule, measure=measure, products=products)

    return over_prefixes(between, A, G, contrast.prefixes, measure=measure)
