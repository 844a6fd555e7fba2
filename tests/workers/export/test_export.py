"""Exports give the embeddings that the checkpoint gives, of the same raw images and texts, to who has the libraries
alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import nn

from jobspecs.errors import UsageError
from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.benchmarks.peers import FOLDER, INSTALL
from tests.workers import pretrained_folders
from tests.workers.checkpoints import write_untrained_run
from tests.workers.data.pictures import encoded, photo
from tests.workers.export.specs import CLIP, MIXED, SPECS, TEXT_TEXT
from tests.workers.tiny_job import scans
from workers.data.demo_tar import Sample, pack_shard
from workers.data.make_tokenizer import pretrained, train_bpe
from workers.data.tokenize import Tokenizer, byte_tokenizer
from workers.evaluate.encode import Encoder
from workers.export.source import Source
from workers.export.towers import PlainTower
from workers.export.two_towers import two_tower_model
from workers.export.write import check_folder, export
from workers.models.build import build
from workers.run import RunDirectory
from workers.storage import Storage, absolute
from workers.train.checkpoint import Manifest

TEXTS = [
    "seven",
    "",
    "Ünïcödé ☃ 😀 and <|end|> and [SEP]",
    "a text that is longer than any context of these models, by far and away, so that it is cut at its end",
]
SCANS = 3
PICTURES = [
    *(sample.jpeg for sample in scans()[:SCANS]),
    encoded(photo(60, 50), "JPEG", quality=92),
    encoded(photo(90, 130), "PNG"),
    encoded(photo(200, 150), "JPEG", quality=92),  # which is decoded at a quarter of its size
]

WRITTEN = [
    *((name, format_) for name in SPECS for format_ in ("transformers", "safetensors")),
    *((name, "sentence-transformers") for name in ("clip", "siglip", "text", "two_texts")),
]


@dataclass(frozen=True)
class World:
    """Every model in every format that holds it."""

    folder: Path
    sources: dict[str, Source]
    expected: dict[str, dict[str, np.ndarray]]
    """Of each model by side."""

    def exported(self, name: str, format_: str) -> Path:
        return self.folder / f"{name}-{format_}"


def _tokenizers(spec: JobSpec) -> dict[str, Tokenizer]:
    bpe = train_bpe(pretrained_folders.CAPTIONS, 300)
    return {side: bpe if text.tokenizer.kind == "bpe" else byte_tokenizer() for side, text in spec.data.texts.items()}


def _source(folder: Path, name: str) -> tuple[Source, dict[str, np.ndarray]]:
    """A checkpoint, and what evaluations make of it."""
    spec, run = SPECS[name], RunDirectory(absolute(str(folder / "runs" / name)))
    write_untrained_run(spec, run, _tokenizers(spec))
    result = {"evaluation": "held-out", "kind": "zero_shot", "main": "acc@1", "scores": {"acc@5": 0.9, "acc@1": 0.5}}
    result |= {"samples": 30, "chance": 0.1, "interval": [0.4, 0.6], "data_fingerprint": "0123456789abcdef0123"}
    source = Source.of_checkpoint(spec, run, run.checkpoint(7), Storage(), (result,))
    encoder = Encoder.of_checkpoint(spec, run, run.checkpoint(7))
    expected = {side: encoder.texts(TEXTS, 2, side) for side in spec.data.texts}
    if spec.data.image is not None:
        expected["image"] = encoder.images([str(folder / "pictures.tar")], "txt", 2).features
    return source, expected


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    if not (FOLDER / "sentence_transformers").is_dir():
        pytest.skip(INSTALL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = [Sample(content, "", 1, 1) for content in PICTURES]
        (folder / "pictures.tar").write_bytes(pack_shard(0, pictures))
        for number, content in enumerate(PICTURES):
            (folder / f"picture-{number}").write_bytes(content)
        both = {name: _source(folder, name) for name in SPECS}
        world = World(folder, {n: one[0] for n, one in both.items()}, {n: one[1] for n, one in both.items()})
        for model, format_ in WRITTEN:
            export(world.sources[model], format_, world.exported(model, format_))
        work = {
            "images": [str(folder / f"picture-{number}") for number in range(len(PICTURES))],
            "texts": TEXTS,
            "exports": [
                {"folder": str(world.exported(model, format_)), "sides": list(world.expected[model])}
                for model, format_ in WRITTEN
            ],
        }
        (folder / "work.json").write_text(json.dumps(work))
        command = [sys.executable, Path(__file__).with_name("loading.py"), folder / "work.json", FOLDER]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        yield world


@pytest.mark.parametrize(("model", "format_"), WRITTEN)
def test_the_libraries_embed_as_evaluations_do(world: World, model: str, format_: str) -> None:
    found = np.load(world.exported(model, format_) / "embeddings.npz")
    for side, expected in world.expected[model].items():
        cosine = (found[side] * expected).sum(1)
        assert found[side].shape == expected.shape
        assert cosine.min() > 0.9999, (side, cosine)
    if "image" in world.expected[model]:
        # An image processor scales otherwise: the scans have the models' size.
        cosine = (found["opened"] * world.expected[model]["image"]).sum(1)
        assert cosine[:SCANS].min() > 0.9999
        assert cosine[SCANS:].min() > 0.9, cosine


def test_the_scale_and_bias_of_similarities_are_those_of_the_loss(world: World) -> None:
    for name in ("clip", "siglip"):
        source = world.sources[name]
        weights = load_file(world.exported(name, "transformers") / "model.safetensors")
        assert weights["logit_scale"].item() == pytest.approx(source.log_scale)
        if name == "siglip":
            assert weights["logit_bias"].item() == pytest.approx(source.bias) != 0


def test_the_card_tells_what_the_model_is_made_of(world: World) -> None:
    card = (world.exported("text", "sentence-transformers") / "README.md").read_text()
    source = world.sources["text"]
    for expected in (
        "- query and document: BertModel, pooled by mean, projected by 2 linear layers",
        f"`{source.checkpoint}`, step 7",
        source.manifest.spec_hash,
        source.manifest.index_fingerprint,
        source.tokenizers["query"].fingerprint(),
        "| held-out | zero_shot | acc@1 0.5000 (0.4000…0.6000), acc@5 0.9000 | 0.1000 | 30 | `0123456789abcdef` |",
        '"architecture": "bert"',
        "up to 16 tokens, `query: ` before each",
    ):
        assert expected in card


@pytest.mark.parametrize(
    ("model", "overrides", "expected"),
    [
        ("mixed", MIXED, r"model\.image: sentence-transformers has no modules for it \(ResNetModel, pooled by own"),
        ("clip", ("data.text.prefix='a '",), r"data\.text\.prefix: 'a ' stands before texts alone"),
        ("text", ("model.text.architecture=siglip_text_model",), r"model\.text: .* no module that pools as it does"),
    ],
)
def test_what_sentence_transformers_can_t_hold_is_refused(
    tmp_path: Path, model: str, overrides: tuple[str, ...], expected: str
) -> None:
    spec = loads(TEXT_TEXT if model == "text" else CLIP, "spec.yaml", overrides)
    tokenizers = _tokenizers(spec)
    untrained = build(spec.model, spec.data, spec.objective, 0, tokenizers).eval()
    manifest = Manifest(7, "", "", 0, 1, 1, {})
    source = Source(spec, "file:///checkpoint", manifest, untrained, tokenizers, ())
    with pytest.raises(UsageError, match=expected) as raised:
        export(source, "sentence-transformers", tmp_path / "out")
    assert "--format transformers or safetensors" in str(raised.value)
    assert list(tmp_path.iterdir()) == [], "an export that fails leaves nothing"


def test_a_text_whose_end_transformers_would_look_for_elsewhere_is_no_clip_model(tmp_path: Path) -> None:
    tokenizer = pretrained(str(pretrained_folders.bert_like(tmp_path)), None)
    assert tokenizer.end == 2
    spec = loads(CLIP)
    for ends, whole in ((tokenizer, False), (byte_tokenizer(), True)):
        model = build(spec.model, spec.data, spec.objective, 0, {"text": ends}).eval()
        source = Source(spec, "file:///checkpoint", Manifest(7, "", "", 0, 1, 1, {}), model, {"text": ends}, ())
        assert (two_tower_model(source) is not None) == whole


def test_a_projection_that_is_not_linear_is_refused() -> None:
    tower = build(SPECS["clip"].model, SPECS["clip"].data, SPECS["clip"].objective, 0, {"text": byte_tokenizer()})
    tower.tower("text").projection = nn.Sequential(nn.Linear(2, 2), nn.GELU())
    with pytest.raises(UsageError, match=r"model\.text: the projection .* is not made of linear layers"):
        PlainTower.of("text", ("text",), tower.tower("text"))


def test_only_an_empty_folder_is_written_to(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "new")
    (tmp_path / "mine").touch()
    for folder, expected in (
        (tmp_path, "is there already, and not empty. Name another folder"),
        (tmp_path / "mine", "is there already"),
        (Path("s3://bucket/model"), "an export is a local folder"),
    ):
        with pytest.raises(UsageError, match=expected):
            check_folder(folder)
