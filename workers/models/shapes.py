"""Running a network on PyTorch's meta device, where tensors have shapes and no values."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_RATES_KNOWN = ("attention", "dropout")
_MIXING = ("convolution", "im2col", "pool", "fft")
"""In the names of operations that know no mask, and take in what stands beside a place."""


class ShapesOnly(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside, a network that asks a tensor without values for one gets 1, or True, and goes on.

    transformers asks whether a mask is all ones, or whether a text holds padding: either answer leads through the
    same parameters to the same shapes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.drawn: list[str] = []
        """Operations that drew at random. Attention and dropout are not among them: their rates are known."""
        self.mixed: list[str] = []
        """Operations by which places meet that no mask keeps apart, as those of attention do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return args[0].dtype is torch.bool or (1.0 if args[0].is_floating_point() else 1)
        if torch.Tag.nondeterministic_seeded in func.tags and not any(part in str(func) for part in _RATES_KNOWN):
            self.drawn.append(str(func))
        if any(part in str(func) for part in _MIXING) and not _is_pointwise(func, args):
            self.mixed.append(str(func))
        return func(*args, **(kwargs or {}))


def _is_pointwise(func: Any, args: Any) -> bool:
    """Whether it is a convolution that is a linear layer of each place: SqueezeBERT's are."""
    return "convolution" in str(func) and all(size == 1 for size in args[1].shape[2:])
