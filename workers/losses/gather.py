"""The collectives of the losses, in one place.

PyTorch 2.13 renames `all_gather_into_tensor` and `reduce_scatter_tensor` and deprecates the old names;
older versions have only these. Without a process group (a single process) they are the identity.

Letters: N ranks, m rows on each, B = N·m rows in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from torch import Tensor

_all_gather: Callable[..., Any] = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter: Callable[..., Any] = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def world_size() -> int:
    """N, 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This rank, 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def all_gather_rows(local: Tensor) -> Tensor:
    """(m, …) on each rank -> (B, …) on all, in rank order. Without gradient."""
    N = world_size()
    if N == 1:
        return local.detach()
    gathered = local.new_empty((N * local.shape[0], *local.shape[1:]))
    _all_gather(gathered, local.detach().contiguous())
    return gathered


def reduce_scatter_rows(partial: Tensor) -> Tensor:
    """(B, …) on each rank -> this rank's (m, …) of their sum: the transpose of `all_gather_rows`."""
    N = world_size()
    if N == 1:
        return partial
    own = partial.new_empty((partial.shape[0] // N, *partial.shape[1:]))
    _reduce_scatter(own, partial.contiguous())
    return own


def all_reduce_max(tensor: Tensor) -> Tensor:
    """Element-wise maximum over the ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Element-wise sum over the ranks, in place."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def global_mean(local: Tensor) -> Tensor:
    """Mean over the ranks of a scalar. Without gradient."""
    return all_reduce_sum(local.detach().clone()) / world_size()
