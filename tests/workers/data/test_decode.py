"""Images of every kind, crops drawn by key, and bytes that are no image."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow

from jobspecs.data import Image
from workers.data.decode import MAX_PIXELS, UndecodableError, image_array
from workers.data.keyed import uniform

# Quarters of a 32x32 image: red, green, blue, and something in between.
COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [200, 200, 20]]], np.uint8)
QUARTERS = Pillow.fromarray(np.kron(COLOURS, np.ones((16, 16, 1), np.uint8)))


def encoded(picture: Pillow.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(data: bytes, size: int = 32, key: tuple[int | str, ...] | None = None, **image: Any) -> NDArray[Any]:
    array = image_array(data, Image(size=size, **image), key)
    assert array.shape == (size, size, 3)
    assert array.dtype == np.uint8
    return array.astype(int)


JPEG, PNG = encoded(QUARTERS, "JPEG"), encoded(QUARTERS, "PNG")


def ramp(width: int, height: int, axis: int = 1) -> bytes:
    """A PNG whose brightness is the column (or row) number."""
    numbers = np.arange(width if axis == 1 else height, dtype=np.uint8)
    pixels = np.broadcast_to(numbers[None, :] if axis == 1 else numbers[:, None], (height, width))
    return encoded(Pillow.fromarray(np.ascontiguousarray(pixels)), "PNG")


def ycck(cmyk: bytes) -> bytes:
    """A CMYK JPEG, declared to be YCCK in its Adobe marker."""
    at = cmyk.index(b"Adobe") + 11
    return cmyk[:at] + b"\2" + cmyk[at + 1 :]


GRAY = np.asarray(QUARTERS.convert("L")).astype(int)[..., None].repeat(3, axis=2)


PALETTE = QUARTERS.convert("P", palette=Pillow.Palette.ADAPTIVE)
# With the difference that each may have.
COLOURED: dict[str, tuple[bytes, int]] = {
    "jpeg": (encoded(QUARTERS, "JPEG", quality=95), 8),
    "jpeg, progressive": (encoded(QUARTERS, "JPEG", quality=95, progressive=True), 8),
    "jpeg, 4:4:4": (encoded(QUARTERS, "JPEG", quality=95, subsampling=0), 3),
    "jpeg, CMYK": (encoded(QUARTERS.convert("CMYK"), "JPEG", quality=95), 3),
    "png": (PNG, 0),
    "png, alpha": (encoded(QUARTERS.convert("RGBA"), "PNG"), 0),
    "png, palette": (encoded(PALETTE, "PNG"), 0),
    "png, palette, one transparent": (encoded(PALETTE, "PNG", transparency=0), 0),
    "png, palette, alpha": (encoded(PALETTE, "PNG", transparency=b"\0\x80"), 0),
    "webp": (encoded(QUARTERS, "WEBP", lossless=True), 0),
    "gif": (encoded(QUARTERS, "GIF"), 0),
    "bmp": (encoded(QUARTERS, "BMP"), 0),
}


@pytest.mark.parametrize(("data", "tolerance"), COLOURED.values(), ids=COLOURED)
def test_colours(data: bytes, tolerance: int) -> None:
    difference = np.abs(shown(data) - np.asarray(QUARTERS).astype(int))
    # Away from the borders of the quarters, where chroma subsampling mixes them.
    inner = difference.reshape(2, 16, 2, 16, 3)[:, 4:12, :, 4:12]
    assert inner.max() <= tolerance


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_grayscale(kind: str) -> None:
    data = encoded(QUARTERS.convert("L"), kind)
    inner = np.abs(shown(data) - GRAY).reshape(2, 16, 2, 16, 3)[:, 4:12, :, 4:12]
    assert inner.max() <= 4


def test_black_and_white() -> None:
    pixels = np.eye(8, dtype=bool)
    data = encoded(Pillow.fromarray(pixels), "PNG")
    assert (shown(data, size=8) == pixels[..., None] * 255).all()


def test_ycck_is_decoded() -> None:
    # The colours are those of bytes declared wrongly; Pillow has its own conversion of them.
    data = ycck(encoded(QUARTERS.convert("CMYK"), "JPEG", quality=95))
    expected = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(shown(data) - expected).max() <= 2


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    data = encoded(Pillow.fromarray(deep), "PNG")
    assert Pillow.open(io.BytesIO(data)).mode.startswith("I")
    assert (shown(data, size=16) == np.arange(256).reshape(16, 16, 1)).all()


def test_without_a_key_the_centred_square_is_shown() -> None:
    wide, high = shown(ramp(60, 20), size=20), shown(ramp(20, 60, axis=0), size=20)
    assert (wide[0, :, 0] == np.arange(20, 40)).all()
    assert (high[:, 0, 0] == np.arange(20, 40)).all()
    assert (wide == wide[:1]).all()


def test_augmentation_is_for_keys_only() -> None:
    augmented = shown(ramp(60, 20), size=20, crop_scale=[0.1, 0.2], flip=1.0)
    assert (augmented == shown(ramp(60, 20), size=20)).all()


def test_the_whole_square_is_centred_under_any_key() -> None:
    centred = shown(ramp(60, 20), size=20)
    for place in range(10):
        assert (shown(ramp(60, 20), 20, ("crop", place), crop_scale=[1.0, 1.0]) == centred).all()


@pytest.mark.parametrize("size", [1, 7, 64])
def test_scaled_to_the_size_asked_for(size: int) -> None:
    scaled = shown(ramp(200, 100), size=size)
    assert abs(scaled.mean() - 99.5) < 1
    assert (np.diff(scaled[0, :, 0]) >= 0).all()


def test_an_image_of_one_pixel() -> None:
    pixel = Pillow.new("RGB", (1, 1), (10, 20, 30))
    assert (shown(encoded(pixel, "PNG"), 4, ("k",), crop_scale=[0.1, 1.0], flip=0.5) == [10, 20, 30]).all()


AUGMENTED: dict[str, Any] = {"crop_scale": [0.2, 0.9], "flip": 0.5}


def test_the_same_key_gives_the_same_crop_and_others_differ() -> None:
    data = ramp(200, 200)
    arrays = [shown(data, 20, ("crop", place), **AUGMENTED) for place in range(20)]
    for place, array in enumerate(arrays):
        assert (shown(data, 20, ("crop", place), **AUGMENTED) == array).all()
    assert len({array.tobytes() for array in arrays}) == 20


def test_crops_do_not_depend_on_the_process() -> None:
    code = (
        "import sys; from jobspecs.data import Image; from workers.data.decode import image_array\n"
        "image = Image(size=9, crop_scale=[0.2, 0.9], flip=0.5)\n"
        "array = image_array(sys.stdin.buffer.read(), image, (7, 'crop', 'web', 3))\n"
        "sys.stdout.buffer.write(array.tobytes())"
    )
    data = ramp(200, 200)
    other = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True).stdout
    assert other == image_array(data, Image(size=9, **AUGMENTED), (7, "crop", "web", 3)).tobytes()


def test_crop_scale_is_a_fraction_of_the_centred_squares_area() -> None:
    sides = []
    for place in range(200):
        crop = shown(ramp(250, 200), 50, ("crop", place), crop_scale=[0.25, 0.64])
        sides.append((crop[0, -1, 0] - crop[0, 0, 0]) * 50 / 49)
    # A square of 200 pixels: sides from 200·√0.25 to 200·√0.64, give or take the rounding.
    assert 97 < min(sides) < 105
    assert 152 < max(sides) < 163
    areas = (np.array(sides) / 200) ** 2
    assert abs(areas.mean() - 0.445) < 0.03  # uniform in area


def test_a_fixed_crop_scale_moves_the_square() -> None:
    lefts = [shown(ramp(200, 100), 50, ("crop", p), crop_scale=[0.25, 0.25])[0, 0, 0] for p in range(300)]
    # 50 pixels wide in 200: the left end is uniform in 0 … 150.
    assert min(lefts) < 10
    assert max(lefts) > 140
    assert abs(np.mean(lefts) - 75) < 10


def test_flip() -> None:
    data = ramp(200, 200)
    for place in range(20):
        key = ("crop", place)
        upright = shown(data, 20, key, crop_scale=[0.2, 0.9], flip=0.0)
        mirrored = shown(data, 20, key, crop_scale=[0.2, 0.9], flip=1.0)
        assert (mirrored == upright[:, ::-1]).all()
        sometimes = shown(data, 20, key, crop_scale=[0.2, 0.9], flip=0.5)
        assert (sometimes == (mirrored if uniform(4, *key)[3] < 0.5 else upright)).all()


def test_flips_are_as_frequent_as_asked_for() -> None:
    flipped = sum(shown(ramp(20, 20), 4, ("f", p), flip=0.25)[0, 0, 0] > 10 for p in range(1000))
    assert 190 < flipped < 310  # 250, standard deviation 14


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims to be of this size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + PNG[33:]


def jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header claims to be of this size."""
    at = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:at] + struct.pack(">HH", height, width) + JPEG[at + 4 :]


