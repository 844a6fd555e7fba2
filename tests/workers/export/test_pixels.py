"""What an export prepares images with gives the pixels that evaluations see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from jobspecs.columns import Image
from tests.workers.data.pictures import LOSSLESS, encoded, exif_of, photo
from workers.data.decode import decode_views
from workers.export.pixels import pixels


def of_evaluations(data: bytes, size: int) -> np.ndarray:
    views = np.empty((1, size, size, 3), np.uint8)
    decode_views(data, Image(size=size), None, views)
    return views[0]


def _translucent() -> Pillow.Image:
    picture = photo(70, 50).copy()
    picture.putalpha(photo(70, 50).convert("L"))
    return picture


FILES = {
    "smaller": encoded(photo(20, 30), "PNG"),
    "larger": encoded(photo(301, 170), "WEBP", **LOSSLESS["WEBP"]),
    "palette": encoded(photo(70, 50).quantize(64), "GIF"),
    "translucent": encoded(_translucent(), "PNG"),
    "16 bits": encoded(Pillow.fromarray(np.asarray(photo(70, 50).convert("L")).astype(np.uint16) * 257), "PNG"),
    "gray JPEG": encoded(photo(70, 50).convert("L"), "JPEG"),
    **{f"JPEG at 1/{s}": encoded(photo(32 * s + 37, 33 * s + 5), "JPEG", quality=90) for s in (1, 2, 4, 8)},
    **{f"turned {turn}": encoded(photo(61, 50), "PNG", exif=exif_of(turn)) for turn in (3, 6)},
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_evaluations_see(name: str) -> None:
    found = pixels(FILES[name], 32)
    assert found.mode == "RGB"
    difference = np.abs(np.asarray(found).astype(int) - of_evaluations(FILES[name], 32))
    # A blurred picture that is turned rounds otherwise here and there.
    assert difference.max() <= (1 if name.startswith("turned") else 0)


def test_a_path_is_as_good_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(FILES["larger"])
    assert pixels(tmp_path / "a.png", 32).tobytes() == pixels(FILES["larger"], 32).tobytes()
