"""Draws of the augmentations: where a view is cut out, and how its colours change.

In: a section of the spec, the size of an image, and a key that names seed, purpose, pass, sample and view. Out:
a `Crop` in whole pixels for the decoder, and a row of colour parameters that travels with the view to the
device, where `workers.models.color` applies it. Equal keys give equal draws, whoever draws and when.

Each function makes one call of `uniform`, whose numbers have fixed places: a change of one section (no blur,
say) leaves all other draws as they were.

A row of colour parameters is float32 (COLOR_PARAMETERS,), by column:

    BRIGHTNESS  factor ≥ 0, 1 leaves the view as it is
    CONTRAST    factor ≥ 0, 1 …
    SATURATION  factor ≥ 0, 1 …
    HUE         turn as a fraction of the colour circle, −0.5 … 0.5; 0 …
    ORDER       0 … 23: ORDERS[ORDER] lists the four above in the order of their application
    GRAYSCALE   1 takes the colours away; 0 …
    SIGMA       standard deviation of the blur in pixels of the view; 0 …
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from jobspecs.columns import Color, Image
from workers.data.keyed import Key, uniform

BRIGHTNESS, CONTRAST, SATURATION, HUE, ORDER, GRAYSCALE, SIGMA = range(7)
COLOR_PARAMETERS: Final = 7

ORDERS: Final = tuple(itertools.permutations((BRIGHTNESS, CONTRAST, SATURATION, HUE)))
"""All orders of the four jitter operations, which are named by their columns."""

IDENTITY: Final = (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
"""Parameters of a view whose colours stay as they are."""

TRIES: Final = 10
"""Boxes drawn before a random crop falls back on a centred one, as in torchvision."""


@dataclass(frozen=True)
class Crop:
    """A box of the original image, in pixels and inside it, that is scaled to the view."""

    left: int
    top: int
    width: int
    height: int
    flipped: bool
    """Left and right are exchanged after the box is cut out."""


def centred_square(height: int, width: int) -> Crop:
    """The largest centred square of an image, unflipped: what evaluations see."""
    side = min(height, width)
    return Crop((width - side) // 2, (height - side) // 2, side, side, flipped=False)


def random_crop(image: Image, height: int, width: int, key: Key) -> Crop:
    """A crop as torchvision's `RandomResizedCrop` draws it (Szegedy et al. 2014, section 6), and a flip.

    The area is uniform in `image.crop_scale` of the image's, the logarithm of the ratio uniform in
    `image.crop_ratio`, and the place uniform among those inside the image. Where ten boxes are larger than the
    image, the crop is the largest centred one whose ratio is the image's, brought into `image.crop_ratio`.
    A `crop_scale` of [1, 1] takes the largest centred square.
    """
    # Ten tries at two numbers each, however few it takes: a try costs less than a second call.
    x, y, flip, *tries = uniform(3 + 2 * TRIES, *key).tolist()
    flipped = flip < image.flip
    if image.crop_scale == [1.0, 1.0]:
        square = centred_square(height, width)
        return Crop(square.left, square.top, square.width, square.height, flipped)
    smallest, largest = (fraction * height * width for fraction in image.crop_scale)
    low, high = (math.log(ratio) for ratio in image.crop_ratio)
    for size, shape in zip(tries[::2], tries[1::2], strict=True):
        area = smallest + size * (largest - smallest)
        ratio = math.exp(low + shape * (high - low))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            # x and y are below 1, and so are the products below the whole numbers of places.
            left, top = int(x * (width - box_width + 1)), int(y * (height - box_height + 1))
            return Crop(left, top, box_width, box_height, flipped)
    return _largest_crop(image, height, width, flipped)


def _largest_crop(image: Image, height: int, width: int, flipped: bool) -> Crop:
    """The largest centred box with a ratio in `image.crop_ratio`."""
    low, high = image.crop_ratio
    box_width, box_height = width, height
    if width < low * height:
        box_height = max(1, round(width / low))
    elif width > high * height:
        box_width = max(1, round(height * high))
    return Crop((width - box_width) // 2, (height - box_height) // 2, box_width, box_height, flipped)


def draw_color(color: Color, key: Key) -> NDArray[np.float32]:
    """The colour parameters of one view, float32 (COLOR_PARAMETERS,), laid out as the module says.

    SimCLR's set (Chen et al. 2020, appendix A): jitter, grayscale and blur are drawn independently; a jittered
    view gets all four changes, in random order.
    """
    jitter, blur = color.jitter, color.blur
    jittered, brightness, contrast, saturation, turn, order, gray, blurred, sigma = uniform(9, *key).tolist()
    row = np.array(IDENTITY, np.float32)
    if jittered < jitter.probability:
        row[BRIGHTNESS] = _factor(jitter.brightness, brightness)
        row[CONTRAST] = _factor(jitter.contrast, contrast)
        row[SATURATION] = _factor(jitter.saturation, saturation)
        row[HUE] = _between(-jitter.hue, jitter.hue, turn)
        row[ORDER] = int(order * len(ORDERS))
    if gray < color.grayscale:
        row[GRAYSCALE] = 1
    if blurred < blur.probability:
        smallest, largest = blur.sigma
        row[SIGMA] = _between(smallest, largest, sigma)
    return row


def _factor(strength: float, fraction: float) -> float:
    return _between(max(0.0, 1 - strength), 1 + strength, fraction)


def _between(low: float, high: float, fraction: float) -> float:
    return low + fraction * (high - low)