NO_IMAGES: dict[str, bytes] = {
    "nothing": b"",
    "jpeg, two bytes": b"\xff\xd8",
    "jpeg, three bytes": b"\xff\xd8\xff",
    "jpeg, cut in its header": JPEG[:200],
    "jpeg, cut in the middle": JPEG[: len(JPEG) // 2],
    "jpeg, cut before its end": JPEG[:-2],
    "jpeg, CMYK, cut": encoded(QUARTERS.convert("CMYK"), "JPEG")[:-200],
    "png, cut in its header": PNG[:30],
    "png, cut behind its header": PNG[:33],
    "png, cut in the middle": PNG[: len(PNG) // 2],
    "png, overwritten": PNG[:60] + bytes(20) + PNG[80:],
    "png, no pixels": png_of_size(0, 16),
    "text": b"<html>Not found</html>",
    "pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES)
def test_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableError):
        shown(data)


@pytest.mark.parametrize("data", [jpeg_of_size(60_000, 60_000), png_of_size(60_000, 60_000)], ids=["jpeg", "png"])
def test_decompression_bombs_are_not_decoded(data: bytes) -> None:
    with pytest.raises(UndecodableError, match=r"60000x60000 pixels|3600000000 pixels"):
        shown(data)


def test_the_bound_on_pixels_is_pillows() -> None:
    assert Pillow.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS == 2 * Pillow.MAX_IMAGE_PIXELS


def test_jpeg_and_png_have_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.data.decode.MAX_PIXELS", 2000)
    monkeypatch.setattr(Pillow, "MAX_IMAGE_PIXELS", 1000)
    for kind in ("JPEG", "PNG"):
        assert shown(encoded(Pillow.new("RGB", (40, 50), "white"), kind), size=4).min() > 250
        with pytest.raises(UndecodableError):
            shown(encoded(Pillow.new("RGB", (41, 50)), kind), size=4)


@given(st.sampled_from([JPEG, PNG, encoded(QUARTERS, "WEBP"), encoded(QUARTERS, "GIF")]), st.data())
@settings(deadline=None, max_examples=300)
def test_damaged_bytes_are_decoded_or_undecodable(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    junk = draw.draw(st.binary(max_size=8))
    rest = data[at + len(junk) :] if draw.draw(st.booleans()) else b""
    with contextlib.suppress(UndecodableError):
        shown(data[:at] + junk + rest, size=4)
