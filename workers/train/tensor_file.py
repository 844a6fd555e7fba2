"""A safetensors file in host memory: tensors are copied straight to the place where the file has them.

Serialising a file of half a GiB by the library takes the memory of two more and holds Python's lock meanwhile. The
format is small: 8 bytes with the length of a JSON header, the header, and the tensors' bytes one after the other
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorFile:
    """One file; its tensors are there to be set."""

    def __init__(self, entries: Sequence[Entry], *, pinned: bool) -> None:
        """`pinned` memory takes copies from a GPU at full speed."""
        # The widest first, behind a header of whole 8 bytes: each tensor then lies at a multiple of its width.
        entries = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
        header, end = {}, 0
        for entry in entries:
            header[entry.name] = {
                "dtype": _NAMES[entry.dtype],
                "shape": entry.shape,
                "data_offsets": (end, end + entry.nbytes),
            }
            end += entry.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        head = len(text).to_bytes(8, "little") + text
        self._bytes = torch.empty(len(head) + end, dtype=torch.uint8, pin_memory=pinned)
        # Touches every page now: at the first copy it would take training ten times as long as the copy itself.
        self._bytes.zero_()
        self._bytes[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self.tensors: dict[str, Tensor] = {}
        """(n,) each, flattened, by name."""
        start = len(head)
        for entry in entries:
            self.tensors[entry.name] = self._bytes[start : start + entry.nbytes].view(entry.dtype)
            start += entry.nbytes

    @property
    def content(self) -> memoryview:
        """The file as it stands."""
        array: Any = self._bytes.numpy()
        return memoryview(array)


def cut(entries: Sequence[Entry], limit_bytes: int) -> list[list[Entry]]:
    """The entries of each file, in order: files of at most `limit_bytes`, but for a tensor that is larger."""
    files: list[list[Entry]] = []
    size = 0
    for entry in entries:
        if not files or size + entry.nbytes > limit_bytes:
            files.append([])
            size = 0
        files[-1].append(entry)
        size += entry.nbytes
    return files
