"""Presets have the published numbers of parameters, counted without making any."""

from __future__ import annotations

import pytest

from jobspecs.columns import Image, Text
from jobspecs.data import Data, Source
from jobspecs.model import Model
from workers.data.tokenize import Tokenizer
from workers.models.build import tower_sizes

PUBLISHED = [
    # name, tower, embedding_dim, vocabulary, context, parameters. CLIP: of openai/clip-vit-*, vision and text model
    # with their projections.
    ("ViT-B/32", "image", 512, 0, 0, 87_849_216),
    ("ViT-B/32", "text", 512, 49408, 77, 63_428_096),
    ("ViT-B/16", "image", 512, 0, 0, 86_192_640),
    ("ViT-L/14", "image", 768, 0, 0, 303_966_208),
    ("ViT-L/14", "text", 768, 49408, 77, 123_650_304),
    ("SigLIP-B/16", "image", 768, 0, 0, 92_884_224),
    ("SigLIP-B/16", "text", 768, 32000, 64, 110_271_744),
    ("ResNet-50", "image", 2048, 0, 0, 23_508_032),
    # All of the checkpoint but its pooler, a layer of width x width.
    ("BERT-base", "text", 768, 30522, 512, 109_482_240 - 768 * 768 - 768),
    ("MiniLM-L6", "text", 384, 30522, 512, 22_713_216 - 384 * 384 - 384),
]


@pytest.mark.parametrize(("name", "tower", "dim", "vocabulary", "context", "parameters"), PUBLISHED)
def test_published_sizes(name: str, tower: str, dim: int, vocabulary: int, context: int, parameters: int) -> None:
    section: dict[str, object] = {"kind": "preset", "name": name}
    if not name.startswith(("ViT", "SigLIP")):
        section["projection"] = "none"
    column = {"image": Image(size=224)} if tower == "image" else {"text": Text(context_length=context)}
    data = Data(sources=[Source(name="x", urls=["x.tar"])], **column)
    tokenizer = Tokenizer(max(vocabulary, 3), begin=0, end=1, padding=2)
    model = Model.model_validate({tower: section, "embedding_dim": dim})
    (size,) = tower_sizes(model, data, {"text": tokenizer}).values()
    assert size.parameters == size.trained == parameters
