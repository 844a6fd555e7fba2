"""What a tower's forward pass keeps for its backward pass, counted without running it: on PyTorch's fake tensors, which
have shapes, types and storages, and no memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from workers.models.shapes import ShapesOnly
from workers.models.tower import Inputs, Tower

_FEW, _MORE = 2, 4
"""Rows of the two passes that are counted; more rows keep more in proportion."""
_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Activations:
    """Bytes that a forward pass keeps, parameters apart."""

    per_row: float
    """For each input."""
    once: float
    """Whatever their number: parameters in the type of the arithmetic."""

    def of(self, rows: int) -> float:
        """Bytes of so many inputs at once."""
        return self.once + self.per_row * rows


def count_activations(tower: Tower, inputs: Inputs, precision: Literal["fp32", "bf16", "fp16"]) -> Activations:
    """Of a tower on the meta device, which afterwards is of no other use. inputs: of any number of rows, on the meta
    device as well. What an architecture asks of tensors without values, it is answered as `ShapesOnly` does."""
    with FakeTensorMode(allow_non_fake_inputs=True), ShapesOnly():
        tower.to_empty(device="cpu").train()
        few, more = (_kept(tower, inputs, rows, _AUTOCAST[precision]) for rows in (_FEW, _MORE))
    per_row = (more - few) / (_MORE - _FEW)
    return Activations(per_row, few - _FEW * per_row)


def _kept(tower: Tower, inputs: Inputs, rows: int, autocast: torch.dtype | None) -> int:
    own = {tensor.untyped_storage()._cdata for tensor in [*tower.parameters(), *tower.buffers()]}
    storages: dict[int, torch.UntypedStorage] = {}  # held, so that none has another one's address

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            storages[storage._cdata] = storage
        return tensor

    batch = {name: torch.empty((rows, *each.shape[1:]), dtype=each.dtype) for name, each in inputs.items()}
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=autocast, enabled=autocast is not None),
    ):
        tower(batch, torch.empty(rows, dtype=torch.int64), torch.ones(rows, dtype=torch.bool))
    return sum(storage.nbytes() for storage in storages.values())
