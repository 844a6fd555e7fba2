"""Scaling beside Pillow's, and on images of any shape."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow

from tests.workers.data.pictures import photo, psnr
from workers.data.resize import resize


def resized(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    view = np.full((size, size, 3), 77, np.uint8)
    resize(image, view)
    return view


def by_pillow(image: NDArray[np.uint8], size: int, kind: Pillow.Resampling) -> NDArray[np.uint8]:
    return np.asarray(Pillow.fromarray(image).resize((size, size), kind))


# Width, height and size, and the least PSNR in dB against Pillow's antialiased bicubic; some 2 dB more were seen.
QUALITY: list[tuple[int, int, int, float]] = [
    (225, 229, 224, 46),
    (250, 240, 224, 48),
    (300, 300, 224, 42),
    (384, 384, 224, 41),
    (448, 448, 224, 45),
    (449, 449, 224, 41),
    (560, 500, 224, 41),
    (671, 671, 224, 41),
    (895, 895, 224, 40),
    (896, 896, 224, 42),
    (897, 897, 224, 39),
    (1119, 1119, 224, 39),
    (1200, 1100, 32, 36),
    (900, 300, 224, 40),  # averaged down on one side only
    (300, 900, 224, 40),
    (120, 500, 224, 42),  # up on one side, down on the other
    (2000, 16, 64, 45),
    (75, 75, 224, 42),
]


@pytest.mark.parametrize(("width", "height", "size", "floor"), QUALITY)
def test_quality(width: int, height: int, size: int, floor: float) -> None:
    image = np.asarray(photo(width, height))
    reference = by_pillow(image, size, Pillow.Resampling.BICUBIC)
    found = psnr(resized(image, size), reference)
    assert found > floor
    # As close to the standard as Pillow's next best filter, which takes four times as long.
    assert found > psnr(by_pillow(image, size, Pillow.Resampling.BILINEAR), reference) - 0.5


def test_an_image_of_the_right_size_is_copied() -> None:
    image = np.asarray(photo(64, 64))
    assert (resized(image, 64) == image).all()


def test_fine_stripes_become_gray() -> None:
    # A filter that only looks at a few pixels shows broad stripes here.
    for ratio in (2.5, 3, 5, 7.3, 20):
        columns = np.arange(round(ratio * 40)) % 2 * 255
        image = np.ascontiguousarray(np.broadcast_to(columns[None, :, None], (60, len(columns), 3)).astype(np.uint8))
        assert np.abs(resized(image, 40)[:, 2:-2].astype(int) - 127).max() < 6


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 60), st.tuples(*[st.integers(0, 255)] * 3))
@settings(deadline=None, max_examples=300)
def test_one_colour_stays_so_at_any_size(height: int, width: int, size: int, colour: tuple[int, int, int]) -> None:
    image = np.full((height, width, 3), colour, np.uint8)
    assert (resized(image, size) == colour).all()


@given(st.integers(1, 700), st.integers(1, 700), st.integers(1, 60), st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_a_part_of_an_image_is_scaled_as_its_copy(height: int, width: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height + 8, width + 8, 3), np.uint8)
    part = image[3 : 3 + height, 5 : 5 + width]
    assert (resized(part, size) == resized(part.copy(), size)).all()


@given(st.integers(1, 700), st.integers(1, 60), st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_rows_and_columns_are_scaled_alike(length: int, size: int, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (length, 31, 3), np.uint8)
    transposed = np.ascontiguousarray(image.transpose(1, 0, 2))
    difference = resized(image, size).astype(int) - resized(transposed, size).transpose(1, 0, 2)
    assert np.abs(difference).max() <= 2
