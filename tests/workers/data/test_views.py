"""What a view shows: the place that its key draws, as sharp as Pillow scales it, and nothing else."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow

from jobspecs.columns import Image
from tests.workers.data.pictures import LOSSLESS, QUARTERS, decoded, encoded, exif_of, photo, psnr, shown, views_of
from workers.data.augment import centred_square, random_crop
from workers.data.keyed import Key


def ramp(width: int, height: int, axis: int = 1) -> bytes:
    """A PNG whose brightness is the column (or row) number."""
    numbers = np.arange(width if axis == 1 else height, dtype=np.uint8)
    pixels = np.broadcast_to(numbers[None, :] if axis == 1 else numbers[:, None], (height, width))
    return encoded(Pillow.fromarray(np.ascontiguousarray(pixels)), "PNG")


def test_without_a_key_the_centred_square_is_shown() -> None:
    wide, high = shown(ramp(60, 20), size=20), shown(ramp(20, 60, axis=0), size=20)
    assert (wide[0, :, 0] == np.arange(20, 40)).all()
    assert (high[:, 0, 0] == np.arange(20, 40)).all()
    assert (wide == wide[:1]).all()


def test_augmentation_is_for_keys_only() -> None:
    both = views_of(ramp(60, 20), size=20, crop_scale=[0.1, 0.2], flip=1.0, views=2)
    assert (both == shown(ramp(60, 20), size=20)).all()


def test_the_whole_square_is_centred_under_any_key() -> None:
    centred = shown(ramp(60, 20), size=20)
    for place in range(10):
        assert (shown(ramp(60, 20), 20, ("crop", place), crop_scale=[1.0, 1.0]) == centred).all()


def test_an_image_of_one_pixel() -> None:
    for data in (encoded(Pillow.new("RGB", (1, 1), (10, 20, 30)), kind) for kind in ("PNG", "BMP")):
        for key in (None, ("k",)):
            assert (shown(data, 4, key, crop_scale=[0.1, 1.0], flip=0.5) == [10, 20, 30]).all()


@pytest.mark.parametrize(
    "data", [encoded(QUARTERS, "PNG"), encoded(photo(201, 147), "JPEG")], ids=["png", "jpeg, scaled"]
)
def test_a_flip_is_exact(data: bytes) -> None:
    for place in range(10):
        key = ("crop", place)
        upright = shown(data, 20, key, crop_scale=[0.2, 0.9], flip=0.0)
        mirrored = shown(data, 20, key, crop_scale=[0.2, 0.9], flip=1.0)
        assert (mirrored == upright[:, ::-1]).all()
        sometimes = shown(data, 20, key, crop_scale=[0.2, 0.9], flip=0.5)
        section = Image(size=20, crop_scale=[0.2, 0.9], flip=0.5)
        flipped = random_crop(section, *reversed(decoded(data).size), (*key, 0)).flipped
        assert (sometimes == (mirrored if flipped else upright)).all()


def test_views_differ_and_each_has_its_own_draws() -> None:
    data, how = ramp(200, 200), {"crop_scale": [0.2, 0.9], "flip": 0.5}
    seen = set()
    for place in range(20):
        one, two = views_of(data, 20, ("crop", place), views=2, **how)
        assert (one == shown(data, 20, ("crop", place), **how)).all()
        seen |= {one.tobytes(), two.tobytes()}
    assert len(seen) >= 36  # now and then two crops of a ramp look alike


KEYED = [encoded(photo(87, 131), kind, **LOSSLESS.get(kind, {})) for kind in ("JPEG", "PNG", "WEBP")]


@given(
    st.sampled_from(KEYED),
    st.lists(st.integers(-(2**63), 2**64) | st.text(max_size=5), max_size=4).map(tuple),
    st.integers(1, 40),
    st.integers(1, 2),
)
@settings(deadline=None, max_examples=100)
def test_views_depend_on_the_key_alone(data: bytes, key: Key, size: int, views: int) -> None:
    how: dict[str, Any] = {"crop_scale": [0.08, 1.0], "flip": 0.5, "views": views}
    first = views_of(data, size, key, **how)
    assert first.dtype == np.uint8
    views_of(data, size, (*key, "another"), **how)
    assert (views_of(data, size, key, **how) == first).all()


def test_views_do_not_depend_on_the_process() -> None:
    code = (
        "import sys, numpy; from jobspecs.columns import Image; from workers.data.decode import decode_views\n"
        "out = numpy.empty((2, 9, 9, 3), numpy.uint8)\n"
        "image = Image(size=9, crop_scale=[0.2, 0.9], flip=0.5, views=2)\n"
        "decode_views(sys.stdin.buffer.read(), image, (7, 'crop', 'web', 3), out)\n"
        "sys.stdout.buffer.write(out.tobytes())"
    )
    data, key = encoded(photo(87, 131), "JPEG"), (7, "crop", "web", 3)
    other = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True).stdout
    assert other == views_of(data, 9, key, crop_scale=[0.2, 0.9], flip=0.5, views=2).tobytes()


# --- place --------------------------------------------------------------------------------------------


def slope(width: int, height: int, axis: int) -> tuple[Pillow.Image, float]:
    """A picture that grows brighter from column to column (axis 0) or row to row (1), and by how much."""
    step = 250 / max(width, height)
    exact = np.mgrid[0:height, 0:width][1 - axis] * step
    dither = np.random.default_rng([width, height]).uniform(-0.5, 0.5, exact.shape)
    return Pillow.fromarray(np.rint(exact + dither).clip(0, 255).astype(np.uint8)), step


def stored(upright: Pillow.Image, orientation: int) -> Pillow.Image:
    """The picture as a camera that was held so stores it: what `exif_transpose` undoes."""
    turn = Pillow.Transpose
    undone = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    return upright if orientation == 1 else upright.transpose(undone[orientation])


@given(
    st.sampled_from(["JPEG", "PNG"]),
    st.integers(1, 8),
    st.integers(1, 200),
    st.integers(1, 200),
    st.integers(0, 1),
    st.integers(1, 64),
    st.none() | st.tuples(st.integers(0, 100)),
)
@settings(deadline=None, max_examples=200)
def test_nothing_is_shifted(
    kind: str, orientation: int, width: int, height: int, axis: int, size: int, key: Key | None
) -> None:
    picture, step = slope(width, height, axis)
    options = {"quality": 100} if kind == "JPEG" else {}
    data = encoded(stored(picture, orientation), kind, exif=exif_of(orientation), **options)
    section = Image(size=size, crop_scale=[0.1, 1.0], crop_ratio=[0.3, 3.0], flip=0.5, views=2)
    crops = [centred_square(height, width)] * 2
    if key is not None:
        crops = [random_crop(section, height, width, (*key, view)) for view in range(2)]
    for view, crop in zip(views_of(data, **dict(section), key=key), crops, strict=True):
        start, length = (crop.left, crop.width) if axis == 0 else (crop.top, crop.height)
        places = start + (np.arange(size) + 0.5) * length / size - 0.5
        seen = (view[:, ::-1] if crop.flipped else view)[..., 0].mean(axis=axis) / step
        off = np.abs(seen - places) * size / length  # in pixels of the view
        outermost = math.ceil(3 * max(1, size / length))  # where the border is mixed in
        # Half a level each for the rounding of the encoder, the decoder and the resizing.
        assert off[outermost:-outermost].max(initial=0) < 0.5 + 1.5 / step * size / length


# --- quality ------------------------------------------------------------------------------------------

# Width, height and size of the view, what the centred square is decoded at, and the least PSNR in dB against
# Pillow's antialiased bicubic filter of the whole decode; about 2 dB more were seen. Pillow's own bilinear filter
# has 37 to 42 dB. Where borders of the square fall between decoded pixels they move by up to half of one, which
# costs up to 9 dB in such noise and changes nothing that is seen.
QUALITY: list[tuple[int, int, int, int, float]] = [
    (224, 224, 224, 1, 90),
    (250, 260, 224, 1, 47),
    (512, 384, 224, 1, 42),
    (447, 447, 224, 1, 42),
    (448, 448, 224, 2, 36),
    (449, 449, 224, 2, 27),
    (640, 481, 224, 2, 28),
    (1024, 768, 224, 2, 41),
    (895, 895, 224, 2, 33),
    (896, 896, 224, 4, 37),
    (901, 1001, 224, 4, 28),
    (1792, 1792, 224, 8, 38),
    (1200, 1100, 32, 8, 35),
    (100, 75, 224, 1, 40),  # larger than the image: Pillow's filter is softer there
    (1000, 20, 224, 1, 49),
    (20, 1000, 16, 1, 44),
    (1, 1, 224, 1, 90),
]


@pytest.mark.parametrize(("width", "height", "size", "scale", "floor"), QUALITY)
def test_views_are_as_sharp_as_pillow_scales_them(
    width: int, height: int, size: int, scale: int, floor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    scales = []
    decode = simplejpeg.decode_jpeg

    def noted(*args: Any, **options: Any) -> Any:
        pixels = decode(*args, **options)
        scales.append(round(height / len(pixels)))
        return pixels

    monkeypatch.setattr(simplejpeg, "decode_jpeg", noted)
    data = encoded(photo(width, height), "JPEG", quality=90)
    crop = centred_square(height, width)
    box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
    reference = decoded(data).resize((size, size), Pillow.Resampling.BICUBIC, box=box)
    assert psnr(views_of(data, size)[0], np.asarray(reference)) > floor
    assert scales == [scale]
