"""Text -> tokens."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BEGIN, END, PADDING = 256, 257, 258
VOCABULARY = 259
"""Bytes, begin, end, padding."""


def byte_tokens(text: str, context_length: int) -> NDArray[np.int32]:
    """UTF-8 bytes between BEGIN and END, cut and padded to (context_length,).

    byte_tokens("hi", 6) -> [256, 104, 105, 257, 258, 258]
    """
    content = text.encode("utf-8")[: context_length - 2]
    tokens = np.full(context_length, PADDING, dtype=np.int32)
    tokens[0] = BEGIN
    tokens[1 : 1 + len(content)] = np.frombuffer(content, dtype=np.uint8)
    tokens[1 + len(content)] = END
    return tokens
