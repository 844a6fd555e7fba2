"""Keyed draws: fixed for ever, against SHAKE128 and against numbers noted down."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.data.keyed import hash64, permutation, raw, uniform

keys = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), max_size=4).map(tuple)


def test_the_shake128_of_this_python_gives_the_known_answer() -> None:
    """NIST's example for the empty message: the first 32 bytes."""
    expected = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26"
    assert hashlib.shake_128(b"").hexdigest(32) == expected


@given(st.integers(0, 20), keys)
@settings(deadline=None)
def test_raw_is_shake128_of_the_key(count: int, key: tuple[int | str, ...]) -> None:
    stream = hashlib.shake_128(repr(key).encode()).digest(8 * 20)
    words = [int.from_bytes(stream[i : i + 8], "little") for i in range(0, len(stream), 8)]
    assert raw(count, *key).tolist() == words[:count]


def test_hash64_stays_as_it_is() -> None:
    assert hash64("demo", 0, 3, "k") == 1535513104262495943
    assert hash64(7, "a") == -4805728733731945866


def test_draws_stay_as_they_are() -> None:
    expected = [18134026139167258389, 14793332318796490560, 2892285824298076586]
    assert raw(3, 0, "window", "web", 2, 5, 1).tolist() == expected
    assert permutation(10, 0, "shards", "web", 0).tolist() == [5, 8, 0, 7, 4, 9, 2, 3, 6, 1]
    assert permutation(10, 0, "shards", "web", 1).tolist() == [3, 5, 1, 7, 2, 8, 9, 0, 6, 4]
    drawn = ["0x1.4a3ff6f431408p-1", "0x1.dd5bc907f519dp-1", "0x1.6bec73ec9bf40p-5"]
    assert [float(number).hex() for number in uniform(3, 0, "crop", 1, "web", 2, 3)] == drawn


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1,), ("1",)),
        (("a", "b"), ("ab",)),
        (("a", "b"), ("a, b",)),
        (("a", "b"), ("a', 'b",)),
        (("a", 1), (1, "a")),
        ((1, 11), (11, 1)),
        ((1, 11), (111,)),
        ((0,), (0, 0)),
        ((0,), (False,)),
        (("",), ()),
        (("\u00e9",), ("e\u0301",)),  # é as one code point and as two
        ((1,), (-1,)),
    ],
)
def test_keys_are_told_apart(one: tuple[int | str, ...], other: tuple[int | str, ...]) -> None:
    assert hash64(*one) != hash64(*other)
    assert raw(1, *one) != raw(1, *other)


def test_draws_depend_on_no_earlier_draw_and_on_no_hash_seed() -> None:
    code = "from workers.data.keyed import *; print(hash64('a', 1), raw(2, 'b', 2).tolist())"
    expected = f"{hash64('a', 1)} {raw(2, 'b', 2).tolist()}"
    command = [sys.executable, "-R", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == expected


@given(keys)
@settings(deadline=None)
def test_fewer_draws_are_the_first_ones(key: tuple[int | str, ...]) -> None:
    assert raw(3, *key).tolist() == raw(10, *key)[:3].tolist()


@given(st.integers(0, 300), keys)
@settings(deadline=None)
def test_permutation_holds_each_number_once(count: int, key: tuple[int | str, ...]) -> None:
    drawn = permutation(count, *key)
    assert drawn.dtype == np.int64
    assert sorted(drawn.tolist()) == list(range(count))


def test_permutations_are_equally_frequent() -> None:
    seen = Counter(tuple(permutation(3, "fair", i).tolist()) for i in range(6000))
    assert len(seen) == 6
    # 1000 each, standard deviation 29.
    assert all(850 < count < 1150 for count in seen.values())


def test_uniform_lies_in_the_unit_interval() -> None:
    numbers = uniform(10_000, "interval")
    assert numbers.dtype == np.float64
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.02
