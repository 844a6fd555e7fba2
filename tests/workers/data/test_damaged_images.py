"""Images that are damaged, too large, or none: each with its cause, and none that ends the loader."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageFile

from jobspecs.columns import Image
from tests.workers.data.pictures import (
    QUARTERS,
    encoded,
    exif_of,
    gif_of_size,
    jpeg_of_size,
    photo,
    png_chunk,
    png_of_size,
    shown,
    webp_of_size,
)
from workers.data.decode import DecodeError, decode_views

JPEG, PNG = encoded(QUARTERS, "JPEG"), encoded(QUARTERS, "PNG")
PROGRESSIVE, CMYK = encoded(QUARTERS, "JPEG", progressive=True), encoded(QUARTERS.convert("CMYK"), "JPEG")
WEBP, WEBP_LOSSLESS = encoded(QUARTERS, "WEBP"), encoded(QUARTERS, "WEBP", lossless=True)
PHOTO = encoded(photo(64, 64), "JPEG")
GIF, BMP = encoded(QUARTERS, "GIF"), encoded(QUARTERS, "BMP")
ANIMATED = encoded(QUARTERS, "WEBP", save_all=True, append_images=[QUARTERS.rotate(90)])


def cut(data: bytes, fraction: float) -> bytes:
    return data[: int(len(data) * fraction)]


def with_chunk(name: bytes, content: bytes) -> bytes:
    """A PNG with another chunk behind its header."""
    return PNG[:33] + png_chunk(name, content) + PNG[33:]


DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "one byte": b"\xff",
    "jpeg, two bytes": b"\xff\xd8",
    "jpeg, three bytes": b"\xff\xd8\xff",
    "jpeg, begin and end": b"\xff\xd8\xff\xd9",
    "jpeg, cut in its header": JPEG[:200],
    "jpeg, cut in the middle": cut(JPEG, 0.95),
    "jpeg, cut before its end": JPEG[:-2],
    "jpeg, progressive, cut": cut(PROGRESSIVE, 0.9),
    "jpeg, CMYK, cut": CMYK[:-200],
    "jpeg, overwritten": PHOTO[:-300] + bytes(100) + PHOTO[-200:],
    "jpeg, no pixels": jpeg_of_size(0, 0),
    "jpeg, no rows": jpeg_of_size(32, 0),
    "jpeg, larger than its data": jpeg_of_size(2000, 2000),
    "png, signature": PNG[:8],
    "png, cut in its header": PNG[:30],
    "png, cut behind its header": PNG[:33],
    "png, cut in the middle": cut(PNG, 0.5),
    "png, overwritten": PNG[:60] + bytes(20) + PNG[80:],
    "png, no pixels": png_of_size(0, 16),
    "png, larger than its data": png_of_size(2000, 2000, bytes(6001))[:-20],
    "png, an impossible depth": png_of_size(8, 8, bytes(100), depth=5),
    "png, text that explodes": with_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(8 << 20), 9)),
    "png, a profile that explodes": with_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(8 << 20), 9)),
    "webp, cut in its header": WEBP[:20],
    "webp, cut in the middle": cut(WEBP, 0.5),
    "webp, lossless, cut": cut(WEBP_LOSSLESS, 0.5),
    "webp, larger than its data": webp_of_size(2000, 2000)[:-20],
    "webp, animated, cut": cut(ANIMATED, 0.3),
    "gif, cut in its header": GIF[:12],
    "gif, cut in the middle": cut(GIF, 0.97),
    "gif, no pixels": gif_of_size(0, 0).replace(b",\0\0\0\0 \0 \0", b"," + bytes(8)),
    "bmp, cut": cut(BMP, 0.5),
    "bmp, no pixels": BMP[:18] + bytes(8) + BMP[26:],
    "the magic of another format": b"\xff\xd8" + PNG[2:],
    "a format's magic, then text": b"\x89PNG\r\n\x1a\n<html>Not found</html>",
    "text": b"<html>Not found</html>",
    "svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>',
    "zeros": bytes(1000),
    "pickle": b"\x80\x04K\x01.",
    "tiff": encoded(QUARTERS, "TIFF"),
    "tiff, floating point": encoded(Pillow.new("F", (8, 8), 0.5), "TIFF"),
    "tiff, integers": encoded(Pillow.new("I", (8, 8), 70_000), "TIFF"),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED)
def test_undecodable(data: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        shown(data)
    assert caught.value.cause == "undecodable"


def test_no_other_program_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    # Pillow hands EPS to Ghostscript where that is installed.
    def started(*args: object, **options: object) -> None:
        pytest.fail(f"started: {args}")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(subprocess, "check_call", started)
    test_undecodable(encoded(QUARTERS, "EPS"))


TOO_LARGE: dict[str, bytes] = {
    "jpeg": jpeg_of_size(60_000, 60_000),
    "jpeg, the largest there is": jpeg_of_size(65_535, 65_535),
    "jpeg, a long line": jpeg_of_size(60_000, 1000),
    "png": png_of_size(60_000, 60_000),
    "png, the largest there is": png_of_size(2**31 - 1, 2**31 - 1),
    "png, zeros": png_of_size(8000, 8000, bytes(8000 * 1001), depth=1, colours=0),
    "png, 16 bits": png_of_size(60_000, 60_000, depth=16, colours=0),
    "webp": webp_of_size(16_000, 16_000),
    "gif": gif_of_size(65_535, 65_535),
    "bmp": BMP[:18] + (60_000).to_bytes(4, "little") * 2 + BMP[26:],
}


@pytest.mark.parametrize("data", TOO_LARGE.values(), ids=TOO_LARGE)
def test_decompression_bombs_are_told_by_their_header(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*args: object) -> None:
        pytest.fail("the pixels were decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    monkeypatch.setattr("simplejpeg.decode_jpeg", decoded)
    with pytest.raises(DecodeError, match=r"^\d+x\d+ pixels, max_pixels is 50000000$") as caught:
        shown(data)
    assert caught.value.cause == "too_large"


def test_bombs_take_no_memory() -> None:
    code = "from tests.workers.data.test_damaged_images import peak_of_bombs; print(peak_of_bombs())"
    root = Path(__file__).parents[3]
    grown = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout
    assert int(grown) < 64 << 20


def peak_of_bombs() -> int:
    """Bytes by which the process's peak grows."""
    before = peak()
    for data in TOO_LARGE.values():
        with contextlib.suppress(DecodeError):
            shown(data)
    return peak() - before


