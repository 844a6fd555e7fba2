"""Rules of the towers: among themselves, with the objective's sides and with the data."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic_core import PydanticCustomError

from jobspecs.load import loads
from jobspecs.model import Model, check_towers

TEXT = {"kind": "preset", "name": "BERT-base"}
SIDES = {"image_text": ("image", "text"), "two_view": ("image",), "text_text": ("query", "document")}


def model(*towers: str) -> Model:
    image = {"kind": "preset", "name": "ResNet-50"}
    return Model.model_validate({name: image if name == "image" else TEXT for name in towers} | {"embedding_dim": 8})


@pytest.mark.parametrize(
    ("objective", "towers"),
    [
        ("image_text", ["image", "text"]),
        ("two_view", ["image"]),
        ("text_text", ["text"]),
        ("text_text", ["query", "document"]),
        ("text_text", ["text", "query"]),
    ],
)
def test_each_side_has_its_tower(objective: str, towers: list[str]) -> None:
    check_towers(model(*towers), SIDES[objective], objective)
    assert list(model(*towers).towers()) == towers


@pytest.mark.parametrize(
    ("objective", "towers", "message"),
    [
        ("image_text", ["image"], "'text' is missing"),
        ("two_view", [], "'image' is missing"),
        ("text_text", ["query"], "'text' is missing"),
        ("two_view", ["image", "text"], "objective two_view has no use for model.text"),
        ("text_text", ["text", "query", "document"], "objective text_text has no use for model.text"),
    ],
)
def test_a_tower_too_few_or_too_many(objective: str, towers: list[str], message: str) -> None:
    with pytest.raises(PydanticCustomError, match=message):
        check_towers(model(*towers), SIDES[objective], objective)


@pytest.mark.parametrize(
    ("name", "overrides", "fault"),
    [
        ("image_text", ("model.text=", "model.image.frozen=true"),
            "--set model.text: 'text' is missing\n    The tower of texts; queries and documents share it unless they "
            "have towers of their own. Objective image_text needs it."),
        ("text_text", ("model.text={kind: preset, name: BERT-base}",),
            "--set model.text: objective text_text has no use for model.text\n"
            "    Leave it out: model.query encodes its query, model.document encodes its document."),
        ("image_text", ("model.text.frozen=true", "model.image.frozen=true"),
            "--set model.image.frozen: every tower is frozen\n    Nothing would be trained: leave one free."),
        ("two_view", ("model.image.frozen=true",),
            "--set model.image.frozen: every tower is frozen\n    Nothing would be trained: leave one free."),
        ("text_text", ("model.query=", "model.document=", "model.text={kind: preset, name: BERT-base}",
            "data.document.tokenizer={kind: bpe}"),
            "--set data.document.tokenizer: queries and documents share the tower model.text, but not their "
            "tokenizer\n    Give both the same, or give model.query and model.document."),
        ("text_text", ("model.query={kind: pretrained, name: bert}", "data.query.tokenizer.kind=bytes"),
            "--set data.query.tokenizer.kind: model.query is pretrained, and knows no tokens of a 'bytes' tokenizer\n"
            "    Give it its own: {kind: pretrained, name: bert}."),
        ("frozen", ("model.image.settings.image_size=32",),
            "--set model.image.settings.image_size: 'image_size' is not set here: data.image.size says it\n"
            "    Leave it out."),
        ("frozen", ("model.image.settings.drop_path_rate=0.1",),
            "--set model.image.settings.drop_path_rate: 'drop_path_rate' is not set here: dropout must not "
            "depend on the number of ranks\n    Leave it out; `dropout` of the tower is that of its hidden states."),
        ("image_text", ("model.image.kind=presett",),
            "--set model.image.kind: should be 'transformer', 'preset', 'config' or 'pretrained', given: "
            "\"presett\"\n    Did you mean 'preset'?"),
        ("frozen", ("model.image.settings.attention_dropout=0",),
            "--set model.image.settings.attention_dropout: 'attention_dropout' is not set here: dropout must not "
            "depend on the number of ranks\n    Leave it out; `dropout` of the tower is that of its hidden states."),
        ("frozen", ("model.image.settings.num_channels=3",),
            "--set model.image.settings.num_channels: 'num_channels' is not set here: images have three\n"
            "    Leave it out."),
        ("text_text", ("model.query.settings.vocab_size=3",),
            "--set model.query.settings.vocab_size: 'vocab_size' is not set here: the tokenizer says it\n"
            "    Leave it out."),
        ("two_view", ("model.image.patch=8",),
            "--set model.image.patch: unknown key 'patch'\n    It is a field of kind 'transformer'. "
            "Allowed here: projection, frozen, dropout, pooling, kind, name."),
        ("image_text", ("model.image.pooling=last",),
            "--set model.image.pooling: should be 'auto', 'own', 'cls' or 'mean', given: \"last\""),
        ("image_text", ("model.image.dropout=1",), "--set model.image.dropout: should be less than 1, given: 1"),
        ("image_text", ("model.kind=clip",),
            "--set model.kind: unknown key 'kind'\n    It is a field of model.image, model.text, model.query or "
            "model.document. Allowed here: image, text, query, document, embedding_dim."),
    ],
)  # fmt: skip
def test_a_fault_its_place_and_its_remedy(
    wrong: Callable[..., list[str]],
    fulls: dict[str, dict[str, Any]],
    name: str,
    overrides: tuple[str, ...],
    fault: str,
) -> None:
    assert wrong(json.dumps(fulls[name]), *overrides) == [fault]


def test_settings_are_part_of_the_experiment(example: str) -> None:
    override = "model.image={{kind: config, architecture: vit, settings: {{hidden_size: {}, patch_size: 8}}}}"
    one, other = (loads(example, overrides=(override.format(width),)) for width in (96, 192))
    assert one.experiment()["model.image.settings.hidden_size"] == 96
    assert one.experiment_hash() != other.experiment_hash()
