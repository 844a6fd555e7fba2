"""Changes of colour against torchvision's formulas in NumPy, Pillow, colorsys and scipy; view by view."""

from __future__ import annotations

import colorsys
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageEnhance
from scipy import ndimage
from torch import Tensor

from jobspecs.columns import Blur, Color, Jitter
from workers.data.augment import (
    BRIGHTNESS,
    COLOR_PARAMETERS,
    CONTRAST,
    GRAYSCALE,
    HUE,
    IDENTITY,
    ORDER,
    ORDERS,
    SATURATION,
    SIGMA,
    draw_color,
)
from workers.models.color import change_colors

Array = NDArray[np.float64]

# --- the references: one view (3, P, P) in float64, as torchvision's documentation has it ---------------------


def gray(view: Array) -> Array:
    """(1, P, P), ITU-R BT.601."""
    return np.tensordot([0.299, 0.587, 0.114], view, 1)[None]


def blended(view: Array, other: Array, factor: float) -> Array:
    return np.clip(factor * view + (1 - factor) * other, 0, 1)


def turned(view: Array, turn: float) -> Array:
    changed = np.empty_like(view)
    for y, x in np.ndindex(view.shape[1:]):
        hue, saturation, value = colorsys.rgb_to_hsv(*view[:, y, x])
        changed[:, y, x] = colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)
    return changed


