"""Pixels -> a small JPEG."""

from __future__ import annotations

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray

from workers.data.resize import resize

LARGEST = 64
"""Height and width, at most: about 2 KB."""


def thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 (P, P, 3), RGB -> a JPEG of at most LARGEST × LARGEST."""
    size = min(LARGEST, len(pixels))
    small = np.empty((size, size, 3), np.uint8)
    resize(pixels, small)
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(small), quality=80)
    return encoded
