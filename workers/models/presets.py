"""Published architectures by name: transformers' `model_type` and the settings that make its dimensions.

What `data:` states is not here: image size, vocabulary, context. Parameters are counted with the published
ones: 224 pixels, CLIP's 49,408 tokens and context of 77, SigLIP's 32,000 and 64, BERT's 30,522 and 512.

| name | source | image | text |
|---|---|---|---|
| ViT-B/32 | Radford et al. 2021, table 20 | 87.8 M with projection | 63.4 M with projection |
| ViT-B/16 | the same | 86.2 M with projection | 63.4 M with projection |
| ViT-L/14 | the same | 304.0 M with projection | 123.7 M with projection |
| SigLIP-B/16 | Zhai et al. 2023; its b16-224 | 92.9 M with its pooling head | 110.2 M with its head |
| ResNet-50 | He et al. 2016, table 1 | 23.5 M without classifier | |
| BERT-base | Devlin et al. 2019, §3 | | 109.5 M, of which 0.6 M are a pooler that is left out |
| MiniLM-L6 | Wang et al. 2020; sentence-transformers/all-MiniLM-L6-v2 | | 22.7 M, 0.15 M of them a pooler |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """An architecture of transformers."""

    architecture: str
    """`model_type`."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Fields of its configuration."""


def _transformer(width: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        **more,
    }


IMAGE = {
    "ViT-B/32": Preset("clip_vision_model", _transformer(768, 12, 12, patch_size=32)),
    "ViT-B/16": Preset("clip_vision_model", _transformer(768, 12, 12, patch_size=16)),
    "ViT-L/14": Preset("clip_vision_model", _transformer(1024, 24, 16, patch_size=14)),
    "SigLIP-B/16": Preset("siglip_vision_model", _transformer(768, 12, 12, patch_size=16)),
    "ResNet-50": Preset(
        "resnet",
        {
            "embedding_size": 64,
            "hidden_sizes": [256, 512, 1024, 2048],
            "depths": [3, 4, 6, 3],
            "layer_type": "bottleneck",
        },
    ),
}
"""Image towers."""

TEXT = {
    "ViT-B/32": Preset("clip_text_model", _transformer(512, 12, 8)),
    "ViT-B/16": Preset("clip_text_model", _transformer(512, 12, 8)),
    "ViT-L/14": Preset("clip_text_model", _transformer(768, 12, 12)),
    "SigLIP-B/16": Preset("siglip_text_model", _transformer(768, 12, 12)),
    "MiniLM-L6": Preset("bert", _transformer(384, 6, 12)),
    "BERT-base": Preset("bert", _transformer(768, 12, 12)),
}
"""Text towers, by the name of the image tower that they were published with or their own."""