def blurred(view: Array, sigma: float) -> Array:
    radius = max(1, view.shape[-1] // 20)
    for axis in (1, 2):
        # scipy's mirror is torch's reflect: the border itself is not repeated.
        view = ndimage.gaussian_filter1d(view, sigma, axis, mode="mirror", radius=radius)
    return view


REFERENCES = {
    BRIGHTNESS: lambda view, factor: blended(view, np.zeros_like(view), factor),
    CONTRAST: lambda view, factor: blended(view, gray(view).mean(keepdims=True), factor),
    SATURATION: lambda view, factor: blended(view, gray(view), factor),
    HUE: turned,
    GRAYSCALE: lambda view, _: np.repeat(gray(view), 3, axis=0),
    SIGMA: blurred,
}


def reference(view: Array, row: NDArray[Any]) -> Array:
    for column in (*ORDERS[int(row[ORDER])], GRAYSCALE, SIGMA):
        if row[column] != IDENTITY[column]:
            view = REFERENCES[column](view, row[column])
    return view


# --- what is changed ------------------------------------------------------------------------------------------


def pictures(count: int, side: int, seed: int = 0) -> Tensor:
    """uint8 (count, 3, side, side): noise, with black, white, gray and saturated parts."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (count, 3, side, side), np.uint8)
    pixels[:, :, : side // 4] = random.choice(np.array([0, 127, 255], np.uint8), (count, 3, 1, 1))
    pixels[:, :, :, : side // 4] = random.integers(0, 256, (count, 1, 1, 1))
    return torch.from_numpy(pixels)


def identity(count: int = 1, **changed: float) -> Tensor:
    """Rows of parameters that change nothing but what is named."""
    columns = {"brightness": BRIGHTNESS, "contrast": CONTRAST, "saturation": SATURATION, "hue": HUE}
    columns |= {"order": ORDER, "grayscale": GRAYSCALE, "sigma": SIGMA}
    rows = torch.tensor(IDENTITY).repeat(count, 1)
    for name, value in changed.items():
        rows[:, columns[name]] = value
    return rows


def drawn(count: int, color: Color | None = None) -> Tensor:
    return torch.from_numpy(np.stack([draw_color(color or Color(), ("color", place)) for place in range(count)]))


def unit(pixels: Tensor) -> Array:
    return pixels.numpy().astype(np.float64) / 255


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, f) for name in ("brightness", "contrast", "saturation") for f in (0.0, 0.2, 0.9, 1.1, 1.8, 4.0)],
        *[("hue", turn) for turn in (-0.5, -0.2, -1e-3, 0.05, 1 / 3, 0.5)],
        ("grayscale", 1.0),
        *[("sigma", sigma) for sigma in (1e-3, 0.1, 0.7, 2.0, 100.0)],
    ],
)
def test_each_change_is_torchvisions(name: str, value: float) -> None:
    pixels, rows = pictures(2, 40), identity(2, **{name: value})
    changed = change_colors(pixels, rows)
    assert changed.dtype == torch.float32
    for view, result, row in zip(unit(pixels), changed.numpy(), rows.numpy(), strict=True):
        np.testing.assert_allclose(result, reference(view, row), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "enhancer"),
    [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast), ("saturation", ImageEnhance.Color)],
)
@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
def test_enhancements_are_pillows(name: str, enhancer: Any, factor: float) -> None:
    (pixels,) = pictures(1, 40)
    picture = Pillow.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    expected = np.asarray(enhancer(picture).enhance(factor)).transpose(2, 0, 1)
    changed = change_colors(pixels[None], identity(**{name: factor}))[0].numpy() * 255
    # Pillow rounds the gray or the mean, which counts |1 - factor| times, and then cuts the result.
    assert np.abs(changed - expected).max() < 1.51


def test_gray_is_pillows() -> None:
    (pixels,) = pictures(1, 40)
    expected = np.asarray(Pillow.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).convert("L"))
    changed = change_colors(pixels[None], identity(grayscale=1.0))[0].numpy() * 255
    assert np.abs(changed - expected).max() < 0.51


def test_every_order_is_followed() -> None:
    rows = identity(24, brightness=1.6, contrast=0.4, saturation=1.9, hue=0.2)
    rows[:, ORDER] = torch.arange(24)
    pixels = pictures(1, 16).expand(24, -1, -1, -1)
    changed = change_colors(pixels, rows).numpy()
    for view, result, row in zip(unit(pixels), changed, rows.numpy(), strict=True):
        np.testing.assert_allclose(result, reference(view, row), rtol=0, atol=1e-5)
    # Each order has a result of its own: none was mistaken for another.
    assert len({np.round(result, 3).tobytes() for result in changed}) == 24


def test_a_batch_as_it_is_drawn() -> None:
    pixels, rows = pictures(60, 21), drawn(60)
    changed = change_colors(pixels, rows).numpy()
    for view, result, row in zip(unit(pixels), changed, rows.numpy(), strict=True):
        np.testing.assert_allclose(result, reference(view, row), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "span"), [(1, 1), (2, 3), (3, 3), (19, 3), (32, 3), (40, 5), (96, 9), (224, 23), (225, 23)]
)
def test_the_kernel_spans_a_tenth_of_the_side(side: int, span: int) -> None:
    middle = side // 2
    pixels = torch.zeros(1, 3, side, side)
    pixels[:, :, middle, middle] = 1
    changed = change_colors(pixels, identity(sigma=50.0))[0, 0]
    assert (changed[middle] > 0).sum() == (changed[:, middle] > 0).sum() == min(span, side)


# --- one view is not another's business -----------------------------------------------------------------------


@given(st.permutations(range(12)), st.integers(0, 12))
@settings(deadline=None, max_examples=20)
def test_a_view_depends_on_no_other(order: list[int], cut: int) -> None:
    pixels, rows = pictures(12, 24), drawn(12)
    whole = change_colors(pixels, rows)
    shuffled = change_colors(pixels[order], rows[order])
    parts = [change_colors(pixels[part], rows[part]) for part in (slice(cut), slice(cut, None))]
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=5e-6)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=5e-6)


@pytest.mark.parametrize("side", [33, 224])
def test_halves_and_single_views_give_what_the_batch_gives(side: int) -> None:
    pixels, rows = pictures(8, side), drawn(8, Color(jitter=Jitter(probability=1.0), blur=Blur(probability=1.0)))
    whole = change_colors(pixels, rows)
    for size in (4, 1):
        parts = [change_colors(pixels[at : at + size], rows[at : at + size]) for at in range(0, 8, size)]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=5e-6)


LEVELS = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)


def test_views_without_a_change_are_exactly_as_they_were() -> None:
    pixels = torch.cat([pictures(3, 16), LEVELS])
    exact = pixels.float() / 255
    assert torch.equal(change_colors(pixels, identity(4)), exact)
    assert torch.equal(change_colors(exact, identity(4)), exact)
    # Also beside views with one.
    rows = drawn(4)
    rows[[1, 3]] = identity(2, order=17)
    changed = change_colors(pixels, rows)
    assert torch.equal(changed[[1, 3]], exact[[1, 3]])
    assert not torch.equal(changed[0], exact[0])


def test_jitter_of_no_strength_is_no_change() -> None:
    none = Color(
        jitter=Jitter(probability=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0),
        grayscale=0.0,
        blur=Blur(probability=0.0),
    )
    pixels = pictures(8, 16)
    assert torch.equal(change_colors(pixels, drawn(8, none)), pixels.float() / 255)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_what_comes_in_is_left_alone(dtype: torch.dtype) -> None:
    pixels = LEVELS if dtype == torch.uint8 else (LEVELS / 255).to(dtype)
    rows = identity(1, brightness=0.5)
    kept, kept_rows = pixels.clone(), rows.clone()
    changed = change_colors(pixels, rows)
    changed.zero_()
    assert torch.equal(pixels, kept)
    assert torch.equal(rows, kept_rows)


def test_the_layout_in_memory_does_not_matter() -> None:
    pixels, rows = pictures(10, 32), drawn(10)
    channels_last = pixels.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    changed = change_colors(channels_last, rows)
    assert changed.is_contiguous()
    assert torch.equal(changed, change_colors(pixels, rows))


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_stay_finite_and_in_range(level: int) -> None:
    pixels = torch.full((100, 3, 8, 8), level, dtype=torch.uint8)
    changed = change_colors(pixels, drawn(100))
    assert changed.isfinite().all()
    assert 0 <= changed.min() <= changed.max() <= 1 + 1e-6


def test_rows_of_zeros_are_allowed() -> None:
    # As a loader leaves them for a sample that it could not read.
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert torch.equal(change_colors(pixels, torch.zeros(2, COLOR_PARAMETERS)), torch.zeros(2, 3, 8, 8))


def test_no_views() -> None:
    assert change_colors(pictures(0, 8), identity(0)).shape == (0, 3, 8, 8)


# --- under training -------------------------------------------------------------------------------------------


def test_autocast_takes_no_digits() -> None:
    pixels, rows = pictures(20, 24), drawn(20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        changed = change_colors(pixels, rows)
    assert torch.equal(changed, change_colors(pixels, rows))


def test_no_graph_is_kept() -> None:
    pixels = (LEVELS / 255).requires_grad_()
    assert not change_colors(pixels, drawn(1)).requires_grad


def test_parameters_of_other_views_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"parameters are \(2, 7\), not \(3, 7\)"):
        change_colors(pictures(2, 8), identity(3))


def test_kornia_is_imported_on_first_use_only() -> None:
    code = "import sys, workers.models.color; print('kornia' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "False"
