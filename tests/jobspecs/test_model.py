"""Rules of the towers: among themselves, with the objective's sides and with the data."""

from __future__ import annotations

from collections.abc import Callable

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
    ("override", "fault"),
    [
        (
            "model.text={kind: pretrained, name: bert}",
            "(data.text.tokenizer.kind): model.text is pretrained, and knows no tokens of a 'bytes' tokenizer",
        ),
        (
            "model.image={kind: config, architecture: vit, settings: {image_size: 32}}",
            "model.image.settings.image_size: 'image_size' is not set here: data.image.size says it",
        ),
        (
            "model.image={kind: config, architecture: vit, settings: {drop_path_rate: 0.1}}",
            "'drop_path_rate' is not set here: dropout must not depend on the number of ranks",
        ),
        ("model.image.kind=presett", "should be 'transformer', 'preset', 'config' or 'pretrained'"),
    ],
)
def test_faults(example: str, wrong: Callable[..., list[str]], override: str, fault: str) -> None:
    (found,) = wrong(example, override)
    assert fault in found.replace("(model.image.settings.image_size)", "model.image.settings.image_size"), found


def test_settings_are_part_of_the_experiment(example: str) -> None:
    override = "model.image={{kind: config, architecture: vit, settings: {{hidden_size: {}, patch_size: 8}}}}"
    one, other = (loads(example, overrides=(override.format(width),)) for width in (96, 192))
    assert one.experiment()["model.image.settings.hidden_size"] == 96
    assert one.experiment_hash() != other.experiment_hash()
