"""The colours of views, changed in batches on the device: SimCLR's jitter, grayscale and blur.

In: pixels, and a row of colour parameters for each view, as `workers.data.augment.draw_color` drew them. Out:
pixels in 0 … 1. The models call it before they normalise.

Results are those of torchvision's `ColorJitter`, `RandomGrayscale` and `GaussianBlur` on float tensors (but with
0.299 for its 0.2989 in the gray), except that each view has its own factors and its own order of operations. No
view depends on its neighbours, so a batch may be split over ranks and micro-batches at will: splits differed by
at most 1.3e-6 on a CPU, which sums the mean of a single view in another order.

m views of P×P pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

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
)

Change = Callable[[Tensor, Tensor], Tensor]
"""Views (k, 3, P, P) and a parameter of each (k,) -> the changed views."""


def change_colors(pixels: Tensor, parameters: Tensor) -> Tensor:
    """`pixels`, uint8 or floating in 0 … 1, (m, 3, P, P) -> float32 (m, 3, P, P) in 0 … 1, a new tensor.

    `parameters` are floating (m, COLOR_PARAMETERS) in the layout of `workers.data.augment`, best on the CPU, where
    the loader leaves them: which views an operation is for is then known without waiting for the device.
    Views without a change come out as they went in (uint8 divided by 255). No gradients. In float32 also under
    autocast.
    """
    expected = (len(pixels), COLOR_PARAMETERS)
    assert parameters.shape == expected, f"parameters are {expected}, not {tuple(parameters.shape)}"
    # kornia takes a few tenths of a second to import: a job without colour changes never does.
    from kornia.color import rgb_to_grayscale
    from kornia.enhance import (
        adjust_brightness_accumulative,
        adjust_contrast_with_mean_subtraction,
        adjust_hue,
        adjust_saturation_with_gray_subtraction,
    )

    jitter: dict[int, Change] = {
        BRIGHTNESS: adjust_brightness_accumulative,
        CONTRAST: adjust_contrast_with_mean_subtraction,
        SATURATION: adjust_saturation_with_gray_subtraction,
        HUE: lambda views, turn: adjust_hue(views, 2 * math.pi * turn),
    }
    after: dict[int, Change] = {
        GRAYSCALE: lambda views, _: rgb_to_grayscale(views).expand_as(views),
        SIGMA: _blurred,
    }
    with torch.no_grad(), torch.autocast(pixels.device.type, enabled=False):
        views = _unit_interval(pixels)
        parameters = parameters.to("cpu", torch.float32)
        changed = parameters != torch.tensor(IDENTITY)
        orders = torch.tensor(ORDERS)[parameters[:, ORDER].long()]  # (m, 4)
        for operations in orders.T:
            for operation, change in jitter.items():
                rows = changed[:, operation] & (operations == operation)
                _apply(change, views, parameters[:, operation], rows)
        for column, change in after.items():
            _apply(change, views, parameters[:, column], changed[:, column])
    return views


def _apply(change: Change, views: Tensor, parameter: Tensor, chosen: Tensor) -> None:
    """Changes the chosen views, in place. All (m, …); `parameter` and `chosen` on the CPU."""
    (rows,) = chosen.nonzero(as_tuple=True)
    if len(rows):
        on_device = rows.to(views.device, non_blocking=True)
        views[on_device] = change(views[on_device], parameter[rows])


def _unit_interval(pixels: Tensor) -> Tensor:
    """A float32 copy in 0 … 1."""
    views = pixels.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    return views if pixels.is_floating_point() else views.div_(255)


def _blurred(views: Tensor, sigma: Tensor) -> Tensor:
    """(k, 3, P, P) and (k,) -> the blurred views. The kernel spans a tenth of the side, as in SimCLR, at least
    three pixels, and mirrors a view at its border.
    """
    from kornia.filters import gaussian_blur2d

    side = views.shape[-1]
    radius = min(max(1, side // 20), side - 1)
    return gaussian_blur2d(views, 2 * radius + 1, sigma[:, None].expand(-1, 2))
