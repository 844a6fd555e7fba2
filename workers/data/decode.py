"""Bytes of a column -> arrays. Only the columns that the spec names, only by these decoders: nothing
is ever unpickled.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image as Pillow

from jobspecs.data import Image
from workers.data.keyed import uniform

MAX_PIXELS = 178_956_970
"""Pillow's own bound on decompression bombs, also for JPEG: a larger image is undecodable."""


class UndecodableError(ValueError):
    """The bytes are not an image that can be shown to the model."""


def image_array(data: bytes, image: Image, key: tuple[int | str, ...] | None) -> NDArray[np.uint8]:
    """The image as the model sees it: uint8 (size, size, 3).

    A square is cut out and scaled (bicubic). With a `key` the square is drawn from `image.crop_scale` and
    flipped with probability `image.flip`, by draws of that key alone; without one it is the centred
    square, unflipped, as evaluations see it. Raises UndecodableError.
    """
    pixels = _decode(data)
    height, width, _ = pixels.shape
    side, x, y, flipped = float(min(height, width)), 0.5, 0.5, False
    if key is not None:
        area, x, y, flip = uniform(4, *key)
        low, high = image.crop_scale
        side *= (low + area * (high - low)) ** 0.5
        flipped = flip < image.flip
        if low == high == 1.0:
            x = y = 0.5  # the centred square itself, as documented
    left, top = x * (width - side), y * (height - side)
    square = Pillow.fromarray(pixels).resize(
        (image.size, image.size), Pillow.Resampling.BICUBIC, box=(left, top, left + side, top + side)
    )
    array = np.asarray(square)
    return array[:, ::-1] if flipped else array


def _decode(data: bytes) -> NDArray[np.uint8]:
    """RGB pixels, uint8 (height, width, 3)."""
    try:
        if data[:2] == b"\xff\xd8":
            height, width, space, _ = simplejpeg.decode_jpeg_header(data)
            if height * width > MAX_PIXELS:
                raise UndecodableError(f"{width}x{height} pixels")
            if space != "CMYK":
                pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
                return pixels
        with warnings.catch_warnings():
            # Of large images below MAX_PIXELS and of odd metadata: neither is a reason to mask a sample.
            warnings.simplefilter("ignore")
            with Pillow.open(io.BytesIO(data)) as picture:
                return np.asarray(_eight_bits(picture).convert("RGB"))
    except (ValueError, OSError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise UndecodableError(str(error)) from error


def _eight_bits(picture: Pillow.Image) -> Pillow.Image:
    """A grayscale image of 16 bits scaled to 8: `convert` would make all above 255 white."""
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    return Pillow.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
