"""The collectives of the losses, in one place, and a count of what they carry.

PyTorch 2.13 renames `all_gather_into_tensor` and `reduce_scatter_tensor` and deprecates the old names;
older versions have only these. Without a process group (a single process) they are the identity.

Letters: N ranks, m rows on each, B = N·m rows in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


@dataclass
class Traffic:
    """What this rank received in the collectives of this module, as a ring carries it: (N - 1)/N of the whole for
    a gather or a scatter, twice that for an all-reduce. Nothing with a single rank."""

    calls: int = 0
    received_bytes: int = 0

    def count(self, whole_bytes: int, rounds: int) -> None:
        """Adds one collective over `whole_bytes` in all, that goes round the ring `rounds` times."""
        N = world_size()
        self.calls += 1
        self.received_bytes += rounds * whole_bytes * (N - 1) // N

    def take(self) -> Traffic:
        """What was counted since the last call."""
        taken = Traffic(self.calls, self.received_bytes)
        self.calls = self.received_bytes = 0
        return taken


traffic = Traffic()


def world_size() -> int:
    """N, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This rank, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


class Pending:
    """A collective that is under way."""

    def __init__(self, result: Tensor, work: Any = None, then: Callable[[Tensor], Tensor] | None = None) -> None:
        """then: what is left to do with the result, when it is there."""
        self._result = result
        self._work = work
        self._then = then

    def wait(self) -> Tensor:
        """The result, when it is there."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        if self._then is not None:
            self._result, self._then = self._then(self._result), None
        return self._result


def start_gather(local: Tensor) -> Pending:
    """(m, …) on each rank -> (B, …) on all, in rank order. Without gradient; the caller goes on meanwhile."""
    N = world_size()
    if N == 1:
        return Pending(local.detach())
    gathered = local.new_empty((N * local.shape[0], *local.shape[1:]))
    traffic.count(gathered.nbytes, 1)
    return Pending(gathered, _all_gather(gathered, local.detach().contiguous(), async_op=True))


def start_scatter(partial: Tensor) -> Pending:
    """(B, …) on each rank -> this rank's (m, …) of their sum: the transpose of `start_gather`."""
    N = world_size()
    if N == 1:
        return Pending(partial)
    m, partial = partial.shape[0] // N, partial.contiguous()
    traffic.count(partial.nbytes, 1)
    if dist.get_backend() == "gloo":
        # Its reduce-scatter is an all-reduce of the whole, of which it keeps a part: twice the bytes.
        parts = torch.empty_like(partial)
        work = dist.all_to_all_single(parts, partial, async_op=True)
        return Pending(parts, work, lambda parts: parts.view(N, m, *parts.shape[1:]).sum(0))
    own = partial.new_empty((m, *partial.shape[1:]))
    return Pending(own, _reduce_scatter(own, partial, async_op=True))


def all_gather_rows(local: Tensor) -> Tensor:
    """(m, …) on each rank -> (B, …) on all, in rank order. Without gradient."""
    return start_gather(local).wait()


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Element-wise maximum over the ranks, in place."""
    if world_size() > 1:
        traffic.count(tensor.nbytes, 2)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Element-wise sum over the ranks, in place."""
    if world_size() > 1:
        traffic.count(tensor.nbytes, 2)
        dist.all_reduce(tensor)
    return tensor


def global_mean(local: Tensor) -> Tensor:
    """Mean over the ranks of a scalar. Without gradient."""
    return all_reduce_sum(local.detach().clone()) / world_size()


# --- features on the wire -----------------------------------------------------------------------------


@dataclass(frozen=True)
class GatheringFeatures:
    """Features on their way to all ranks."""

    pending: Pending
    dtype: torch.dtype

    def wait(self) -> Tensor:
        """(B, d), as rounded on the way, in the type that they had."""
        return self.pending.wait().to(self.dtype)


def start_feature_gather(features: Tensor, wire: torch.dtype | None) -> GatheringFeatures:
    """Gathers features (m, d) as `wire` (None: as they are).

    A rank's own rows are rounded as all others are: the loss does not depend on who has which rows.
    """
    features = features.detach()
    return GatheringFeatures(start_gather(features if wire is None else features.to(wire)), features.dtype)


@dataclass(frozen=True)
class ScatteringGradient:
    """The gradient of features, on its way back to the ranks that they came from."""

    pending: Pending
    dtype: torch.dtype
    factor: float

    def wait(self) -> Tensor:
        """(m, d), the sum over the ranks."""
        own = self.pending.wait()
        return own if own.dtype == self.dtype and self.factor == 1 else own.to(self.dtype) / self.factor


def start_gradient_scatter(grad_G: Tensor, wire: torch.dtype | None, typical: float) -> ScatteringGradient:
    """Sums each rank's gradient of the gathered features (B, d), and brings every row to its owner.

    `typical`: the size of a row's gradient, such as s·N/B. Where `wire` has few digits the gradient travels over
    it, so that fp16 neither underflows (below 6e-5 it loses digits) nor overflows.
    """
    if wire is None or wire == grad_G.dtype:
        return ScatteringGradient(start_scatter(grad_G), grad_G.dtype, 1.0)
    # All of the batch's weight on one row, as the only choice of all B queries and a query itself: 2·B times the
    # typical gradient. fp16 ends at 65,504.
    factor = min(1.0, 30_000 / len(grad_G)) / typical
    return ScatteringGradient(start_scatter((grad_G * factor).to(wire)), grad_G.dtype, factor)


def gather_features(features: Tensor, wire: torch.dtype | None = None, typical: float = 1.0) -> Tensor:
    """(m, d) on each rank -> (B, d) on all, rounded to `wire`, with gradient: the sum over the ranks, so that
    averaging gradients over the ranks later gives that of the mean of the ranks' losses."""
    gathered: Tensor = _GatherFeatures.apply(features, wire, typical)  # type: ignore[no-untyped-call]
    return gathered


class _GatherFeatures(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, wire: torch.dtype | None, typical: float) -> Tensor:
        ctx.wire, ctx.typical = wire, typical
        gathered = start_feature_gather(features, wire).wait()
        # With one rank it may be the input itself, which autograd would take for changed in place.
        return gathered.view_as(gathered)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return start_gradient_scatter(grads[0], ctx.wire, ctx.typical).wait(), None, None
