"""Images as the authors of a model prepare them: by transformers' image processor of their folder.

Cropping, scaling and its filter are the processor's; normalisation is the tower's, with the processor's numbers.
Decoding is ours, as in training: the formats that are safe, upright, transparent pixels on white.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from jobspecs.columns import Image
from jobspecs.errors import UsageError
from workers.data.decode import decode_whole
from workers.models.architecture import first_line
from workers.models.model_files import ModelFiles

CONFIG = "preprocessor_config.json"
_RESCALES = 1 / 255
_PROBES = ((97, 131), (131, 97))


class ImagePreparation:
    """Bytes of an image -> pixels, uint8 (P, P, 3), as the model sees them but for their normalisation."""

    def __init__(self, processor: Any, name: str) -> None:
        """processor: transformers' object. `name`, of its model, is for messages. Raises UsageError: it gives no
        squares of one size, or scales values otherwise than to 0…1."""
        self._processor = processor
        try:
            shapes = {self._prepared(np.zeros((*size, 3), np.uint8)).shape for size in _PROBES}
        except Exception as error:  # whatever a processor raises that wants other arguments
            raise UsageError(
                f"{name}: {type(processor).__name__} can't prepare an image ({first_line(error)}), and evaluations "
                "know no other way. Choose another model"
            ) from error
        shape = min(shapes)
        if len(shapes) > 1 or len(shape) != 3 or shape[0] != shape[1] or shape[2] != 3:
            raise UsageError(
                f"{name}: {type(processor).__name__} makes {' and '.join(map(str, sorted(shapes)))} of images of "
                f"{' and '.join(map(str, _PROBES))}, and evaluations take squares of one size. Choose another model"
            )
        rescales = getattr(processor, "do_rescale", True)
        if not rescales or abs(getattr(processor, "rescale_factor", _RESCALES) - _RESCALES) > 1e-6:
            raise UsageError(
                f"{name}: {CONFIG} does not scale values to 0…1 by 1/255, which evaluations do. Choose another model"
            )
        self.size = shape[0]
        self.mean, self.std = [0.0] * 3, [1.0] * 3
        if getattr(processor, "do_normalize", True):
            self.mean, self.std = list(processor.image_mean), list(processor.image_std)

    def section(self, image: Image) -> Image:
        """The spec's section of images, for this model."""
        return image.model_copy(update={"size": self.size, "mean": self.mean, "std": self.std})

    def __call__(self, data: bytes, image: Image) -> NDArray[np.uint8]:
        """(P, P, 3). image: bounds what is decoded. Raises DecodeError."""
        return self._prepared(decode_whole(data, image))

    def _prepared(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(h, w, 3) -> (P, P, 3)."""
        prepared = self._processor(
            images=Pillow.fromarray(pixels), return_tensors="pt", do_rescale=False, do_normalize=False
        )
        (planes,) = prepared["pixel_values"]
        rounded = np.clip(np.rint(planes.numpy()), 0, 255)  # it has bytes, unless it scales by a filter in fp32
        view: NDArray[np.uint8] = np.moveaxis(rounded, 0, -1).astype(np.uint8)
        return view


def preparation_of(files: ModelFiles, subfolder: str) -> ImagePreparation:
    """That of a model whose files of the network lie in `subfolder`. Raises UsageError: it has none."""
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            files.name, revision=files.revision, subfolder=subfolder, trust_remote_code=False
        )
    except Exception as error:  # OSError, ValueError, ImportError
        raise UsageError(
            f"{files.name}: it is no model of images, or does not say how they are prepared ({first_line(error)}). "
            f"Leave evaluations with images out by --only, or give a model with a {CONFIG}"
        ) from error
    return ImagePreparation(processor, files.name)
