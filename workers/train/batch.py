"""A batch as the ranks see it: what each of its own rows holds, and one small gather of what all must know.

Letters: N ranks, m rows a rank (padding included), B samples of the global batch, H kinds of keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from workers.data.order import Layout, lanes_of_rank
from workers.data.rows import Rows, batch_digest
from workers.losses.gather import all_gather_rows, world_size
from workers.train.command import Command
from workers.train.keys import token_keys


@dataclass(frozen=True)
class GlobalBatch:
    """What all ranks know of a global batch. The arrays of N·m rows lie in rank order, padding rows among them."""

    ids: NDArray[np.int64]
    """(B,) identities, in slot order and without padding."""
    usable: NDArray[np.bool_]
    """(B,): those that were not masked."""
    valid: NDArray[np.bool_]
    """(N·m,)."""
    weights: NDArray[np.float32]
    """(N·m,): weight of each row in the loss, 0 where it is not valid."""
    keys: NDArray[np.int64]
    """(N·m, H): keys of the contents."""
    command: Command
    """Of rank 0."""

    def digest(self, negatives: str = "") -> str:
        """Which samples stood in which slot, with which negatives; see `workers.data.rows.batch_digest`."""
        return batch_digest(self.ids, self.usable, negatives)

    @property
    def masked(self) -> int:
        """Samples that no rank could use."""
        return int(len(self.usable) - self.usable.sum())


def content_keys(rows: Rows, kinds: tuple[str, ...]) -> NDArray[np.int64]:
    """(m, H): a key for the contents of each row's column `kinds`, 0 in masked rows."""
    columns = [rows.columns["image_key"] if kind == "image" else token_keys(rows.columns[kind]) for kind in kinds]
    keys = np.stack(columns, axis=1) if columns else np.zeros((len(rows.ids), 0), np.int64)
    return np.where(rows.valid[:, None], keys, 0)


def gather_batch(
    rows: Rows, keys: NDArray[np.int64], layout: Layout, device: torch.device, *, command: Command
) -> GlobalBatch:
    """Gathers what the ranks hold, and rank 0's command; those of the others don't count. Collective.

    keys: (m, H). Rows without a column `weight` weigh 1.
    """
    weights = rows.columns.get("weight", np.ones(len(rows.ids), np.float32)) * rows.valid
    # As 64-bit integers: the identity; validity and weight in one; the keys.
    packed = weights.astype(np.float32).view(np.int32).astype(np.int64) << 1 | rows.valid
    table = np.concatenate([rows.ids[:, None], packed[:, None], keys], axis=1)
    table = np.concatenate([table, np.full((1, table.shape[1]), int(command))])  # (m + 1, 2 + H)
    gathered = all_gather_rows(torch.from_numpy(table)[None].to(device)).cpu().numpy()  # (N, m + 1, 2 + H)
    N, m = world_size(), len(rows.ids)
    valid = (gathered[:, :m, 1] & 1).astype(np.bool_)
    # Ranks own consecutive lanes, and each puts its rows before its padding.
    real = [len(lanes_of_rank(rank, N, layout.lanes)) * layout.lane_batch for rank in range(N)]
    return GlobalBatch(
        ids=np.concatenate([gathered[rank, : real[rank], 0] for rank in range(N)]),
        usable=np.concatenate([valid[rank, : real[rank]] for rank in range(N)]),
        valid=valid.reshape(-1),
        weights=(gathered[:, :m, 1] >> 1).astype(np.int32).view(np.float32).reshape(-1),
        keys=gathered[:, :m, 2:].reshape(N * m, -1),
        command=Command(gathered[0, m, 0]),
    )
