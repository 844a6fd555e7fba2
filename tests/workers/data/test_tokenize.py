"""What every tokenizer gives, and what the run directory keeps of it."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers

from jobspecs.errors import DataError
from workers.data.tokenize import Tokenizer, byte_tokenizer

BYTES = byte_tokenizer()


def words(vocabulary: dict[str, int]) -> str:
    """A tokenizer that knows words, and takes "?" for others."""
    fast = FastTokenizer(models.WordLevel(vocabulary, unk_token="?"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return fast.to_str()


WORDS = Tokenizer(6, begin=0, end=1, padding=1, fast=words({"<s>": 0, "</s>": 1, "a": 2, "photo": 3, "?": 5}))
NO_BEGIN = replace(WORDS, begin=None, padding=4)


@pytest.mark.parametrize(
    ("tokenizer", "text", "length", "expected"),
    [
        (BYTES, "hi", 6, [256, 104, 105, 257, 258, 258]),
        (BYTES, "hi", 4, [256, 104, 105, 257]),
        (BYTES, "hi", 3, [256, 104, 257]),
        (BYTES, "", 4, [256, 257, 258, 258]),
        (BYTES, "é", 5, [256, 0xC3, 0xA9, 257, 258]),
        (BYTES, "é", 3, [256, 0xC3, 257]),  # cut inside a character: bytes are tokens
        (BYTES, "\0\n", 5, [256, 0, 10, 257, 258]),
        (BYTES, "\ud83d", 4, [256, ord("?"), 257, 258]),  # half a surrogate pair, as JSON can hold it
        (WORDS, "a photo", 6, [0, 2, 3, 1, 1, 1]),  # padded with the end token
        (WORDS, "a photo of", 4, [0, 2, 3, 1]),
        (WORDS, "", 3, [0, 1, 1]),
        (WORDS, "a \ud83d photo", 6, [0, 2, 5, 3, 1, 1]),
        (WORDS, "a </s> <s> photo", 6, [0, 2, 3, 1, 1, 1]),  # a text can't end or begin itself
        (NO_BEGIN, "a photo", 6, [2, 3, 1, 4, 4, 4]),
        (NO_BEGIN, "a photo of", 3, [2, 3, 1]),
        (NO_BEGIN, "", 3, [1, 4, 4]),
        # An unknown word that becomes the end token does not end the text.
        (replace(WORDS, end=5, padding=5), "a new photo", 6, [0, 2, 3, 5, 5, 5]),
    ],
)
def test_examples(tokenizer: Tokenizer, text: str, length: int, expected: list[int]) -> None:
    tokens = tokenizer.encode(text, length)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == expected


@given(st.text(max_size=40), st.integers(3, 60))
def test_of_bytes_what_fits_can_be_read_back(text: str, length: int) -> None:
    tokens = BYTES.encode(text, length).tolist()
    assert len(tokens) == length
    assert tokens[0] == BYTES.begin
    end = tokens.index(BYTES.end)
    assert bytes(tokens[1:end]) == text.encode()[: length - 2]
    assert set(tokens[end + 1 :]) <= {BYTES.padding}
    assert max(tokens) < BYTES.vocabulary


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS, NO_BEGIN])
def test_the_kept_tokenizer_is_the_same(tokenizer: Tokenizer) -> None:
    tokenizer.encode("a photo", 6)  # what encoding has loaded is neither kept nor sent
    for again in (Tokenizer.from_bytes(tokenizer.to_bytes()), pickle.loads(pickle.dumps(tokenizer))):
        assert again == tokenizer
        assert again.to_bytes() == tokenizer.to_bytes()
        assert again.encode("a photo of", 7).tolist() == tokenizer.encode("a photo of", 7).tolist()
    assert len(pickle.dumps(tokenizer)) < len(tokenizer.to_bytes()) + 200


def test_fingerprints_tell_tokenizers_apart() -> None:
    fingerprints = {tokenizer.fingerprint() for tokenizer in (BYTES, WORDS, NO_BEGIN, replace(WORDS, padding=4))}
    assert len(fingerprints) == 4
    assert byte_tokenizer().fingerprint() == BYTES.fingerprint()


def changed(tokenizer: Tokenizer, **changes: object) -> bytes:
    return json.dumps(json.loads(tokenizer.to_bytes()) | changes).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "run/tokenizers/text.json can't be read .JSONDecodeError.*put a copy of the file back"),
        (BYTES.to_bytes()[:-9], "can't be read .JSONDecodeError"),
        (b'"\xff"', "can't be read .UnicodeDecodeError"),
        (b"[]", "can't be read .TypeError"),
        (b"{}", "can't be read .KeyError: 'format'"),
        (b'{"format": 1}', "can't be read .KeyError: 'vocabulary'"),
        (changed(BYTES, end=259), "can't be read .ValueError: .*end 259.* of 259 tokens"),
        (changed(BYTES, begin=-1), "can't be read .ValueError"),
        (changed(BYTES, begin=257), "can't be read .ValueError"),
        (changed(BYTES, padding="258"), "can't be read .TypeError"),
        (changed(BYTES, kind="fast"), "can't be read .ValueError: kind 'fast'"),
        (changed(WORDS, fast=None), "can't be read .ValueError: kind 'fast'"),
        (changed(WORDS, fast='{"model": 1}'), "can't be read .Exception.*newer version of the tokenizers package"),
        (changed(BYTES, format=2), r"text.json has the format 2, and this version of Tandem reads 1\. Go on with"),
    ],
)
def test_what_is_no_tokenizer_is_named(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Tokenizer.from_bytes(data, "run/tokenizers/text.json")
