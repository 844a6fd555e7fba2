"""Keyed draws: fixed for ever, against Philox written out and against numbers noted down."""

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


def philox_block(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64 with 10 rounds, as in figure 3 of Salmon et al. 2011."""
    word = 2**64 - 1
    for round_ in range(10):
        a, b = ((k + round_ * weyl) & word for k, weyl in zip(key, (WEYL_0, WEYL_1), strict=True))
        high_0, low_0 = divmod(0xD2E7470EE14C6C93 * counter[0], 2**64)
        high_1, low_1 = divmod(0xCA5A826395121157 * counter[2], 2**64)
        counter = [high_1 ^ counter[1] ^ a, low_1, high_0 ^ counter[3] ^ b, low_0]
    return counter


WEYL_0, WEYL_1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B


def test_the_philox_of_these_tests_gives_the_known_answers() -> None:
    # Random123's kat_vectors: philox4x64 10, all bits clear, all bits set.
    clear = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    ones = [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]
    assert philox_block([0] * 4, [0] * 2) == clear
    assert philox_block([2**64 - 1] * 4, [2**64 - 1] * 2) == ones


@given(st.integers(0, 20), keys)
@settings(deadline=None)
def test_raw_is_philox_under_the_blake2b_of_the_key(count: int, key: tuple[int | str, ...]) -> None:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    halves = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little")]
    # NumPy counts up before each block of four: the first block is number 1.
    blocks = [philox_block([block, 0, 0, 0], halves) for block in range(1, 6)]
    assert raw(count, *key).tolist() == [word for block in blocks for word in block][:count]


def test_hash64_stays_as_it_is() -> None:
    assert hash64("demo", 0, 3, "k") == 1535513104262495943
    assert hash64(7, "a") == -4805728733731945866


def test_draws_stay_as_they_are() -> None:
    expected = [15943580758587702672, 15544608434089264691, 14082046423165690247]
    assert raw(3, 0, "window", "web", 2, 5, 1).tolist() == expected
    assert permutation(10, 0, "shards", "web", 0).tolist() == [6, 0, 5, 2, 7, 8, 4, 9, 3, 1]
    assert permutation(10, 0, "shards", "web", 1).tolist() == [7, 5, 4, 9, 0, 2, 8, 1, 6, 3]
    drawn = ["0x1.ccb88d4a2816ap-1", "0x1.456b36f7b24cep-2", "0x1.454b858ff85d0p-5"]
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
