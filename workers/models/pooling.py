"""Hidden states of an architecture -> one feature of each row.

n rows, T tokens or patches, w width, h×v the map of a convolutional network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pool_image(output: Any, pooling: str, prefix: int) -> Tensor:
    """transformers' output of a vision architecture -> (n, w). pooling: own, cls or mean. `prefix` tokens (class,
    registers) stand before the patches, of which the mean is."""
    if pooling == "own":
        return _flat(output.pooler_output)
    hidden: Tensor = output.last_hidden_state
    if pooling == "cls":
        return hidden[:, 0]
    return hidden.mean((2, 3)) if hidden.ndim == 4 else hidden[:, prefix:].mean(1)


def pool_text(output: Any, pooling: str, last: Tensor) -> Tensor:
    """transformers' output of a text architecture -> (n, w). pooling: own, cls, mean or last. `last` (n,) is the
    place of the token that ends the text; what stands behind it counts for nothing."""
    if pooling == "own":
        return _flat(output.pooler_output)
    hidden: Tensor = output.last_hidden_state
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    text = (torch.arange(hidden.shape[1], device=hidden.device) <= last[:, None]).to(hidden.dtype)
    return (hidden * text[:, :, None]).sum(1) / text.sum(1, keepdim=True)


def _flat(pooled: Tensor) -> Tensor:
    """(n, w), of (n, w) or of ResNet's (n, w, 1, 1)."""
    return pooled.flatten(1)


def prefix_tokens(hidden: Tensor, patches: int | None) -> int:
    """How many of the T tokens of `hidden` stand before its `patches`; 0 for maps, and for architectures that merge
    patches on the way and have nothing before them."""
    if hidden.ndim != 3 or patches is None:
        return 0
    return max(0, hidden.shape[1] - patches)
