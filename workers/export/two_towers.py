"""Image and text towers as one model of transformers, where it has one that computes the same.

CLIPModel     CLIP's two transformers, pooled by class token and end token, each with a linear projection
SiglipModel   SigLIP's two, with their own poolings and no projection
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from workers.export.source import Source
from workers.export.towers import PlainTower

_ARGMAX_ID = 2
"""transformers' CLIP takes the token with the highest id for the end of a text if its config says that the end is
this one: old configs say so, of tokenizers whose end is another."""


def two_tower_model(source: Source) -> Any | None:
    """The model with its weights; None where transformers has no class for it."""
    towers = {tower.name: tower for tower in source.towers}
    if towers.keys() != {"image", "text"}:
        return None
    image, text = towers["image"], towers["text"]
    if _is_clip(image, text) and source.tokenizers["text"].end != _ARGMAX_ID:
        return _clip(source, image, text)
    if _is_siglip(image, text):
        return _siglip(source, image, text)
    return None


def _is_clip(image: PlainTower, text: PlainTower) -> bool:
    return (
        (image.class_name, image.pooling) == ("CLIPVisionModel", "own")
        and (text.class_name, text.pooling) == ("CLIPTextModel", "last")
        and all(len(tower.projection) == 1 and tower.projection[0].bias is None for tower in (image, text))
    )


def _is_siglip(image: PlainTower, text: PlainTower) -> bool:
    return (
        (image.class_name, image.pooling) == ("SiglipVisionModel", "own")
        and (text.class_name, text.pooling, text.reads_padding) == ("SiglipTextModel", "own", True)
        and not image.projection
        and not text.projection
    )


def _clip(source: Source, image: PlainTower, text: PlainTower) -> Any:
    from transformers import CLIPConfig, CLIPModel

    text_config = {**text.network.config.to_dict(), "eos_token_id": source.tokenizers["text"].end}
    config = CLIPConfig(
        text_config=text_config,
        vision_config=image.network.config.to_dict(),
        projection_dim=source.spec.model.embedding_dim,
        logit_scale_init_value=source.log_scale,
    )
    projections = {
        "visual_projection.weight": image.projection[0].weight,
        "text_projection.weight": text.projection[0].weight,
    }
    return _filled(CLIPModel, config, image, text, {**projections, "logit_scale": torch.tensor(source.log_scale)})


def _siglip(source: Source, image: PlainTower, text: PlainTower) -> Any:
    from transformers import SiglipConfig, SiglipModel

    config = SiglipConfig(text_config=text.network.config.to_dict(), vision_config=image.network.config.to_dict())
    scalars = {"logit_scale": torch.tensor([source.log_scale]), "logit_bias": torch.tensor([source.bias])}
    return _filled(SiglipModel, config, image, text, scalars)


def _filled(cls: Any, config: Any, image: PlainTower, text: PlainTower, more: dict[str, Tensor]) -> Any:
    """A model with the towers' weights, and `more`; there is nothing else in it."""
    with torch.device("meta"):
        model = cls(config)
    state = {f"vision_model.{name}": value for name, value in image.weights.items()}
    state |= {f"text_model.{name}": value for name, value in text.weights.items()}
    model.load_state_dict({**state, **more}, assign=True)
    return model
