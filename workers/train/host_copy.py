"""This rank's part of a checkpoint, in host memory that every save uses again.

What a rank holds whole and the others too is written by one of them, whole; what ZeRO has cut is written as it lies,
by the rank that holds it: `<name>[start:stop]`, elements of the flattened tensor. So a save sends nothing between
ranks, and costs training one copy to host memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from workers.train.engine import Kind
from workers.train.partition import Held
from workers.train.tensor_file import Entry, TensorFile, cut

FILE_BYTES = 512 << 20
"""Size of a file, about: what a rank reads at a time when it loads, and the unit of a retry."""


class HostCopy:
    """Buffers for one rank's files. Making one takes as long as touching its memory."""

    def __init__(self, state: Mapping[Kind, Sequence[Held]], rank: int, world_size: int) -> None:
        """state: as the ranks' engines hold it. Only its layout counts: it may be set meanwhile."""
        self._names: dict[str, str] = {}
        self.files: dict[str, TensorFile] = {}
        """By `<kind>-<number>`."""
        for kind, held in state.items():
            pinned = any(one.values.is_cuda for one in held)
            own = list(_own(held, rank, world_size))
            entries = [_entry(one) for one in own]
            self._names |= {one.name: entry.name for one, entry in zip(own, entries, strict=True)}
            for number, part in enumerate(cut(entries, FILE_BYTES)):
                self.files[f"{kind}-{number:03d}"] = TensorFile(part, pinned=pinned)
        self._tensors = {name: tensor for file in self.files.values() for name, tensor in file.tensors.items()}

    def take(self, state: Mapping[Kind, Iterable[Held]]) -> None:
        """Copies the state as it is now. When this returns, the original may change."""
        on_cuda = False
        for one in (one for held in state.values() for one in held if one.name in self._names):
            self._tensors[self._names[one.name]].copy_(one.values, non_blocking=True)
            on_cuda |= one.values.is_cuda
        if on_cuda:
            torch.cuda.current_stream().synchronize()


def _own(held: Sequence[Held], rank: int, world_size: int) -> Iterator[Held]:
    """What this rank writes."""
    owner = owners({one.name: one.values.nbytes for one in held if one.everywhere}, world_size)
    yield from (one for one in held if owner.get(one.name, rank) == rank and (one.everywhere or one.values.numel()))


def owners(sizes: Mapping[str, int], world_size: int) -> dict[str, int]:
    """Which rank writes which tensor: the largest first, each to the rank with least so far."""
    load = [0] * world_size
    owner = {}
    for size, name in sorted(((size, name) for name, size in sizes.items()), reverse=True):
        owner[name] = load.index(min(load))
        load[owner[name]] += size
    return owner


def _entry(held: Held) -> Entry:
    n = held.values.numel()
    if n == held.shape.numel():
        return Entry(held.name, held.values.dtype, tuple(held.shape))
    return Entry(f"{held.name}[{held.start}:{held.start + n}]", held.values.dtype, (n,))
