"""Two towers that end in one embedding space, with the logit scale beside them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobspecs.columns import Image
from jobspecs.data import Data
from jobspecs.model import Clip
from jobspecs.objective import Objective
from workers.data.tokenize import Tokenizer
from workers.losses.logit_scale import LogitScaleParameter
from workers.models.color import change_colors


@dataclass(frozen=True)
class Features:
    """What an objective contrasts. m rows, d width; L2-normalised."""

    image: Tensor
    """(m, d)."""
    text: Tensor
    """(m, d)."""
    logit_scale: Tensor
    """Scalar, clamped."""


class TwoTower(nn.Module):
    """An image tower and a text tower, each ending in a projection to the shared width."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, image_tower: nn.Module, text_tower: nn.Module, image: Image, objective: Objective, end: int
    ) -> None:
        super().__init__()
        self.image_tower = image_tower
        self.text_tower = text_tower
        self.end = end
        self.logit_scale = LogitScaleParameter(objective.logit_scale)
        # Pixels travel as bytes and are normalised here, on the device.
        self.register_buffer("mean", torch.tensor(image.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image.std).view(1, 3, 1, 1), persistent=False)

    def encode_image(self, pixels: Tensor, color: Tensor | None = None) -> Tensor:
        """uint8 (m, P, P, 3) -> (m, d), L2-normalised, fp32; `color` (m, A) says how the colours change."""
        planes = pixels.permute(0, 3, 1, 2)
        scaled = planes.to(self.mean.dtype) / 255 if color is None else change_colors(planes, color).to(self.mean.dtype)
        embeds = self.image_tower(pixel_values=(scaled - self.mean) / self.std).image_embeds
        return _normalised(embeds)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Integers (m, T) -> (m, d), L2-normalised, fp32. A text ends with its first `end`, which becomes its
        feature; what stands behind counts for nothing. A row without one (a masked row) gives some feature."""
        last = (tokens == self.end).int().argmax(dim=1)
        text = torch.arange(tokens.shape[1], device=tokens.device) <= last[:, None]
        # Picked here, as transformers takes another token where `end` happens to be 2 (a legacy of old configs).
        hidden = self.text_tower.get_submodule("text_model")(input_ids=tokens.long(), attention_mask=text.long())
        ends = hidden.last_hidden_state[torch.arange(len(tokens), device=tokens.device), last]
        return _normalised(self.text_tower.get_submodule("text_projection")(ends))

    def forward(self, pixels: Tensor, tokens: Tensor, color: Tensor | None = None) -> Features:
        """Both towers and the scale: what one training step needs."""
        return Features(self.encode_image(pixels, color), self.encode_text(tokens), self.logit_scale())


def _normalised(embeds: Tensor) -> Tensor:
    """On the unit sphere; in fp32, whatever narrower type the tower computed in."""
    return F.normalize(embeds.to(torch.promote_types(embeds.dtype, torch.float32)), dim=-1)


def build(model: Clip, data: Data, objective: Objective, seed: int, tokenizer: Tokenizer) -> TwoTower:
    """The model of a spec with its first weights, which depend on `seed` alone. fp32, on the CPU.
    `tokenizer` is that of `data.text`."""
    # transformers takes seconds to import; a loader process or a test of the losses never needs it.
    from transformers import (
        CLIPTextConfig,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    assert data.image is not None, "JobSpec asks for it"
    assert data.text is not None, "JobSpec asks for it"
    image_config = CLIPVisionConfig(
        hidden_size=model.image.width,
        intermediate_size=model.image.width * model.image.mlp_ratio,
        num_hidden_layers=model.image.layers,
        num_attention_heads=model.image.heads,
        image_size=data.image.size,
        patch_size=model.image.patch,
        projection_dim=model.embedding_dim,
    )
    text_config = CLIPTextConfig(
        vocab_size=tokenizer.vocabulary,
        hidden_size=model.text.width,
        intermediate_size=model.text.width * model.text.mlp_ratio,
        num_hidden_layers=model.text.layers,
        num_attention_heads=model.text.heads,
        max_position_embeddings=data.text.context_length,
        projection_dim=model.embedding_dim,
        bos_token_id=tokenizer.begin,
        eos_token_id=tokenizer.end,
        pad_token_id=tokenizer.padding,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image_tower = CLIPVisionModelWithProjection(image_config)
        text_tower = CLIPTextModelWithProjection(text_config)
    return TwoTower(image_tower, text_tower, data.image, objective, tokenizer.end)
