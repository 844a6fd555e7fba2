"""Our preparation of images -> what gives the same pixels without Tandem.

An image processor of transformers scales the shorter side by Pillow's bicubic filter and takes the centred square of
that; ours takes the square first, and scales it by OpenCV's cubic filter behind a slight blur, JPEGs at a fraction of
their size where they are much larger. Of an image that has the model's size already the pixels are equal. Of photos
they differ by 32 to 50 dB (workers/data/resize.py, decode.py), which models of few pixels feel: of ones with random
weights at 32² the cosine was 0.979 to 0.9999. So an export also has `pixels.py`, ours in one file.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from jobspecs.columns import Image
from workers.data import resize
from workers.export import pixels


def save_image_processor(image: Image, folder: Path) -> None:
    """Writes `preprocessor_config.json`, as transformers' AutoImageProcessor reads it, and `pixels.py`."""
    image_processor(image).save_pretrained(folder)
    (folder / "pixels.py").write_text(_pixels(image.size), encoding="utf-8")


def image_processor(image: Image) -> Any:
    """transformers' image processor, in its Pillow version where torchvision is missing."""
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(
        size={"shortest_edge": image.size},
        crop_size={"height": image.size, "width": image.size},
        resample=3,  # bicubic
        image_mean=list(image.mean),
        image_std=list(image.std),
        do_convert_rgb=True,
    )


def _pixels(size: int) -> str:
    """workers/export/pixels.py and the file that it needs as one, for images of `size`."""
    source = inspect.getsource(pixels)
    docstring, _, rest = source.partition("from __future__ import annotations\n")
    imports, exported = rest.split("# --- the exported part", 1)
    assert docstring
    _, _, body = exported.partition("\n\n")
    own = "\n".join(line for line in imports.splitlines() if "workers." not in line)
    assert "SIZE = 224\n" in body
    return f"{inspect.getsource(resize)}\n\n{own}\n\n{body.replace('SIZE = 224', f'SIZE = {size}')}"
