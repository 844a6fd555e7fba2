"""A file of an image -> the picture that the model was trained on, by OpenCV, NumPy and Pillow alone.

Exports hold this file with workers/data/resize.py in it, so that who has neither Tandem nor its decoders gets the
same pixels: those of workers/data/decode.py, but for an image that its EXIF data turn, which may be cut out half a
pixel of the view beside it.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from workers.data.resize import resize

# --- the exported part ------------------------------------------------------------------------------------

SIZE = 224
"""Height and width that the model sees."""


def pixels(file: str | Path | bytes, size: int = SIZE) -> Image.Image:
    """The largest centred square of an image, in RGB, size×size: what an image processor need only normalise.

    file: a path, or the bytes of a JPEG, PNG, WebP, GIF or BMP.
    """
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
        room = min(width, height) / size
        # A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size.
        scale = next((s for s in (8, 4, 2) if room >= s), 1) if picture.format == "JPEG" else 1
        if scale > 1:
            picture.draft(picture.mode, (width // scale, height // scale))
        upright = ImageOps.exif_transpose(_eight_bits(picture))
        if upright.size[0] != picture.size[0]:
            width, height = height, width
        decoded = np.asarray(_on_white(upright))
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    ends = ((end + scale // 2) // scale for end in (left, top, left + side, top + side))
    left, top, right, bottom = ends
    view = np.empty((size, size, 3), np.uint8)
    resize(decoded[top:bottom, left:right], view)
    return Image.fromarray(view)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grayscale image of 16 bits scaled to 8."""
    if picture.mode != "I" and not picture.mode.startswith("I;16"):
        return picture
    return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))


def _on_white(picture: Image.Image) -> Image.Image:
    """In RGB; what is transparent lies on white."""
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("RGB")
