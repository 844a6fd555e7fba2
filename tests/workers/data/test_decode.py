"""Images of every kind, held in every way."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageOps

from tests.workers.data.pictures import LOSSLESS, QUARTERS, decoded, encoded, exif_of, photo, psnr, shown

# --- kinds of images ----------------------------------------------------------------------------------

JPEG, PNG = encoded(QUARTERS, "JPEG"), encoded(QUARTERS, "PNG")
PALETTE = QUARTERS.convert("P", palette=Pillow.Palette.ADAPTIVE)
OTHERS: dict[str, Any] = {"save_all": True, "append_images": [QUARTERS.rotate(90), QUARTERS.rotate(180)]}
# With the difference that each may have.
COLOURED: dict[str, tuple[bytes, int]] = {
    "jpeg": (encoded(QUARTERS, "JPEG", quality=95), 8),
    "jpeg, progressive": (encoded(QUARTERS, "JPEG", quality=95, progressive=True), 8),
    "jpeg, 4:4:4": (encoded(QUARTERS, "JPEG", quality=95, subsampling=0), 3),
    "jpeg, 4:2:2": (encoded(QUARTERS, "JPEG", quality=95, subsampling=1), 8),
    "jpeg, RGB": (encoded(QUARTERS, "JPEG", quality=95, keep_rgb=True), 3),
    "jpeg, CMYK": (encoded(QUARTERS.convert("CMYK"), "JPEG", quality=95), 3),
    "jpeg, bytes behind its end": (encoded(QUARTERS, "JPEG", quality=95) + b"\0" * 100, 8),
    "png": (PNG, 0),
    "png, alpha": (encoded(QUARTERS.convert("RGBA"), "PNG"), 0),
    "png, palette": (encoded(PALETTE, "PNG"), 0),
    "png, animated": (encoded(QUARTERS, "PNG", **OTHERS), 0),
    "webp": (encoded(QUARTERS, "WEBP", lossless=True), 0),
    "webp, lossy": (encoded(QUARTERS, "WEBP", quality=95), 8),
    "webp, alpha": (encoded(QUARTERS.convert("RGBA"), "WEBP", lossless=True), 0),
    "webp, animated": (encoded(QUARTERS, "WEBP", lossless=True, **OTHERS), 0),
    "gif": (encoded(QUARTERS, "GIF"), 0),
    "gif, animated": (encoded(QUARTERS, "GIF", **OTHERS), 0),
    "bmp": (encoded(QUARTERS, "BMP"), 0),
}


@pytest.mark.parametrize(("data", "tolerance"), COLOURED.values(), ids=COLOURED)
def test_colours(data: bytes, tolerance: int) -> None:
    difference = np.abs(shown(data) - np.asarray(QUARTERS).astype(int))
    # Away from the borders of the quarters, where chroma subsampling mixes them.
    inner = difference.reshape(2, 16, 2, 16, 3)[:, 4:12, :, 4:12]
    assert inner.max() <= tolerance


def translucent(mode: str) -> Pillow.Image:
    """Black of opacities 0 … 255, one a pixel."""
    alpha = Pillow.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    picture = Pillow.new(mode, (16, 16), 0)
    picture.putalpha(alpha)
    return picture


TRANSPARENT: dict[str, bytes] = {
    "png, RGBA": encoded(translucent("RGB"), "PNG"),
    "png, LA": encoded(translucent("L"), "PNG"),
    "webp, RGBA": encoded(translucent("RGB"), "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("data", TRANSPARENT.values(), ids=TRANSPARENT)
def test_what_is_transparent_lies_on_white(data: bytes) -> None:
    assert np.abs(shown(data, size=16) - 255 + np.arange(256).reshape(16, 16, 1)).max() <= 1


def test_a_transparent_colour_lies_on_white() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    gray = Pillow.fromarray(pixels)
    palette = gray.convert("RGB").convert("P", palette=Pillow.Palette.ADAPTIVE, colors=256)
    black_in_palette = int(np.asarray(palette)[0, 0])
    expected = np.where(pixels == 0, 255, pixels)[..., None]
    for data in (
        encoded(gray, "PNG", transparency=0),
        encoded(gray.convert("RGB"), "PNG", transparency=(0, 0, 0)),
        encoded(palette, "PNG", transparency=black_in_palette),
        encoded(palette, "PNG", transparency=bytes(0 if i == black_in_palette else 255 for i in range(256))),
        encoded(palette, "GIF", transparency=black_in_palette),
    ):
        assert (shown(data, size=16) == expected).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_grayscale(kind: str) -> None:
    gray = np.asarray(QUARTERS.convert("L")).astype(int)[..., None]
    difference = np.abs(shown(encoded(QUARTERS.convert("L"), kind)) - gray)
    assert difference.reshape(2, 16, 2, 16, 3)[:, 4:12, :, 4:12].max() <= 4


def test_black_and_white() -> None:
    pixels = np.eye(8, dtype=bool)
    data = encoded(Pillow.fromarray(pixels), "PNG")
    assert (shown(data, size=8) == pixels[..., None] * 255).all()


def adobe_transform(cmyk: bytes, value: int) -> bytes:
    """A CMYK JPEG whose Adobe marker says otherwise: 2 means YCCK."""
    at = cmyk.index(b"Adobe") + 11
    return cmyk[:at] + bytes([value]) + cmyk[at + 1 :]


def subsampled(luma: int) -> bytes:
    """A JPEG of quarters whose header claims another subsampling of the luma, as in 0x42 for 4:1:0."""
    data = encoded(QUARTERS, "JPEG", subsampling=0)
    at = data.index(b"\xff\xc0") + 11
    return data[:at] + bytes([luma]) + data[at + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        adobe_transform(encoded(QUARTERS.convert("CMYK"), "JPEG", quality=95), 2),
        subsampled(0x42),
        subsampled(0x13),
    ],
    ids=["YCCK", "4:1:0", "1x3"],
)
def test_rare_jpegs_look_as_pillow_decodes_them(data: bytes) -> None:
    # The colours are those of bytes declared wrongly; all that counts is that both see the same.
    assert np.abs(shown(data) - np.asarray(decoded(data)).astype(int)).max() <= 2


def test_sixteen_bits_are_scaled_to_eight() -> None:
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    data = encoded(Pillow.fromarray(deep), "PNG")
    assert Pillow.open(io.BytesIO(data)).mode.startswith("I")
    assert (shown(data, size=16) == np.arange(256).reshape(16, 16, 1)).all()
    turned = encoded(Pillow.fromarray(deep), "PNG", exif=exif_of(3))
    assert (shown(turned, size=16) == np.arange(256)[::-1].reshape(16, 16, 1)).all()


# --- orientation --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("width", "height", "size"), [(61, 83, 47), (84, 61, 60), (413, 277, 100)])
def test_views_are_cut_from_the_upright_image(kind: str, orientation: int, width: int, height: int, size: int) -> None:
    data = encoded(photo(width, height), kind, exif=exif_of(orientation), **LOSSLESS.get(kind, {}))
    with Pillow.open(io.BytesIO(data)) as picture:
        upright = encoded(ImageOps.exif_transpose(picture), "PNG", exif=Pillow.Exif())
    scaled = kind == "JPEG" and min(width, height) >= 2 * size
    for key in (None, ("a",), ("b",)):
        how: dict[str, Any] = {"crop_scale": [0.4, 0.9], "flip": 0.5, "key": key}
        # What is decoded at half its size is off by up to half a pixel (test_views.py); the rest is rounding.
        assert psnr(shown(data, size, **how), shown(upright, size, **how)) > (26 if scaled else 50)


def with_segment(marker: int, content: bytes, jpeg: bytes) -> bytes:
    """A JPEG with another segment at its begin."""
    return jpeg[:2] + bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content + jpeg[2:]


def test_exif_is_found_behind_other_segments() -> None:
    upright = shown(encoded(QUARTERS, "JPEG"))
    turned = encoded(QUARTERS, "JPEG", exif=exif_of(3))
    for count in (1, 3):
        data = turned
        for _ in range(count):
            data = with_segment(0xE2, b"ICC_PROFILE\0" + bytes(60_000), data)
        assert (shown(data) == upright[::-1, ::-1]).all()


NO_ORIENTATION: dict[str, bytes] = {
    "nothing": b"",
    "zeros": bytes(40),
    "text": b"this is no TIFF header at all",
    "cut": exif_of(6).tobytes()[:-8],
    "zero": exif_of(0).tobytes(),
    "nine": exif_of(9).tobytes(),
    "text for a number": exif_of(6).tobytes().replace(b"\x01\x12\0\x03", b"\x01\x12\0\x02"),
}


@pytest.mark.parametrize("exif", NO_ORIENTATION.values(), ids=NO_ORIENTATION)
def test_odd_exif_masks_no_sample(exif: bytes) -> None:
    exif = exif.removeprefix(b"Exif\0\0")
    # Put in by hand: Pillow writes none of it for some.
    assert (shown(with_segment(0xE1, b"Exif\0\0" + exif, JPEG)) == shown(JPEG)).all()
    for kind in ("PNG", "WEBP"):
        data = encoded(QUARTERS, kind, exif=b"Exif\0\0" + exif, **LOSSLESS.get(kind, {}))
        assert (shown(data) == shown(PNG)).all()


def test_text_that_names_exif_turns_nothing() -> None:
    comment = exif_of(3).tobytes()
    assert comment.startswith(b"Exif")
    assert (shown(with_segment(0xFE, comment, JPEG)) == shown(JPEG)).all()
    assert (shown(JPEG + comment) == shown(JPEG)).all()
