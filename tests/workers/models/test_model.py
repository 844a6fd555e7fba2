"""What the loss, the optimizer and a resume rely on: unit features, first weights by seed, names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jobspecs.columns import Image, Text
from jobspecs.data import Data, Source
from jobspecs.model import ImageTransformer, Model, TextTransformer
from jobspecs.objective import ImageText, LogitScale
from tests.workers.pretrained_folders import CAPTIONS, bert_like, clip_like, gpt2_like, t5_like
from workers.data.make_tokenizer import pretrained, train_bpe
from workers.data.tokenize import Tokenizer, byte_tokenizer
from workers.models.build import build as build_model
from workers.models.model import ContrastiveModel
from workers.train.optimizer import parameter_groups

MODEL = Model(
    image=ImageTransformer(kind="transformer", width=32, layers=1, heads=2, patch=8),
    text=TextTransformer(kind="transformer", width=32, layers=1, heads=2),
    embedding_dim=24,
)
DATA = Data(
    sources=[Source(name="x", urls=["x.tar"])],
    image=Image(size=16, mean=[0.1, 0.2, 0.3], std=[0.5, 0.25, 1.0]),
    text=Text(context_length=12),
)
BYTES = byte_tokenizer()
OBJECTIVE = ImageText(kind="image_text", logit_scale=LogitScale(init=7.0))


def build(model: Model, data: Data, objective: ImageText, seed: int, tokenizer: Tokenizer) -> ContrastiveModel:
    return build_model(model, data, objective, seed, {"text": tokenizer})


def tokens(*texts: str, context_length: int = 12) -> torch.Tensor:
    return torch.from_numpy(np.stack([BYTES.encode(text, context_length) for text in texts]))


@pytest.fixture(scope="module")
def model() -> ContrastiveModel:
    return build(MODEL, DATA, OBJECTIVE, 1, BYTES).eval()


def test_features_are_unit_rows_in_fp32(model: ContrastiveModel) -> None:
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    for rows in (model("image", {"pixels": pixels}), model("text", {"tokens": tokens("a", "bc", "")})):
        assert rows.shape == (3, 24)
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert model.logit_scale().item() == pytest.approx(7.0)


def test_pixels_are_normalised_channel_by_channel(model: ContrastiveModel) -> None:
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    assert DATA.image is not None
    by_hand = (pixels.numpy() / 255 - DATA.image.mean) / DATA.image.std
    nchw = torch.from_numpy(by_hand.transpose(0, 3, 1, 2)).float()
    tower = model.tower("image")
    expected = torch.nn.functional.normalize(tower.projection(tower.network(pixel_values=nchw).pooler_output), dim=-1)
    torch.testing.assert_close(model("image", {"pixels": pixels}), expected)


def test_a_text_is_the_same_however_far_it_is_padded(model: ContrastiveModel) -> None:
    alone = model("text", {"tokens": tokens("hello", context_length=7)})
    padded = model("text", {"tokens": tokens("hello", "a longer one")})[:1]
    torch.testing.assert_close(alone, padded)
    assert not torch.allclose(padded, model("text", {"tokens": tokens("hellp")}))


TOKENIZERS: dict[str, Callable[[Path], Tokenizer]] = {
    "bytes": lambda _: BYTES,
    "bpe": lambda _: train_bpe(CAPTIONS, 300),
    "clip": lambda folder: pretrained(str(clip_like(folder)), None),  # padded with its end token
    "bert": lambda folder: pretrained(str(bert_like(folder)), None),  # end is 2, which transformers treats otherwise
    "t5": lambda folder: pretrained(str(t5_like(folder)), None),  # without begin
    "gpt2": lambda folder: pretrained(str(gpt2_like(folder)), None),
}


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_text_ends_with_its_first_end_token(make: Callable[[Path], Tokenizer], tmp_path: Path) -> None:
    tokenizer = make(tmp_path)
    model = build(MODEL, DATA, OBJECTIVE, 1, tokenizer).eval()
    # texts: (3, 12), each of which ends before the last place
    texts = torch.from_numpy(np.stack([tokenizer.encode(text, 12) for text in ("a photo", "photo", "")]))
    behind = (texts == tokenizer.end).cumsum(1) - (texts == tokenizer.end).int() > 0
    assert behind.any(dim=1).all()
    expected = model("text", {"tokens": texts})
    anything = torch.randint(0, tokenizer.vocabulary, texts.shape, dtype=torch.int32)
    for other in (anything, torch.full_like(texts, tokenizer.end), torch.full_like(texts, tokenizer.vocabulary - 1)):
        torch.testing.assert_close(model("text", {"tokens": torch.where(behind, other, texts)}), expected)
    assert (torch.pdist(expected) > 1e-3).all()  # the texts themselves count
    for row in range(3):  # and the feature is that of the end token: cut behind it, it stands last
        stop = int((texts[row] == tokenizer.end).int().argmax()) + 1
        alone = model.tower("text").network(input_ids=texts[row : row + 1, :stop].long())
        by_hand = model.tower("text").projection(alone.last_hidden_state[:, -1])
        torch.testing.assert_close(torch.nn.functional.normalize(by_hand, dim=-1), expected[row : row + 1])


@pytest.mark.parametrize("name", ["bytes", "clip"])
def test_the_text_feature_is_that_of_transformers(name: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[name](tmp_path)
    model = build(MODEL, DATA, OBJECTIVE, 1, tokenizer).eval()
    texts = torch.from_numpy(np.stack([tokenizer.encode(text, 12) for text in ("a photo", "of it")])).long()
    theirs = model.tower("text").network(input_ids=texts).pooler_output
    theirs = torch.nn.functional.normalize(model.tower("text").projection(theirs), dim=-1)
    torch.testing.assert_close(model("text", {"tokens": texts}), theirs)


def test_a_masked_row_gives_finite_numbers(model: ContrastiveModel) -> None:
    rows = torch.zeros((2, 12), dtype=torch.int32)
    features = model("text", {"tokens": rows})
    features.sum().backward()
    assert torch.isfinite(features).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.zero_grad(set_to_none=True)


def test_first_weights_depend_on_the_seed_alone(model: ContrastiveModel) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(99)
    again = build(MODEL, DATA, OBJECTIVE, 1, BYTES).state_dict()
    other = build(MODEL, DATA, OBJECTIVE, 2, BYTES).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, other[name]) for name, value in model.state_dict().items())
    torch.manual_seed(99)
    untouched = torch.get_rng_state()
    build(MODEL, DATA, OBJECTIVE, 1, BYTES)
    assert torch.equal(torch.get_rng_state(), untouched)
    torch.set_rng_state(state)


def test_norms_biases_and_the_scale_are_not_decayed(model: ContrastiveModel) -> None:
    decayed, free = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    group = {id(p): "decayed" for p in decayed["params"]} | {id(p): "free" for p in free["params"]}
    named = {name: group.pop(id(p)) for name, p in model.named_parameters()}
    assert not group
    for name, kind in named.items():
        expected_free = "norm" in name or name.endswith(("bias", "log_scale", "class_embedding"))
        assert kind == ("free" if expected_free else "decayed"), name


def test_frozen_parameters_are_in_no_group() -> None:
    model = build(MODEL, DATA, OBJECTIVE, 1, BYTES)
    model.tower("image").freeze()
    grouped = {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}
    (only_free,) = parameter_groups(model.logit_scale, 0.1)
    assert only_free["weight_decay"] == 0.0
