"""Bytes of an image -> its views, as the model sees them. Only by these decoders: nothing is ever unpickled.

JPEGs are decoded by simplejpeg (libjpeg-turbo) at 1/2, 1/4 or 1/8 of their size where the crops still have
as many pixels as the view; PNG, WebP, GIF, BMP and JPEGs of rare subsampling by Pillow. What remains to be
scaled goes through resize.py. Of an animation the first frame counts.

Photos of tests/benchmarks/photos.py, one thread of a shared AMD EPYC core, each call's best of 25: 512×384 pixels
in 62 KB are decoded whole in 0.69 ms (Pillow: 1.15), 1024×768 in 233 KB in 2.7 ms (Pillow: 4.0), at 1/2 in
2.2 ms, at 1/8 in 1.8: reading the bits is most of it. Only the powers of two have fast code, 5/8 takes 3.6 ms.
From bytes to a view of 224² it is 1.0 and 2.6 ms, at 48 and 46 dB against Pillow's bicubic filter of the whole
image. A crop's borders move to the nearest pixels that were decoded, by half a pixel of the view at most: that
takes the PSNR down to some 34 dB (1/8: 32), and shows nowhere else.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image as Pillow

from jobspecs.columns import Image
from workers.data.augment import Crop, centred_square, random_crop
from workers.data.keyed import Key
from workers.data.resize import resize

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What Pillow may take bytes for. Of its other formats, some are handed to programs (EPS to Ghostscript)."""
_ORIENTATION = 0x0112

Pillow.MAX_IMAGE_PIXELS = None  # the spec's `max_pixels` is the bound, whichever the decoder


class DecodeError(ValueError):
    """The image can't be shown to the model. `cause`: `undecodable`, or `too_large`."""

    def __init__(self, cause: str, why: str) -> None:
        super().__init__(why)
        self.cause = cause


