"""Images for the tests of the data path: encoded pictures, and a photo-like one of any size."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from jobspecs.columns import Image
from workers.data.decode import decode_views
from workers.data.keyed import Key

# Quarters of a 32x32 image: red, green, blue, and something in between.
COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 200, 20]]], np.uint8)
QUARTERS = Pillow.fromarray(np.kron(COLOURS, np.ones((16, 16, 1), np.uint8)))

LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}}
"""Pillow's options for an encoding that changes no pixel."""


def encoded(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a picture, as Pillow's plugin `kind` saves it."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Pillow.Image:
    """The picture in these bytes, whole and in RGB, as Pillow decodes it."""
    with Pillow.open(io.BytesIO(data)) as picture:
        return picture.convert("RGB")


def exif_of(orientation: int) -> Pillow.Exif:
    """EXIF data that say how the camera was held."""
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    return exif


@functools.cache
def photo(width: int, height: int) -> Pillow.Image:
    """Noise with the spectrum of natural images, about 1/f (Field 1987, doi:10.1364/JOSAA.4.002379), and edges."""
    rng = np.random.default_rng([width, height])
    f = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    f[0, 0] = np.inf
    spectrum = (rng.normal(size=(3, *f.shape)) + 1j * rng.normal(size=(3, *f.shape))) / f**1.1
    noise = np.fft.irfft2(spectrum, (height, width))
    noise[1:] = 0.8 * noise[:1] + 0.2 * noise[1:]  # brightness varies more than colour
    pixels = 128 + 40 * noise / max(1e-9, noise.std())
    for _ in range(8):
        (top, bottom), (left, right) = np.sort(rng.integers(0, [[height + 1], [width + 1]], (2, 2)))
        pixels[:, top:bottom, left:right] += rng.uniform(-60, 60, (3, 1, 1))
    return Pillow.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).transpose(1, 2, 0).copy())


def psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Peak signal-to-noise ratio of two uint8 images in dB; equal ones have 99."""
    error = np.square(one.astype(float) - other).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-5)))


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG with its checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of_size(width: int, height: int, rows: bytes = b"", depth: int = 8, colours: int = 2) -> bytes:
    """A PNG that claims to be of this size, with these rows and no checks whether they are as many."""
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", zlib.compress(rows, 9)), png_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def jpeg_of_size(width: int, height: int) -> bytes:
    """A small JPEG whose header claims to be of this size."""
    data = encoded(QUARTERS, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def webp_of_size(width: int, height: int) -> bytes:
    """A small lossless WebP whose header claims to be of this size, of up to 16,384 each."""
    data = encoded(QUARTERS, "WEBP", lossless=True)
    at = data.index(b"VP8L") + 9
    bits = int.from_bytes(data[at : at + 4], "little") >> 28 << 28 | (height - 1) << 14 | (width - 1)
    return data[:at] + bits.to_bytes(4, "little") + data[at + 4 :]


def gif_of_size(width: int, height: int) -> bytes:
    """A small GIF whose header claims a screen of this size."""
    data = encoded(QUARTERS, "GIF")
    return data[:6] + struct.pack("<HH", width, height) + data[10:]


def views_of(data: bytes, size: int = 32, key: Key | None = None, **image: Any) -> NDArray[np.uint8]:
    """(views, size, size, 3)."""
    section = Image(size=size, **image)
    out = np.full((section.views, size, size, 3), 77, np.uint8)
    decode_views(data, section, key, out)
    return out


def shown(data: bytes, size: int = 32, key: Key | None = None, **image: Any) -> NDArray[Any]:
    """The only view, as integers that may be subtracted."""
    (view,) = views_of(data, size, key, **image).astype(int)
    return view
