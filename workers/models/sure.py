"""Which towers fit whatever data they are for, as far as a valid spec goes: nobody has to make a skeleton to find out,
which takes seconds of imports. No torch here."""

from __future__ import annotations

from jobspecs.data import Data
from jobspecs.model import ImagePreset, ImageTower, Model, TextPreset, TextTower
from workers.models import presets


def sure_to_fit(model: Model, data: Data) -> bool:
    """Whether `workers.models.build.tower_sizes` is sure to find no fault: CLIP's transformer, whose sizes the spec
    checks, and published architectures, which are known to pool; trained, without dropout, with a projection."""
    return all(_is_sure(tower, data) for tower in model.towers().values())


def _is_sure(tower: ImageTower | TextTower, data: Data) -> bool:
    if tower.frozen or tower.dropout or tower.projection == "none":
        return False
    if isinstance(tower, ImagePreset):
        patch = presets.IMAGE[tower.name].settings.get("patch_size")
        divides = patch is not None and data.image is not None and data.image.size % patch == 0
        return divides and tower.pooling == "auto"
    if isinstance(tower, TextPreset):
        return tower.pooling == "auto"
    return tower.kind == "transformer"
