"""Dropout whose masks are a function of the row: of nothing that differs between ranks or micro-batches.

`torch.nn.Dropout` draws from a generator, so that a mask depends on which rows came before on this rank.
A `KeyedDropout` hashes (key of the row, number of the layer, element). The hash is splitmix64 (Steele, Lea and
Flood 2014): the finaliser `mix` over a counter times the golden gamma, in wrapping int64 arithmetic, which is the
same on every device. A 64-bit word gives four elements, so that rates are multiples of 1/65536.

n rows; shapes (n, …).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor, nn


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word."""
    return word - (1 << 64) if word >= 1 << 63 else word


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)
_PARTS = 4
"""Elements per hashed word, 16 bits each."""


def mix(words: Tensor) -> Tensor:
    """int64 -> int64, splitmix64's finaliser (variant 13 of Stafford): a bijection that looks random."""
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left (int64's own shift copies the sign)."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def word_of(name: str) -> int:
    """An int64 that stands for a name in a key."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little", signed=True)


def keep_mask(keys: Tensor, layer: int, elements: int, rate: float) -> Tensor:
    """Which elements stay: bool (n, elements), each True with probability 1 - rate (to 1/65536).

    keys: (n,) int64, one a row; layer: an int64. Row i depends on keys[i], layer and rate alone.
    """
    start = mix(mix(keys) ^ layer)
    words = -(-elements // _PARTS)
    counter = torch.arange(1, words + 1, device=keys.device, dtype=torch.int64)
    drawn = mix(start[:, None] + counter * _GAMMA).view(torch.int16)[:, :elements]
    return drawn >= round(rate * 65536) - 32768


class RowKeys:
    """The keys of the rows that a tower is encoding; shared by its dropout layers."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None

    @contextmanager
    def of(self, keys: Tensor | None) -> Iterator[None]:
        """Inside, the rows have these keys."""
        before, self.keys = self.keys, keys
        try:
            yield
        finally:
            self.keys = before

    def checkpoint(self, function: Callable[..., Any], *args: Any) -> Any:
        """`torch.utils.checkpoint` that computes again with the keys of the first time, whichever rows were
        encoded in between. No state of a generator is kept: nothing here draws from one."""
        keys = self.keys

        def again(*inputs: Any) -> Any:
            with self.of(keys):
                return function(*inputs)

        return torch.utils.checkpoint.checkpoint(again, *args, use_reentrant=False, preserve_rng_state=False)


class KeyedDropout(nn.Module):
    """Dropout of (n, …) by the rows' keys; the identity in eval mode."""

    def __init__(self, rate: float, name: str, rows: RowKeys) -> None:
        super().__init__()
        self.rate = round(rate * 65536) / 65536
        self.layer = word_of(name)
        self.rows = rows

    def forward(self, hidden: Tensor) -> Tensor:
        """`hidden` with elements set to zero, the others scaled by 1/(1 - rate)."""
        if not self.training or self.rate == 0:
            return hidden
        kept: Tensor = hidden * self._mask(hidden) * (1 / (1 - self.rate))
        return kept

    # Compiled C++ may take the wrapping of int64 for undefined; the hash is as exact as the tensors' own arithmetic.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _mask(self, hidden: Tensor) -> Tensor:
        keys = self.rows.keys
        if keys is None:
            raise ValueError("dropout needs the rows' keys while it trains: call the model with `keys`")
        if len(keys) != len(hidden):
            raise ValueError(f"hidden states of {len(hidden)} rows, keys of {len(keys)}")
        return keep_mask(keys, self.layer, hidden[0].numel(), self.rate).view(hidden.shape)

    def extra_repr(self) -> str:
        """For printing."""
        return f"rate={self.rate:g}"


def replace_dropout(tower: nn.Module, tower_name: str, rows: RowKeys) -> int:
    """Every `nn.Dropout` with a rate becomes a `KeyedDropout`. Returns their number."""
    replaced = 0
    for name, module in list(tower.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Dropout) and child.p > 0:
                path = f"{tower_name}.{name}.{child_name}"
                setattr(module, child_name, KeyedDropout(child.p, path, rows))
                replaced += 1
    return replaced


def drawn_at_random(tower: nn.Module) -> list[str]:
    """Places where dropout would still draw from a generator: attributes such as `dropout` above 0 that a forward
    pass hands to `torch.nn.functional.dropout`."""
    return [
        f"{name}.{attribute}".lstrip(".")
        for name, module in tower.named_modules()
        if not isinstance(module, KeyedDropout)
        for attribute, value in vars(module).items()
        if ("drop" in attribute or (attribute == "p" and isinstance(module, nn.modules.dropout._DropoutNd)))
        and isinstance(value, float)
        and value > 0
    ]
