"""Every architecture that is tried here trains whole, and a checkpoint's features are those of transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from jobspecs.columns import Image, Text
from jobspecs.data import Data, Source
from jobspecs.errors import UsageError
from jobspecs.model import Model
from jobspecs.objective import ImageText
from tests.workers.pretrained_folders import bert_like, clip_like
from workers.data.make_tokenizer import pretrained as pretrained_tokenizer
from workers.data.tokenize import Tokenizer, byte_tokenizer
from workers.models.build import build
from workers.models.dropout import KeyedDropout
from workers.models.model import ContrastiveModel

OBJECTIVE = ImageText(kind="image_text")
BYTES = byte_tokenizer()
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
DINO = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
CONV = {"hidden_sizes": [8, 8, 8, 16], "depths": [1, 1, 1, 1]}
IMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "clip": (VIT | {"patch_size": 8}, "own"),
    "siglip": (VIT | {"patch_size": 8}, "own"),
    "vit": (VIT | {"patch_size": 8}, "cls"),
    "dinov2": (DINO, "own"),
    "convnext": (CONV, "own"),
    "resnet": (CONV | {"embedding_size": 8}, "own"),
}
TEXTS: dict[str, tuple[dict[str, Any], str]] = {
    "clip": (VIT, "last"),
    "siglip": (VIT, "own"),
    "bert": (VIT, "mean"),
    "roberta": (VIT, "mean"),
    "mpnet": (VIT, "mean"),
    "deberta-v2": (VIT, "mean"),
    "convbert": (VIT | {"embedding_size": 16}, "mean"),
    "squeezebert": (VIT | {"embedding_size": 16}, "mean"),
    "distilbert": ({"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24}, "mean"),
    "qwen2": (VIT | {"num_key_value_heads": 1}, "last"),
    "llama": (VIT | {"num_key_value_heads": 1}, "last"),
}


def model_of(tower: str, section: dict[str, Any], tokenizer: Tokenizer = BYTES, **more: Any) -> ContrastiveModel:
    """Options `size`, `context` and `dim`; the others are those of `build`."""
    size, context, dim = more.pop("size", 32), more.pop("context", 12), more.pop("dim", 24)
    column = {"image": Image(size=size)} if tower == "image" else {"text": Text(context_length=context)}
    data = Data(sources=[Source(name="x", urls=["x.tar"])], **column)
    model = Model.model_validate({tower: section, "embedding_dim": dim})
    return build(model, data, OBJECTIVE, 1, {"text": tokenizer}, **more)


def inputs_of(tower: str, tokenizer: Tokenizer = BYTES, size: int = 32) -> dict[str, Tensor]:
    if tower == "image":
        generator = torch.Generator().manual_seed(0)
        return {"pixels": torch.randint(0, 256, (3, size, size, 3), dtype=torch.uint8, generator=generator)}
    return {"tokens": torch.from_numpy(np.stack([tokenizer.encode(text, 12) for text in ("a", "photo of it", "")]))}


def gradients(model: ContrastiveModel, tower: str, inputs: dict[str, Tensor]) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    features = model(tower, inputs, torch.arange(3))
    weight = torch.linspace(-1, 1, features.numel()).sin().view_as(features)
    (features * weight).sum().backward()
    return {name: parameter.grad for name, parameter in model.towers.named_parameters()}


@pytest.mark.parametrize(
    ("tower", "name"), [*(("image", name) for name in IMAGES), *(("text", name) for name in TEXTS)]
)
def test_every_parameter_is_trained(tower: str, name: str) -> None:
    settings, pooling = (IMAGES if tower == "image" else TEXTS)[name]
    model = model_of(tower, {"kind": "config", "architecture": name, "settings": settings})
    assert model.tower(tower).pooling == pooling
    found = gradients(model, tower, inputs_of(tower))
    assert not [parameter for parameter, gradient in found.items() if gradient is None or not gradient.isfinite().all()]
    assert all(parameter.ndim for parameter in model.parameters())
    assert model.has_batch_norm == (name == "resnet")
    assert model.trained(tower)
    assert model.backbone(tower, inputs_of(tower)).shape == (3, 16)


@pytest.mark.parametrize("name", ["vit", "bert", "roberta", "distilbert", "deberta-v2"])
def test_dropout_depends_on_keys_and_checkpointing_changes_nothing(name: str) -> None:
    tower = "image" if name in IMAGES else "text"
    settings, _ = (IMAGES | TEXTS)[name]
    section = {"kind": "config", "architecture": name, "settings": settings, "dropout": 0.2}
    model, again = (model_of(tower, section, gradient_checkpointing=on) for on in (False, True))
    inputs = inputs_of(tower)
    keys = torch.tensor([5, 6, 7])
    features = model(tower, inputs, keys)
    assert torch.equal(features, model(tower, inputs, keys))
    assert not torch.allclose(features, model(tower, inputs, keys + 1))
    assert not torch.allclose(features, model.embed(tower, inputs))
    alone = [
        model(tower, {key: value[row, None] for key, value in inputs.items()}, keys[row, None]) for row in range(3)
    ]
    torch.testing.assert_close(torch.cat(alone), features)
    with pytest.raises(ValueError, match="needs the rows' keys"):
        model(tower, inputs)
    direct, checkpointed = gradients(model, tower, inputs), gradients(again, tower, inputs)
    for parameter, gradient in direct.items():
        torch.testing.assert_close(checkpointed[parameter], gradient)


@pytest.mark.parametrize(("name", "places"), [("bert", 13), ("squeezebert", 13), ("siglip", 40), ("convbert", 40)])
def test_padding_behind_the_longest_text_is_not_encoded_unless_it_counts(name: str, places: int) -> None:
    """As text, or past the mask: ConvBERT's convolutions take in what stands beside a text, SqueezeBERT's do not."""
    model = model_of("text", section(name), context=40).eval()
    tokens = torch.from_numpy(np.stack([BYTES.encode(text, 40) for text in ("a", "photo of it", "")]))
    seen = []
    model.tower("text").network.register_forward_pre_hook(
        lambda module, inputs, named: seen.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    found = model.embed("text", {"tokens": tokens})
    torch.testing.assert_close(found, model("text", {"tokens": tokens}))
    assert seen == [places, 40]


def test_a_frozen_tower_is_left_alone() -> None:
    settings, _ = TEXTS["bert"]
    section = {"kind": "config", "architecture": "bert", "settings": settings, "frozen": True, "dropout": 0.5}
    model = model_of("text", section, dim=16).train()
    assert not model.trained("text")
    assert any(isinstance(module, KeyedDropout) for module in model.modules())
    inputs = inputs_of("text")
    assert torch.equal(model("text", inputs), model.embed("text", inputs))
    resnet = {"kind": "config", "architecture": "resnet", "settings": IMAGES["resnet"][0], "frozen": True}
    model = model_of("image", resnet, dim=16).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model("image", inputs_of("image"))
    assert not model.has_batch_norm
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def clip_folder(folder: Path, vocabulary: int) -> Path:
    config = transformers.CLIPConfig(
        text_config=VIT | {"vocab_size": vocabulary, "max_position_embeddings": 12, "eos_token_id": 1},
        vision_config=VIT | {"patch_size": 8, "image_size": 32},
        projection_dim=24,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    return folder


def test_the_halves_of_a_clip_checkpoint(tmp_path: Path) -> None:
    tokenizer = pretrained_tokenizer(str(clip_like(tmp_path / "clip")), None)
    folder = clip_folder(tmp_path / "clip", tokenizer.vocabulary)
    theirs = transformers.CLIPModel.from_pretrained(folder).eval()
    section = {"kind": "pretrained", "name": str(folder)}
    texts = inputs_of("text", tokenizer)
    text = model_of("text", section, tokenizer).embed("text", texts)
    expected = theirs.text_projection(theirs.text_model(input_ids=texts["tokens"].long()).pooler_output)
    torch.testing.assert_close(text, torch.nn.functional.normalize(expected, dim=-1))
    image = model_of("image", section)
    assert not [name for name, _ in image.named_parameters() if "text" in name]
    pixels = inputs_of("image")["pixels"]
    normal = (pixels.permute(0, 3, 1, 2) / 255 - torch.tensor(Image(size=32).mean).view(3, 1, 1)) / torch.tensor(
        Image(size=32).std
    ).view(3, 1, 1)
    expected = theirs.visual_projection(theirs.vision_model(pixel_values=normal).pooler_output)
    torch.testing.assert_close(
        image.embed("image", {"pixels": pixels}), torch.nn.functional.normalize(expected, dim=-1)
    )
    # Another size of images: the positions are stretched.
    expected = theirs.vision_model(pixel_values=normal[:, :, :24, :24], interpolate_pos_encoding=True).pooler_output
    smaller = model_of("image", section, size=24).backbone("image", {"pixels": pixels[:, :24, :24]})
    torch.testing.assert_close(smaller, expected)


@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token"])
def test_a_sentence_transformers_folder_says_how_it_pools(mode: str, tmp_path: Path) -> None:
    tokenizer = pretrained_tokenizer(str(bert_like(tmp_path)), None)
    config = transformers.BertConfig(**VIT, vocab_size=tokenizer.vocabulary, max_position_embeddings=12)
    transformers.BertModel(config).save_pretrained(tmp_path)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{mode}": True}))
    section = {"kind": "pretrained", "name": str(tmp_path), "projection": "none"}
    texts = inputs_of("text", tokenizer)
    found = model_of("text", section, tokenizer, dim=16).embed("text", texts)
    theirs = transformers.BertModel.from_pretrained(tmp_path).eval()
    tokens = texts["tokens"].long()
    rows = []
    for row in tokens:
        stop = row.tolist().index(tokenizer.end) + 1
        hidden = theirs(input_ids=row[None, :stop]).last_hidden_state[0]
        rows.append(hidden.mean(0) if mode == "mean_tokens" else hidden[0])
    torch.testing.assert_close(found, torch.nn.functional.normalize(torch.stack(rows), dim=-1))


def section(architecture: str, **more: Any) -> dict[str, Any]:
    settings, _ = (IMAGES | TEXTS)[architecture]
    return {"kind": "config", "architecture": architecture, "settings": settings, **more}


@pytest.mark.parametrize(
    ("tower", "given", "options", "message"),
    [
        ("image", section("vit") | {"architecture": "vitt"}, {}, "transformers knows no model_type 'vitt'"),
        ("image", section("vit") | {"settings": {"hiden": 3}}, {}, "settings.hiden: ViTConfig has no field 'hiden'"),
        ("image", section("vit"), {"size": 30}, "size 30 is not a multiple of 8, .* Choose 24 or 32"),
        ("image", section("vit", projection="none"), {}, "vit has the width 16 and model.embedding_dim is 24"),
        ("image", section("vit", frozen=True), {}, "no projection of its own, and a new one would stay random"),
        ("image", section("convnext", pooling="cls"), {}, "convnext has no class token. Choose own or mean"),
        ("image", section("convnext", dropout=0.1), {}, "convnext can't have it .it has no dropout of hidden states"),
        ("image", section("resnet"), {"gradient_checkpointing": True}, "normalises over the batch of all ranks"),
        ("image", section("convnext"), {"gradient_checkpointing": True}, "ConvNextModel of model.image can't do it"),
        ("image", section("bert"), {}, "bert .BertModel. can't encode the images of the data"),
        (
            "text",
            section("bert") | {"architecture": "t5", "settings": {}, "dropout": 0.1},
            {},
            "draws from a generator",
        ),
        ("text", section("bert") | {"architecture": "bart", "settings": {}}, {}, "no encoder alone of BartConfig"),
        ("text", section("distilbert", pooling="own"), {}, "distilbert does not pool. Choose cls, mean or last"),
        (
            "text",
            section("bert") | {"settings": VIT | {"max_position_embeddings": 11}},
            {},
            "context_length: 12 tokens a text, and bert of model.text has 11 positions",
        ),
        ("text", {"kind": "pretrained", "name": "./nowhere"}, {}, "there is no folder ./nowhere"),
    ],
)
def test_what_can_not_be_is_refused(tower: str, given: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model_of(tower, given, **options)


def test_what_a_checkpoint_can_not_be_is_refused(tmp_path: Path) -> None:
    tokenizer = pretrained_tokenizer(str(bert_like(tmp_path)), None)
    config = transformers.BertConfig(**VIT, vocab_size=tokenizer.vocabulary, max_position_embeddings=12)
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(tmp_path)
    given = {"kind": "pretrained", "name": str(tmp_path)}
    with pytest.raises(UsageError, match=f"knows {tokenizer.vocabulary} tokens, the tokenizer of data.text has 259"):
        model_of("text", given)
    with pytest.raises(UsageError, match=r"context_length: 13 tokens a text, and .* has 12 positions"):
        model_of("text", given, tokenizer, context=13)
    with pytest.raises(UsageError, match=r"lacks weights that the tower needs: pooler\.dense\.bias.* than own"):
        model_of("text", given | {"pooling": "own"}, tokenizer)
    with pytest.raises(UsageError, match="is a folder, and folders have no revision 'main'"):
        model_of("text", given | {"revision": "main"}, tokenizer)
    weights = tmp_path / "model.safetensors"
    torch.save(transformers.BertModel(config).state_dict(), tmp_path / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UsageError, match=r"can't be loaded .* They must be in safetensors"):
        model_of("text", given, tokenizer)
    clip = {"kind": "pretrained", "name": str(clip_folder(tmp_path / "clip", 300))}
    with pytest.raises(UsageError, match=r"embedding_dim: 16, and the projection .* has the width 24"):
        model_of("image", clip, dim=16)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of dynamo's own looking
def test_a_compiled_tower_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = torch.nn.Module.compile
    # The graph is captured as for any backend; generating code for it is PyTorch's own affair, and takes minutes.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled(module, backend="eager"))
    given = section("bert", dropout=0.1)
    plain, fast = (model_of("text", given, compile=on) for on in (False, True))
    assert plain.state_dict().keys() == fast.state_dict().keys()
    expected, found = (gradients(model, "text", inputs_of("text")) for model in (plain, fast))
    for parameter, gradient in expected.items():
        torch.testing.assert_close(found[parameter], gradient)


def test_an_architecture_that_draws_at_random_is_refused() -> None:
    """A masked autoencoder shuffles its patches, in training and after it."""
    section = {"kind": "config", "architecture": "vit_mae", "settings": VIT | {"patch_size": 8}}
    with pytest.raises(
        UsageError,
        match=r"model\.image: vit_mae \(ViTMAEModel\) draws at random \(aten\.rand\.default\), so that features would "
        r"depend on the number of ranks\. Choose another architecture",
    ):
        model_of("image", section)
