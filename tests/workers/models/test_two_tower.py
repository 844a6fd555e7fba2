"""What the loss, the optimizer and a resume rely on: unit features, first weights by seed, names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jobspecs.data import Data, Image, Source, Text
from jobspecs.model import Clip, ImageTower, TextTower
from jobspecs.objective import ImageText, LogitScale
from workers.data.tokenize import byte_tokens
from workers.models.two_tower import TwoTower, build
from workers.train.engine import parameter_groups

MODEL = Clip(
    kind="clip",
    image=ImageTower(width=32, layers=1, heads=2, patch=8),
    text=TextTower(width=32, layers=1, heads=2),
    embedding_dim=24,
)
DATA = Data(
    sources=[Source(name="x", urls=["x.tar"])],
    image=Image(size=16, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1.0]),
    text=Text(context_length=12),
)
OBJECTIVE = ImageText(kind="image_text", logit_scale=LogitScale(init=7.0))


def tokens(*texts: str, context_length: int = 12) -> torch.Tensor:
    return torch.from_numpy(np.stack([byte_tokens(text, context_length) for text in texts]))


@pytest.fixture(scope="module")
def model() -> TwoTower:
    return build(MODEL, DATA, OBJECTIVE, seed=1).eval()


def test_features_are_unit_rows_in_fp32(model: TwoTower) -> None:
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    features = model(pixels, tokens("a", "bc", ""))
    for rows in (features.image, features.text):
        assert rows.shape == (3, 24)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert features.logit_scale.item() == pytest.approx(7.0)


def test_pixels_are_normalised_channel_by_channel(model: TwoTower) -> None:
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    by_hand = (pixels.numpy() / 255 - DATA.image.mean) / DATA.image.std
    nchw = torch.from_numpy(by_hand.transpose(0, 3, 1, 2)).float()
    expected = torch.nn.functional.normalize(model.image_tower(pixel_values=nchw).image_embeds, dim=-1)
    torch.testing.assert_close(model.encode_image(pixels), expected)


def test_a_text_is_the_same_however_far_it_is_padded(model: TwoTower) -> None:
    alone = model.encode_text(tokens("hello", context_length=7))
    padded = model.encode_text(tokens("hello", "a longer one"))[:1]
    torch.testing.assert_close(alone, padded)
    assert not torch.allclose(padded, model.encode_text(tokens("hellp")))


def test_first_weights_depend_on_the_seed_alone(model: TwoTower) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(99)
    again = build(MODEL, DATA, OBJECTIVE, seed=1).state_dict()
    other = build(MODEL, DATA, OBJECTIVE, seed=2).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, other[name]) for name, value in model.state_dict().items())
    torch.manual_seed(99)
    untouched = torch.get_rng_state()
    build(MODEL, DATA, OBJECTIVE, seed=1)
    assert torch.equal(torch.get_rng_state(), untouched)
    torch.set_rng_state(state)


def test_norms_biases_and_the_scale_are_not_decayed(model: TwoTower) -> None:
    decayed, free = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    group = {id(p): "decayed" for p in decayed["params"]} | {id(p): "free" for p in free["params"]}
    named = {name: group.pop(id(p)) for name, p in model.named_parameters()}
    assert not group
    for name, kind in named.items():
        expected_free = "norm" in name or name.endswith(("bias", "log_scale", "class_embedding"))
        assert kind == ("free" if expected_free else "decayed"), name


def test_frozen_parameters_are_in_no_group() -> None:
    model = build(MODEL, DATA, OBJECTIVE, seed=1)
    model.image_tower.requires_grad_(False)
    grouped = {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
    (only_free,) = parameter_groups(model.logit_scale, 0.1)
    assert only_free["weight_decay"] == 0.0
