"""Where the parameters lie in the flat tensors that DeepSpeed's ZeRO gives the optimizer.

    stage 0     each parameter is a tensor of its own
    stage 1, 2  a group's parameters, one after the other and padded at the end, are cut into a piece a rank:
                the cuts go through parameters, and a rank may hold nothing of one
    stage 3     each parameter is padded and cut into a piece a rank; a rank's pieces of a group lie one after the
                other. The padding is not initialised: its values may be anything

DeepSpeed's `safe_get_full_*` and `safe_set_full_*` know these layouts too, but the latter fail at stage 3 where a
parameter's size is no multiple of the number of ranks, and set no copy but the optimizer's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from workers.train.lamb import Layout, Piece


@dataclass(frozen=True)
class Fragment:
    """This rank's part of a parameter, in a flat tensor of the optimizer."""

    flat: Tensor
    start: int
    """First element in `flat`."""
    parameter_start: int
    """First element in the parameter."""
    numel: int


@dataclass(frozen=True)
class Held:
    """What this rank holds of one tensor of the state: a view, through which it can be read and set."""

    name: str
    """That of a parameter or buffer in the model; `exp_avg.<name>` of a moment."""
    shape: torch.Size
    """Of the whole."""
    start: int
    """First element, of the flattened whole."""
    values: Tensor
    """(n,): at stage 3 there may be none."""
    everywhere: bool
    """Whether every rank holds the whole."""


class Partition:
    """The fragments of a model under one engine of DeepSpeed."""

    def __init__(self, engine: Any, stage: int, optimizer: torch.optim.Optimizer) -> None:
        self.layouts: dict[Tensor, Layout] = {}
        """Of each flat tensor; of none at stage 0, where parameters are whole."""
        self.tensors: list[Tensor] = []
        """All tensors of the optimizer on this rank."""
        self._sharded = stage > 0
        self._fragments: dict[nn.Parameter, Fragment] = {}
        if stage == 0:
            self.tensors = [p for group in optimizer.param_groups for p in group["params"]]
            self._fragments = {p: Fragment(p, 0, 0, p.numel()) for p in self.tensors if isinstance(p, nn.Parameter)}
            return
        zero = engine.optimizer
        flats = zero.fp32_partitioned_groups_flat if stage == 3 else zero.single_partition_of_fp32_groups
        groups = zero.fp16_groups if stage == 3 else zero.bit16_groups
        for flat, group in zip(flats, groups, strict=True):
            fragments = [_stage3(zero, flat, p) if stage == 3 else _stage12(flat, p) for p in group]
            self._fragments |= {p: found for p, found in zip(group, fragments, strict=True) if found is not None}
            pieces = (Piece(number, found.start, found.numel) for number, found in enumerate(fragments) if found)
            self.layouts[flat] = Layout(len(group), tuple(pieces))
            self.tensors.append(flat)

    def held(
        self, parameter: nn.Parameter, name: str, shape: torch.Size, values: Mapping[Tensor, Tensor]
    ) -> Held | None:
        """What `values`, by tensor of the optimizer and of its shape, hold here for `parameter`, whole of `shape`,
        under `name`."""
        fragment = self._fragments.get(parameter)
        if fragment is None:
            return None
        flat = values[fragment.flat].view(-1)[fragment.start : fragment.start + fragment.numel]
        return Held(name, shape, fragment.parameter_start, flat, everywhere=not self._sharded)


def held_of_module(tensor: Tensor, name: str, shape: torch.Size) -> Held:
    """What this rank holds of a parameter or buffer of a module, whole of `shape`. At stage 3, between two steps."""
    part: Tensor | None = getattr(tensor, "ds_tensor", None)
    if part is None:
        return Held(name, shape, 0, tensor.detach().view(-1), everywhere=True)
    start = part.numel() * dist.get_rank()
    numel = max(0, min(part.numel(), shape.numel() - start))
    return Held(name, shape, start, part.detach().view(-1)[:numel], everywhere=False)


def _stage12(flat: Tensor, parameter: Any) -> Fragment | None:
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    return Fragment(flat, here.start, there.start, here.numel)


def _stage3(zero: Any, flat: Tensor, parameter: Any) -> Fragment | None:
    _, start, padded = zero.grad_position[zero.get_param_id(parameter)]
    parameter_start = padded * dist.get_rank()
    numel = min(padded, parameter.ds_numel - parameter_start)
    return Fragment(flat, start, parameter_start, numel) if numel > 0 else None


def whole_names(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers of `module`, each once, by the first of its names: a tower that serves two
    sides has two."""
    persistent = module.state_dict(keep_vars=True).keys()
    yield from module.named_parameters()
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name in persistent)
