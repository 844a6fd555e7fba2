"""Crops and colour parameters: fixed by their key, distributed as documented, inside any image."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from jobspecs.columns import Blur, Color, Image, Jitter
from workers.data.augment import (
    BRIGHTNESS,
    COLOR_PARAMETERS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    IDENTITY,
    ORDER,
    ORDERS,
    SATURATION,
    SIGMA,
    Crop,
    centred_square,
    draw_color,
    random_crop,
)

DRAWS = 4000
LIKELY = 1e-3
"""Draws are fixed, so these tests pass always or never: a p-value below this says that a law is another one."""

SIMCLR = Image(size=224, crop_scale=[0.08, 1.0], flip=0.5)

keys = st.lists(st.integers(-(2**70), 2**70) | st.text(max_size=5), max_size=4).map(tuple)


def crops(image: Image, height: int, width: int, count: int = DRAWS) -> list[Crop]:
    return [random_crop(image, height, width, (0, "crop", place)) for place in range(count)]


def inside(crop: Crop, height: int, width: int) -> bool:
    return (
        0 <= crop.left < crop.left + crop.width <= width
        and 0 <= crop.top < crop.top + crop.height <= height
        and all(type(number) is int for number in (crop.left, crop.top, crop.width, crop.height))
    )


# --- crops --------------------------------------------------------------------------------------------


def test_crops_stay_as_they_are() -> None:
    drawn = [random_crop(SIMCLR, 480, 640, (0, "crop", 1, "web", 2, 3, view)) for view in (0, 1, 3)]
    assert drawn == [
        Crop(left=67, top=8, width=489, height=438, flipped=True),
        Crop(left=131, top=37, width=420, height=429, flipped=False),
        Crop(left=155, top=0, width=464, height=473, flipped=True),
    ]


def test_a_crop_depends_on_its_key_alone() -> None:
    first = crops(SIMCLR, 480, 640, 50)
    random_crop(SIMCLR, 10, 10, ("another",))
    assert crops(SIMCLR, 480, 640, 50)[::-1] == first[::-1]
    assert len(set(first)) == 50


def test_loaders_draw_without_torch() -> None:
    code = "import sys, workers.data.augment; print('torch' in sys.modules, 'kornia' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False"]


def test_area_ratio_and_place_are_distributed_as_documented() -> None:
    # No box is too large here, at most √(0.7 · 4/3) = 0.97 of a side: nothing is drawn twice.
    side = 100_000
    drawn = crops(Image(size=8, crop_scale=[0.1, 0.7]), side, side)
    width, height, left, top = np.array([(c.width, c.height, c.left, c.top) for c in drawn], float).T
    for values, low, high in (
        (width * height / side**2, 0.1, 0.7),
        (np.log(width / height), math.log(3 / 4), math.log(4 / 3)),
        (left / (side - width), 0.0, 1.0),
        (top / (side - height), 0.0, 1.0),
    ):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LIKELY
    numbers = np.array([width * height, width / height, left / (side - width), top / (side - height)])
    assert np.abs(np.corrcoef(numbers) - np.eye(4)).max() < 4 / math.sqrt(DRAWS)


def torchvision_crops(image: Image, height: int, width: int) -> NDArray[Any]:
    """DRAWS crops by the law that torchvision documents for RandomResizedCrop, (width, height, left, top) each."""
    random = np.random.default_rng(0)
    areas = random.uniform(*image.crop_scale, (DRAWS, 10)) * (height * width)
    ratios = np.exp(random.uniform(*np.log(image.crop_ratio), (DRAWS, 10)))
    boxes = np.rint(np.sqrt([areas * ratios, areas / ratios]))  # (2, DRAWS, tries)
    fits = ((boxes > 0) & (boxes <= [[[width]], [[height]]])).all(axis=0)
    box = boxes[:, np.arange(DRAWS), fits.argmax(axis=1)]
    corner = np.floor(random.random((2, DRAWS)) * ([[width], [height]] - box + 1))
    # Where no try fits: as much of the image as its ratio, brought into the range, leaves.
    ratio = np.clip(width / height, *image.crop_ratio)
    whole = np.rint([[min(width, height * ratio)], [min(height, width / ratio)]])
    centred = ([[width], [height]] - whole) // 2
    return np.where(fits.any(axis=1), np.concatenate([box, corner]), np.concatenate([whole, centred])).T


@pytest.mark.parametrize(
    ("height", "width", "image"),
    [
        (480, 640, SIMCLR),
        (90, 30, SIMCLR),  # most boxes are too wide
        (30, 200, Image(size=8, crop_scale=[0.2, 0.9], crop_ratio=[0.5, 2.0])),
        (7, 5, Image(size=8, crop_scale=[0.3, 1.0])),
    ],
)
def test_the_law_is_torchvisions(height: int, width: int, image: Image) -> None:
    ours = np.array([(c.width, c.height, c.left, c.top) for c in crops(image, height, width)])
    theirs = torchvision_crops(image, height, width)
    for one, other in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(one, other, method="asymp").pvalue > LIKELY


FALLBACKS: list[tuple[int, int, list[float], tuple[int, int, int, int]]] = [
    # Height, width, ratios, and the left, top, width and height of the crop when all of the area is asked for.
    (10, 1000, [3 / 4, 4 / 3], (493, 0, 13, 10)),
    (1000, 10, [3 / 4, 4 / 3], (0, 493, 10, 13)),
    (1, 500, [3 / 4, 4 / 3], (249, 0, 1, 1)),
    (500, 1, [3 / 4, 4 / 3], (0, 249, 1, 1)),
    (300, 1, [50.0, 60.0], (0, 149, 1, 1)),
    (1, 300, [0.01, 0.02], (149, 0, 1, 1)),
    (20, 30, [1.5, 1.5], (0, 0, 30, 20)),
]


@pytest.mark.parametrize(("height", "width", "ratio", "expected"), FALLBACKS)
def test_where_no_box_fits_the_largest_centred_one_is_taken(
    height: int, width: int, ratio: list[float], expected: tuple[int, int, int, int]
) -> None:
    image = Image(size=8, crop_scale=[0.9999, 1.0], crop_ratio=ratio)
    for crop in crops(image, height, width, 20):
        assert (crop.left, crop.top, crop.width, crop.height) == expected


@given(
    st.integers(1, 40) | st.integers(1, 100_000),
    st.integers(1, 40) | st.integers(1, 100_000),
    st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)).map(sorted),
    st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3)).map(sorted),
    keys,
)
@settings(deadline=None, max_examples=500)
def test_a_crop_lies_inside_any_image(
    height: int, width: int, scale: list[float], ratio: list[float], key: tuple[int | str, ...]
) -> None:
    image = Image(size=8, crop_scale=scale, crop_ratio=ratio, flip=0.5)
    assert inside(random_crop(image, height, width, key), height, width)


@given(st.integers(1, 100_000), st.integers(1, 100_000), keys)
@settings(deadline=None)
def test_the_whole_area_is_the_centred_square(height: int, width: int, key: tuple[int | str, ...]) -> None:
    square = centred_square(height, width)
    assert inside(square, height, width)
    assert square.width == square.height == min(height, width)
    assert abs(2 * square.left + square.width - width) <= 1
    assert abs(2 * square.top + square.height - height) <= 1
    assert not square.flipped
    assert random_crop(Image(size=8, flip=0.0), height, width, key) == square


@pytest.mark.parametrize("scale", [[1.0, 1.0], [0.2, 0.8]])
def test_flips_are_as_frequent_as_asked_for_and_change_nothing_else(scale: list[float]) -> None:
    drawn = {p: crops(Image(size=8, crop_scale=scale, flip=p), 48, 64) for p in (0.0, 0.25, 1.0)}
    flipped = {p: sum(crop.flipped for crop in drawn[p]) for p in drawn}
    assert flipped[0.0] == 0
    assert flipped[1.0] == DRAWS
    assert stats.binomtest(flipped[0.25], DRAWS, 0.25).pvalue > LIKELY
    boxes = [[(c.left, c.top, c.width, c.height) for c in drawn[p]] for p in drawn]
    assert boxes[0] == boxes[1] == boxes[2]


# --- colours ------------------------------------------------------------------------------------------


def colors(color: Color, count: int = DRAWS) -> NDArray[Any]:
    rows = np.stack([draw_color(color, (0, "color", place)) for place in range(count)])
    assert rows.dtype == np.float32
    assert rows.shape == (count, COLOR_PARAMETERS)
    return rows


def test_colour_parameters_stay_as_they_are() -> None:
    drawn = [draw_color(Color(), (0, "color", 1, "web", 2, 3, view)) for view in (0, 2)]
    expected = [
        [0.25299355, 1.4081374, 0.83804256, -0.051053602, 9, 0, 1.6547139],
        [1.0, 1.0, 1.0, 0.0, 0, 1, 0.25029945],
    ]
    assert np.array_equal(drawn, np.array(expected, np.float32))


def test_colour_parameters_depend_on_their_key_alone() -> None:
    assert (colors(Color(), 50) == colors(Color(), 60)[:50]).all()
    always = Color(jitter=Jitter(probability=1.0))
    assert len({row.tobytes() for row in colors(always, 50)}) == 50


def test_probabilities_are_as_asked_for() -> None:
    color = Color(jitter=Jitter(probability=0.7), grayscale=0.2, blur=Blur(probability=0.4))
    changed = colors(color) != np.array(IDENTITY, np.float32)
    for column in (BRIGHTNESS, CONTRAST, SATURATION, HUE):
        assert (changed[:, column] == changed[:, BRIGHTNESS]).all()
    assert (changed[:, BRIGHTNESS] | ~changed[:, ORDER]).all()
    kinds = changed[:, [BRIGHTNESS, GRAYSCALE, SIGMA]]
    for count, probability in zip(kinds.sum(axis=0), (0.7, 0.2, 0.4), strict=True):
        assert stats.binomtest(int(count), DRAWS, probability).pvalue > LIKELY
    # One does not depend on another.
    assert np.abs(np.corrcoef(kinds.T) - np.eye(3)).max() < 4 / math.sqrt(DRAWS)


def test_factors_are_uniform_and_independent() -> None:
    jitter = Jitter(probability=1.0, brightness=0.4, contrast=0.8, saturation=1.5, hue=0.3)
    rows = colors(Color(jitter=jitter, blur=Blur(probability=1.0, sigma=[0.5, 3.0])))
    laws = {BRIGHTNESS: (0.6, 1.4), CONTRAST: (0.2, 1.8), SATURATION: (0.0, 2.5), HUE: (-0.3, 0.3), SIGMA: (0.5, 3.0)}
    for column, (low, high) in laws.items():
        assert stats.kstest(rows[:, column], stats.uniform(low, high - low).cdf).pvalue > LIKELY
        assert low - 1e-6 <= rows[:, column].min() < rows[:, column].max() <= high + 1e-6
    correlations = np.corrcoef(rows[:, [*laws, ORDER]].T)
    assert np.abs(correlations - np.eye(6)).max() < 4 / math.sqrt(DRAWS)


def test_orders_are_equally_frequent() -> None:
    drawn = colors(Color(jitter=Jitter(probability=1.0)))[:, ORDER]
    counts = np.bincount(drawn.astype(int), minlength=24)
    assert (drawn == drawn.astype(int)).all()
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > LIKELY


def test_each_order_has_each_operation_once() -> None:
    assert len(set(ORDERS)) == len(ORDERS) == 24
    assert all(sorted(order) == [BRIGHTNESS, CONTRAST, SATURATION, HUE] for order in ORDERS)


UNCHANGED = {
    "nothing is ever applied": (
        Color(jitter=Jitter(probability=0.0), grayscale=0.0, blur=Blur(probability=0.0)),
        list(range(COLOR_PARAMETERS)),
    ),
    "jitter of no strength": (
        Color(jitter=Jitter(probability=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)),
        [BRIGHTNESS, CONTRAST, SATURATION, HUE],
    ),
}


@pytest.mark.parametrize(("color", "columns"), UNCHANGED.values(), ids=UNCHANGED)
def test_parameters_that_change_nothing(color: Color, columns: list[int]) -> None:
    assert (colors(color, 200)[:, columns] == np.array(IDENTITY)[columns]).all()


def test_a_change_of_one_section_leaves_the_other_draws() -> None:
    usual = colors(Color(), 500)
    unblurred = colors(Color(blur=Blur(probability=0.0)), 500)
    colourful = colors(Color(grayscale=0.0), 500)
    unjittered = colors(Color(jitter=Jitter(probability=0.0)), 500)
    paler = colors(Color(jitter=Jitter(saturation=0.1)), 500)
    for changed, columns in (
        (unblurred, [SIGMA]),
        (colourful, [GRAYSCALE]),
        (unjittered, [BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER]),
        (paler, [SATURATION]),
    ):
        same = (changed == usual).all(axis=0)
        assert np.flatnonzero(~same).tolist() == columns