def peak() -> int:
    """Bytes that this process held at most. (`getrusage` counts those of its parent in.)"""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) << 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_the_bound_is_the_specs_for_all_formats(kind: str) -> None:
    for key in (None, ("k",)):
        assert shown(encoded(Pillow.new("RGB", (40, 50), "white"), kind), 4, key, max_pixels=2000).min() > 250
        with pytest.raises(DecodeError, match="41x50 pixels, max_pixels is 2000") as caught:
            shown(encoded(Pillow.new("RGB", (41, 50)), kind), 4, key, max_pixels=2000)
        assert caught.value.cause == "too_large"


def test_pillow_has_no_bound_of_its_own() -> None:
    # It refuses 179 million pixels otherwise, whatever the spec says.
    with pytest.raises(DecodeError) as caught:
        shown(png_of_size(1_000_000, 200), max_pixels=200_000_000)
    assert caught.value.cause == "undecodable"


def test_a_machine_without_memory_masks_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*args: object) -> None:
        raise MemoryError

    # The batch would depend on the machine.
    monkeypatch.setattr(ImageFile.ImageFile, "load", exhausted)
    with pytest.raises(MemoryError):
        shown(BMP)


SEEDS = [JPEG, PROGRESSIVE, CMYK, PNG, WEBP, WEBP_LOSSLESS, ANIMATED, GIF, BMP]
SEEDS += [encoded(QUARTERS, kind, exif=exif_of(6)) for kind in ("JPEG", "PNG", "WEBP")]
SEEDS += [encoded(QUARTERS.convert("P"), "PNG", transparency=b"\0\x80"), encoded(QUARTERS.convert("1"), "PNG")]


@given(st.sampled_from(SEEDS), st.booleans(), st.data())
@settings(deadline=None, max_examples=400)
def test_damaged_bytes_are_decoded_or_undecodable(data: bytes, is_cut: bool, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    junk = draw.draw(st.binary(max_size=8))
    damaged = data[:at] + junk + (b"" if is_cut else data[at + len(junk) :])
    with contextlib.suppress(DecodeError):
        decode_views(damaged, Image(size=4), None, np.empty((1, 4, 4, 3), np.uint8))
