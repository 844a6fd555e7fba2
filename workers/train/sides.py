"""The rows of a rank as inputs of its towers, and as pairs of the loss.

Letters: m rows a rank (padding included), k inputs of a row on a side, n = rows of a micro-batch · k, K negatives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.data.rows import Rows
from workers.losses.gather import rank
from workers.losses.pairs import Pairs
from workers.objectives import Contrast
from workers.train.batch import GlobalBatch
from workers.train.keys import draw_keys, token_keys


@dataclass(frozen=True)
class Inputs:
    """What a tower encodes at once: n inputs."""

    side: str
    tensors: dict[str, Tensor]
    """`pixels` uint8 (n, P, P, 3) and perhaps `color` (n, A); or `tokens` (n, T)."""
    keys: Tensor
    """(n,) int64: keys of random draws in the tower."""
    valid: Tensor
    """(n,) bool: the others are masked rows."""
    start: int
    """Its first row in the rank's batch."""


@dataclass(frozen=True)
class Side:
    """All inputs of a side on this rank."""

    name: str
    arrays: dict[str, NDArray[np.generic]]
    """(m, k, …) each, by the tower's name for it."""
    keys: NDArray[np.int64]
    """(m, k)."""
    valid: NDArray[np.bool_]
    """(m, k)."""

    def split(self, rows: int, device: torch.device) -> Iterator[Inputs]:
        """Micro-batches of `rows` rows (the last may be shorter), on the device; colours stay on the CPU, where it is
        known without waiting which views change."""
        m = len(self.keys)
        for start in range(0, m, rows):
            part = slice(start, start + rows)
            tensors = {name: _flat(array[part]) for name, array in self.arrays.items()}
            yield Inputs(
                side=self.name,
                tensors={
                    name: t if name == "color" else t.to(device, non_blocking=True) for name, t in tensors.items()
                },
                keys=_flat(self.keys[part]).to(device),
                valid=_flat(self.valid[part]).to(device),
                start=start,
            )


def _flat(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).flatten(0, 1)


def sides_of(rows: Rows, contrast: Contrast, *about: int | str) -> dict[str, Side]:
    """The sides of a batch, by name; `about` keys the draws of the step: its seed and number."""
    return {name: _side(rows, name, contrast.inputs[name], *about) for name in contrast.inputs}


def _side(rows: Rows, name: str, k: int, *about: int | str) -> Side:
    columns = rows.columns
    if name == "image":
        arrays: dict[str, NDArray[np.generic]] = {"pixels": columns["image"]}
        if "color" in columns:
            arrays["color"] = columns["color"]
    else:
        arrays = {"tokens": columns[name][:, None]}
    valid = np.repeat(rows.valid[:, None], k, axis=1)
    if name == "document" and "negatives" in columns:
        arrays["tokens"] = np.concatenate([arrays["tokens"], columns["negatives"]], axis=1)
        valid[:, 1:] &= columns["negatives_valid"]
    keys = np.stack([draw_keys(rows.ids, name, number, *about) for number in range(k)], axis=1)
    return Side(name, arrays, keys, valid)


def resident_rows(features: Tensor, contrast: Contrast) -> Tensor:
    """(m, k, d) as the loss takes resident rows, (R, d): views as they lie, documents before all negatives."""
    if contrast.symmetric or features.shape[1] == 1:
        return features.flatten(0, 1)
    return torch.cat([features[:, 0], features[:, 1:].flatten(0, 1)])


def pairs_of(rows: Rows, seen: GlobalBatch, contrast: Contrast) -> Pairs:
    """The pairs of a batch, on the CPU."""
    m = len(rows.ids)
    k = contrast.inputs[contrast.travelling]
    valid_C, weights, keys = (np.repeat(array, k, axis=0) for array in (seen.valid, seen.weights, seen.keys))
    own = slice(rank() * m * k, (rank() + 1) * m * k)
    valid_R, keys_R = valid_C[own], keys[own]
    negatives = rows.columns.get("negatives")
    if negatives is not None:
        valid_R = np.concatenate([valid_R, (rows.columns["negatives_valid"] & rows.valid[:, None]).reshape(-1)])
        of_negatives = np.zeros((negatives.shape[0] * negatives.shape[1], keys.shape[1]), np.int64)
        document = contrast.kinds.index("document")
        of_negatives[:, document] = token_keys(negatives.reshape(len(of_negatives), -1))
        keys_R = np.concatenate([keys_R, of_negatives])
    masking = [contrast.kinds.index(kind) for kind in contrast.equal]
    return Pairs(
        first=own.start,
        queries=m * k,
        valid_R=torch.from_numpy(valid_R),
        valid_C=torch.from_numpy(valid_C),
        weight_C=torch.from_numpy(weights),
        total_weight=float(weights.sum(dtype=np.float64)),
        all_valid=bool(valid_R.all() and valid_C.all()),
        keys_R=torch.from_numpy(keys_R[:, masking]) if masking else None,
        keys_C=torch.from_numpy(keys[:, masking]) if masking else None,
        views=2 if contrast.symmetric else 1,
    )
