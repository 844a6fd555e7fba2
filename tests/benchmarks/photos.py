"""Photo-like JPEGs: what the benchmarks of the data path decode.

In: a size, a number of photos and a seed. Out: (JPEG bytes, caption) pairs, the same for the same
arguments, no two of the same bytes. `data_stores.py` packs them.

A photo's decoding time hangs on its detail. These have the amplitude spectrum of natural images (about
1/f, Field 1987, doi:10.1364/JOSAA.4.002379), smooth light, and objects with hard and soft edges. At quality
88 a photo of 512x384 pixels takes some 60 KB, one of 1024x768 some 215 KB, as photographs do.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

JPEG_QUALITY = 88
_SCENES = 8
"""Rendered scenes of a size; each photo is a cut of one: rendering takes a thousand times as long as cutting."""
_OBJECTS = 16
_MARGIN = 1.25
"""Side of a scene over that of a photo."""
_ADJECTIVES = ("quiet", "crowded", "sunlit", "foggy", "old", "narrow", "green", "distant")
_NOUNS = ("street", "harbour", "garden", "kitchen", "valley", "market", "bridge", "workshop")


def photos(width: int, height: int, count: int, seed: int = 0) -> Iterator[tuple[bytes, str]]:
    """`count` photos of width x height pixels with their captions."""
    scenes = [_scene(width, height, np.random.default_rng([seed, 0, number])) for number in range(_SCENES)]
    for number in range(count):
        rng = np.random.default_rng([seed, 1, number])
        photo = _cut(scenes[number % _SCENES], width, height, rng)
        caption = f"a photo of a {rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)}, number {number}"
        yield simplejpeg.encode_jpeg(photo, quality=JPEG_QUALITY, colorsubsampling="420"), caption


def _cut(scene: NDArray[np.uint8], width: int, height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A photo out of a scene: another place, exposure and side each time. uint8 (height, width, 3)."""
    top = int(rng.integers(scene.shape[0] - height + 1))
    left = int(rng.integers(scene.shape[1] - width + 1))
    exposure = np.clip(np.arange(256) * rng.uniform(0.85, 1.15) + rng.uniform(-8, 8), 0, 255).astype(np.uint8)
    cut = cv2.LUT(scene[top : top + height, left : left + width], exposure)
    return np.ascontiguousarray(cut[:, ::-1] if rng.random() < 0.5 else cut)


def _scene(width: int, height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 (height * _MARGIN, width * _MARGIN, 3)."""
    h, w = int(height * _MARGIN), int(width * _MARGIN)
    brightness = _noise(h, w, 1.15, rng)
    # The eye's and the camera's colours vary less than brightness, and more smoothly.
    colour = np.stack([_noise(h, w, 1.6, rng) for _ in range(3)], axis=-1)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    light = np.cos(rng.uniform(0, 6.3) + x / w * rng.uniform(-2, 2) + y / h * rng.uniform(-2, 2))
    scene = 120 + 32 * light[..., None] + 30 * brightness[..., None] + 12 * colour
    for _ in range(_OBJECTS):
        scene = _with_object(scene, rng)
    return np.clip(scene, 0, 255).astype(np.uint8)


def _noise(h: int, w: int, slope: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(h, w) noise of mean 0 and variance 1 whose amplitude falls as 1 / frequency ** slope."""
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.rfftfreq(w)[None])
    frequency[0, 0] = np.inf
    spectrum = (rng.normal(size=frequency.shape) + 1j * rng.normal(size=frequency.shape)) / frequency**slope
    noise = np.fft.irfft2(spectrum, (h, w))
    return (noise / noise.std()).astype(np.float32)


def _with_object(scene: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """The scene with an ellipse or a polygon of another colour, texture and sharpness in it."""
    h, w, _ = scene.shape
    mask = np.zeros((h, w), np.uint8)
    size = rng.uniform(0.03, 0.25) * h
    centre = rng.uniform((0, 0), (w, h))
    if rng.random() < 0.5:
        axes = (int(size), int(size * rng.uniform(0.3, 1)))
        cv2.ellipse(mask, centre.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    else:
        corners = centre + rng.normal(size=(int(rng.integers(3, 7)), 2)) * size
        cv2.fillPoly(mask, [corners.astype(np.int32)], 255, cv2.LINE_AA)
    blur = rng.choice([0.0, 1.0, 4.0])  # in focus, nearly, or not
    soft = cv2.GaussianBlur(mask, (0, 0), float(blur)) if blur else mask
    alpha = soft[..., None] * np.float32(rng.uniform(0.5, 1.0) / 255)
    texture = np.float32(rng.uniform(0.2, 1.2)) * (scene - 120) + rng.uniform(40, 215, 3).astype(np.float32)
    return scene + alpha * (texture - scene)