def decode_views(data: bytes, image: Image, key: Key | None, out: NDArray[np.uint8]) -> None:
    """Writes the views of an image to `out`, uint8 (views, size, size, 3), RGB.

    With a `key` each view is cut out and flipped by draws of that key and the number of the view; without
    one it is the largest centred square, as evaluations see it. Raises DecodeError.
    """
    size = _jpeg_size(data)
    if size is None:
        pixels, turn = _pillow(data, image)
        height, width, _ = pixels.shape
        crops, scale = _crops(image, height, width, turn, key, len(out)), 1
    else:
        height, width = size
        _check_size(height, width, image)
        turn = _orientation(_jpeg_exif(data))
        crops = _crops(image, height, width, turn, key, len(out))
        scale = _scale(min(min(crop.width, crop.height) for crop in crops) / image.size)
        pixels = _jpeg(data, height, width, scale)
    for crop, view in zip(crops, out, strict=True):
        left, top, right, bottom = _stored(crop, turn, height, width)
        # Each end by itself, and halves always up: no end is off by more than half a pixel, no crop too small.
        left, top, right, bottom = ((end + scale // 2) // scale for end in (left, top, right, bottom))
        resize(pixels[top:bottom, left:right], view)
        _turn(view, turn, crop.flipped)


def decode_whole(data: bytes, image: Image) -> NDArray[np.uint8]:
    """The whole image, upright, uint8 (height, width, 3), RGB: for who scales by other rules than ours. Raises
    DecodeError."""
    size = _jpeg_size(data)
    if size is None:
        pixels, turn = _pillow(data, image)
    else:
        _check_size(*size, image)
        pixels, turn = _jpeg(data, *size, 1), _orientation(_jpeg_exif(data))
    if turn in _ON_ITS_SIDE:
        pixels = pixels.transpose(1, 0, 2)
    vertical, horizontal = _FLIPS[turn]
    return np.ascontiguousarray(pixels[:: -1 if vertical else 1, :: -1 if horizontal else 1])


def _crops(image: Image, height: int, width: int, turn: int, key: Key | None, views: int) -> list[Crop]:
    """In the upright image; `height` and `width` are those of the stored one."""
    if turn in _ON_ITS_SIDE:
        height, width = width, height
    if key is None:
        return [centred_square(height, width)] * views
    return [random_crop(image, height, width, (*key, view)) for view in range(views)]


def _check_size(height: int, width: int, image: Image) -> None:
    if height * width > image.max_pixels:
        raise DecodeError("too_large", f"{width}x{height} pixels, max_pixels is {image.max_pixels}")


# --- orientation --------------------------------------------------------------------------------------

_UPRIGHT, _ON_ITS_SIDE = 1, range(5, 9)
_FLIPS = {
    1: (False, False),
    2: (False, True),
    3: (True, True),
    4: (True, False),
    5: (False, False),
    6: (False, True),
    7: (True, True),
    8: (True, False),
}
"""EXIF 2.32, tag 0x0112: what is flipped to set the stored image upright, top to bottom and left to right,
after 5 to 8 were transposed."""


def _stored(crop: Crop, turn: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a crop in the stored image, which has this height and width."""
    if turn in _ON_ITS_SIDE:
        height, width = width, height
    vertical, horizontal = _FLIPS[turn]
    left = width - crop.left - crop.width if horizontal else crop.left
    top = height - crop.top - crop.height if vertical else crop.top
    if turn in _ON_ITS_SIDE:
        return top, left, top + crop.height, left + crop.width
    return left, top, left + crop.width, top + crop.height


def _turn(view: NDArray[np.uint8], turn: int, flipped: bool) -> None:
    """Sets a view of the stored image upright, then flips it. A view is a square, and small."""
    vertical, horizontal = _FLIPS[turn]
    if turn in _ON_ITS_SIDE:
        view[:] = view.transpose(1, 0, 2).copy()
    if vertical:
        view[:] = view[::-1].copy()
    if horizontal != flipped:
        view[:] = view[:, ::-1].copy()


def _orientation(exif: bytes | None) -> int:
    """How the camera was held, 1 (upright) to 8."""
    if not exif:
        return _UPRIGHT
    read = Pillow.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read.load(exif)
            turn: int = read.get(_ORIENTATION, _UPRIGHT)
    except Exception:  # Pillow raises many things on odd EXIF, which is no reason to mask a sample
        return _UPRIGHT
    return turn if turn in _FLIPS else _UPRIGHT


# --- JPEG ---------------------------------------------------------------------------------------------


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width of a JPEG, None where simplejpeg can't read it."""
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # damaged, or of a subsampling that only Pillow knows
        return None
    return int(height), int(width)


def _scale(room: float) -> int:
    """The image may be decoded at 1/2, 1/4 or 1/8: these alone have fast code in libjpeg-turbo."""
    return 8 if room >= 8 else 4 if room >= 4 else 2 if room >= 2 else 1


def _jpeg(data: bytes, height: int, width: int, scale: int) -> NDArray[np.uint8]:
    """RGB pixels, uint8 (⌈height / scale⌉, ⌈width / scale⌉, 3). Each stands for scale × scale of the image's, the
    last ones also where fewer are left."""
    try:
        decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // scale), min_width=-(-width // scale), min_factor=scale
        )
    except ValueError as error:
        raise DecodeError("undecodable", str(error)) from error
    return decoded


def _jpeg_exif(data: bytes) -> bytes | None:
    """The EXIF segment, which stands somewhere before the scan."""
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1 : at + 2] == b"\xe1" and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 4 : end]
        at = end
    return None


# --- other formats ------------------------------------------------------------------------------------


def _pillow(data: bytes, image: Image) -> tuple[NDArray[np.uint8], int]:
    """RGB pixels, uint8 (height, width, 3), as they are stored, and how the camera was held."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            with Pillow.open(io.BytesIO(data), formats=_FORMATS) as picture:
                _check_size(picture.height, picture.width, image)
                picture.load()
                return np.asarray(_opaque(_eight_bits(picture))), _orientation(picture.info.get("exif"))
    except (DecodeError, MemoryError):  # which samples are masked must not depend on the machine
        raise
    except Exception as error:  # Pillow raises many things on damaged bytes
        raise DecodeError("undecodable", str(error)) from error


def _eight_bits(picture: Pillow.Image) -> Pillow.Image:
    """A grayscale image of 16 bits scaled to 8: `convert` would make all above 255 white."""
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    return Pillow.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def _opaque(picture: Pillow.Image) -> Pillow.Image:
    """In RGB; what is transparent lies on white."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Pillow.alpha_composite(Pillow.new("RGBA", picture.size, "white"), picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")  # which copies
