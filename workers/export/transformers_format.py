"""`--format transformers`: a CLIPModel or SiglipModel where one computes the same, else each tower by itself.

    DIR/                      one model of two towers, or the only tower
    DIR/image/, DIR/text/     several towers that no class of transformers holds together

A tower by itself is a network that `from_pretrained` loads, with its tokenizer or image processor. No class of
transformers pools and projects as the spec says: `projection.safetensors` has the linear layers behind the pooling,
and the model card the lines of Python that are left to do.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch

from workers.export import usage
from workers.export.images import save_image_processor
from workers.export.source import Source
from workers.export.tokenizer import save_tokenizer
from workers.export.towers import PlainTower
from workers.export.two_towers import two_tower_model


def write(source: Source, folder: Path) -> str:
    """Writes all but the model card; returns the Python that loads it. Raises UsageError."""
    model = two_tower_model(source)
    if model is not None:
        model.save_pretrained(folder)
        for tower in source.towers:
            save_processor(source, tower, folder)
        return usage.two_towers(source, type(model).__name__)
    folders = {tower.name: tower.name if len(source.towers) > 1 else "." for tower in source.towers}
    for tower in source.towers:
        place = folder / folders[tower.name]
        tower.save_network(place)
        save_processor(source, tower, place)
        if tower.projection:
            safetensors.torch.save_file(tower.projection_weights, place / "projection.safetensors")
    return usage.towers(source, folders)


def save_processor(source: Source, tower: PlainTower, folder: Path) -> None:
    """Writes what prepares a tower's inputs: its tokenizer or its image processor. Raises UsageError."""
    if tower.name == "image":
        assert source.spec.data.image is not None, "the spec's own rule"
        save_image_processor(source.spec.data.image, folder)
    else:
        side = source.longest(tower)
        length = source.spec.data.texts[side].context_length
        save_tokenizer(source.tokenizers[side], length, folder, reads_padding=tower.reads_padding)
