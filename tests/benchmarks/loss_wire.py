"""How many bytes a rank sends: counted at torch.distributed's operators, whoever calls them.

    with SentBytes() as sent:
        loss(…).backward()
    sent.count                 # bytes
    sent.collectives           # how often which operator was called: {"allreduce": 2, …}

Every collective counts as its ring algorithm sends (Thakur et al. 2005), on N ranks and for a tensor of which a
rank holds s bytes before an all-gather, or keeps s bytes after a reduce-scatter or scatter:

    all-gather, reduce-scatter, scatter (its root alone)    (N - 1)·s
    all-reduce of t bytes                                    2·(N - 1)/N·t
    all-to-all of t bytes, broadcast of t bytes              (N - 1)/N·t
    send of t bytes                                          t

What a backend really sends can differ: gloo's all-reduce of a scalar, for instance, is not a ring.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class SentBytes(TorchDispatchMode):
    """Counts within its `with`. An operator that it doesn't know is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0.0
        self.collectives: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func.overloadpacket.__name__.strip("_")
            sent = _sent(name, args, dist.get_world_size())
            self.count += sent
            self.collectives[name] += 1
        return func(*args, **(kwargs or {}))


def _sent(name: str, args: Any, N: int) -> float:
    first, second = args[0], args[1] if len(args) > 1 else None
    match name:
        case "allgather" | "allgather_base":  # outputs, inputs
            return (N - 1) * _bytes(second)
        case "reduce_scatter" | "reduce_scatter_base":  # outputs, inputs
            return (N - 1) * _bytes(first)
        case "scatter":  # outputs, inputs: none but on the root
            return (N - 1) * _bytes(first) if second else 0
        case "allreduce":
            return 2 * (N - 1) / N * _bytes(first)
        case "broadcast" | "alltoall_base":
            return (N - 1) / N * _bytes(first)
        case "alltoall":
            return (N - 1) / N * _bytes(second)
        case "send":
            return _bytes(first)
        case "recv" | "recv_any_source" | "barrier" | "monitored_barrier":
            return 0
    raise NotImplementedError(f"bytes of {name}")


def _bytes(tensors: Any) -> int:
    """Of a tensor, or of all in a list."""
    return tensors.nbytes if isinstance(tensors, Tensor) else sum(map(_bytes, tensors))
