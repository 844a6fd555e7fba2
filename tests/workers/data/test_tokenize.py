"""Bytes as tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.data.tokenize import BEGIN, END, PADDING, VOCABULARY, byte_tokens


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("hi", 6, [256, 104, 105, 257, 258, 258]),
        ("hi", 4, [256, 104, 105, 257]),
        ("hi", 3, [256, 104, 257]),
        ("", 4, [256, 257, 258, 258]),
        ("é", 5, [256, 0xC3, 0xA9, 257, 258]),
        ("é", 3, [256, 0xC3, 257]),  # cut inside a character: bytes are tokens
        ("\0\n", 5, [256, 0, 10, 257, 258]),
    ],
)
def test_examples(text: str, length: int, expected: list[int]) -> None:
    tokens = byte_tokens(text, length)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == expected


@given(st.text(max_size=40), st.integers(3, 60))
def test_what_fits_can_be_read_back(text: str, length: int) -> None:
    tokens = byte_tokens(text, length).tolist()
    content = text.encode()
    assert len(tokens) == length
    assert tokens[0] == BEGIN
    end = tokens.index(END)
    assert bytes(tokens[1:end]) == content[: length - 2]
    assert set(tokens[end + 1 :]) <= {PADDING}
    assert max(tokens) < VOCABULARY
