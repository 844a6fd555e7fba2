"""Scaling of a crop to the size that the model sees: with a common filter it costs more than decoding.

Measured against Pillow's antialiased bicubic filter, the field's standard (photos of tests/benchmarks/photos.py,
384² to 224², one thread of a shared AMD EPYC core, each call's best of 60):

    Pillow bicubic                              1.69 ms
    Pillow bilinear                             1.02 ms   44.6 dB
    OpenCV INTER_AREA                           0.74 ms   47.5 dB
    OpenCV INTER_LINEAR                         0.12 ms   41.0 dB (aliases)
    3×3 Gaussian, then OpenCV INTER_CUBIC       0.26 ms   47.8 dB

So a slight blur takes out what the smaller image can't hold, and a plain cubic filter does the rest. With
sigma = 0.36 + 0.38 · (ratio - 1) the PSNR is within 0.5 dB of what the best sigma gives on ratios from 1.05 to
3.4 (1.7 dB at 3.9): 52 dB at 1.05, 50 at 1.3, 48 at 1.7, 51 at 2, 48 from 2.2 to 3.4, 46 to 48 from there to 6,
and 47 to 49 on crops whose sides have ratios as different as 1.0 and 4.5. In images of noise up to the finest
pixel it is 3 to 5 dB less. An image that is smaller than the view becomes a little sharper than by Pillow.
"""

from __future__ import annotations

from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray

cv2.setNumThreads(1)  # a rank's loader processes share its cores out already


def resize(image: NDArray[np.uint8], view: NDArray[np.uint8]) -> None:
    """Scales an image, (h, w, 3), into `view`, (P, P, 3)."""
    size, pixels = len(view), cast("Any", image)  # OpenCV's stubs forget what an array holds
    height, width = image.shape[:2]
    # The blur is good for ratios below 4: the rest is averaged down to one of 2 to 3 first. OpenCV does it three
    # times as fast by whole factors; pixels that are left over at the end count below, by the scales.
    down, across = (length // (2 * size) if length >= 4 * size else 1 for length in (height, width))
    if down > 1 or across > 1:
        target = (width // across, height // down)
        whole = pixels[: target[1] * down, : target[0] * across]
        pixels = cv2.resize(whole, target, interpolation=cv2.INTER_AREA)
    scale_y, scale_x = size * down / height, size * across / width
    (kernel_y, sigma_y), (kernel_x, sigma_x) = _blur(1 / scale_y), _blur(1 / scale_x)
    if kernel_y > 1 or kernel_x > 1:
        pixels = cv2.GaussianBlur(pixels, (kernel_x, kernel_y), sigma_x, sigmaY=sigma_y)
    # OpenCV rounds the size that comes of the scales, which is less than half a pixel below `size`.
    scaled = cv2.resize(pixels, None, dst=view, fx=scale_x, fy=scale_y, interpolation=cv2.INTER_CUBIC)
    assert scaled.shape == view.shape, f"{height}x{width} was scaled to {scaled.shape}, not {view.shape}"


def _blur(ratio: float) -> tuple[int, float]:
    """Side and sigma of the kernel for an image that is `ratio` times as large as the view."""
    if ratio <= 1:
        return 1, 1.0
    return 3 if ratio <= 2 else 5, 0.36 + 0.38 * (ratio - 1)
