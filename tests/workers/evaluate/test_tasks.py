"""Both evaluations, end to end, of a checkpoint with random weights on digits in tars."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from jobspecs.data import EvaluationData
from jobspecs.errors import DataError
from jobspecs.evaluation import Retrieval, ZeroShot
from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.workers.tiny_job import SPEC, broken, scans, write_shards, write_tokenizers
from workers.data.demo_digits import CLASS_NAMES
from workers.data.demo_tar import Sample
from workers.data.tokenize import byte_tokenizer
from workers.evaluate import KINDS
from workers.evaluate.encode import Encoder
from workers.evaluate.result import Result
from workers.evaluate.retrieval import retrieval
from workers.evaluate.zero_shot import class_embeddings, zero_shot
from workers.models.build import build
from workers.run import RunDirectory
from workers.storage import Storage
from workers.train.checkpoint import CheckpointError, File, Manifest


def write_checkpoint(path: Path, state: dict[str, torch.Tensor]) -> str:
    """A checkpoint of parameters alone, as one rank writes it."""
    path.mkdir(parents=True)
    content = safetensors.torch.save(state)
    (path / "model-00000.safetensors").write_bytes(content)
    file = File("model-00000.safetensors", len(content), hashlib.sha256(content).hexdigest())
    manifest = Manifest(
        step=11,
        spec_hash="",
        index_fingerprint="",
        masked_samples=0,
        attempt=1,
        world_size=1,
        files=(file,),
    )
    (path / "manifest.json").write_bytes(manifest.to_json())
    return f"file://{path}"


@dataclass(frozen=True)
class World:
    """A spec, a checkpoint of its model, and 30 digits in 2 tars, 2 of which are broken."""

    folder: Path
    spec: JobSpec
    encoder: Encoder
    samples: list[Sample]
    """Those that can be used."""
    data: EvaluationData


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        samples = list(scans()[:30])
        samples[7], samples[20] = broken(samples[7]), broken(samples[20])
        write_shards(folder / "data", samples, shards=2)
        spec = loads(SPEC % (folder / "data"))
        model = build(spec.model, spec.data, spec.objective, 123, {"text": byte_tokenizer()})
        run = RunDirectory(f"file://{folder}/run")
        write_tokenizers(run, Storage(spec.storage.s3))
        uri = write_checkpoint(folder / "checkpoint", model.state_dict())
        kept = [sample for sample in samples[0::2] + samples[1::2] if len(sample.jpeg) > 100]
        yield World(
            folder,
            spec,
            Encoder(spec, run, uri),
            kept,
            EvaluationData(urls=[f"{folder}/data/{{00000..00001}}.tar"]),
        )


def data_of(folder: Path, samples: list[Sample]) -> EvaluationData:
    write_shards(folder / "shards", samples, shards=1)
    return EvaluationData(urls=[f"{folder}/shards/*.tar"])


def zero_shot_spec(data: EvaluationData, **fields: object) -> ZeroShot:
    given = {"class_names": list(CLASS_NAMES), "templates": ["the digit {}", "a {}."], "batch": 4} | fields
    return ZeroShot.model_validate({"kind": "zero_shot", "name": "held-out", "data": data, **given})


def retrieval_spec(data: EvaluationData) -> Retrieval:
    return Retrieval(kind="retrieval", name="pairs", data=data, batch=4)


def test_kinds_are_those_of_the_spec() -> None:
    kinds = {"zero_shot": zero_shot, "retrieval": retrieval}
    assert kinds == KINDS


def test_encoder_encodes_what_the_checkpoint_holds(world: World) -> None:
    """The spec's seed is 0, the checkpoint's weights are of another."""
    model = build(world.spec.model, world.spec.data, world.spec.objective, 123, {"text": byte_tokenizer()}).eval()
    texts = ["one", "", "a text that is longer than what the tower can take in, by far and away"]
    tokens = torch.from_numpy(np.stack([byte_tokenizer().encode(text, 48) for text in texts]))
    with torch.inference_mode():
        expected = model.embed("text", {"tokens": tokens}).numpy()
    np.testing.assert_allclose(world.encoder.texts(texts, batch=2), expected, atol=1e-6)
    assert world.encoder.manifest.step == 11


def test_images_come_in_order_with_their_columns_whatever_the_batch(world: World) -> None:
    one, seven = (world.encoder.images(world.data.urls, "caption;txt", batch) for batch in (1, 7))
    assert one.skipped == seven.skipped == 2
    assert one.column == seven.column
    assert [text.decode() for text in one.column] == [sample.caption for sample in world.samples]
    assert one.features.shape == (28, 16)
    np.testing.assert_allclose(one.features, seven.features, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(one.features, axis=1), 1, atol=1e-6)


def test_zero_shot(world: World) -> None:
    scores = zero_shot(zero_shot_spec(world.data), world.encoder)
    assert scores.main == "acc@1"
    assert scores.scores.keys() == {"acc@1", "acc@5", "mean_per_class_recall"}
    assert (scores.samples, scores.skipped, scores.chance) == (28, 2, 0.1)
    # By hand: the class whose mean prompt is nearest.
    features = world.encoder.images(world.data.urls, "json", 32).features
    prompts = [[f"the digit {name}", f"a {name}."] for name in CLASS_NAMES]
    classes = np.stack([world.encoder.texts(pair, 2).mean(0) for pair in prompts])
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    np.testing.assert_allclose(classes, class_embeddings(zero_shot_spec(world.data), world.encoder), atol=1e-6)
    labels = [sample.facts["label"] for sample in world.samples]
    right = (features @ classes.T).argmax(1) == labels
    assert scores.scores["acc@1"] == pytest.approx(right.mean())


def test_zero_shot_of_five_classes_has_no_acc_5(world: World, tmp_path: Path) -> None:
    few = [sample for sample in world.samples if int(sample.facts["label"]) < 5]
    spec = zero_shot_spec(data_of(tmp_path, few), class_names=list(CLASS_NAMES[:5]))
    scores = zero_shot(spec, world.encoder)
    assert scores.scores.keys() == {"acc@1", "mean_per_class_recall"}
    assert (scores.samples, scores.chance) == (len(few), 0.2)


def test_retrieval(world: World) -> None:
    scores = retrieval(retrieval_spec(world.data), world.encoder)
    assert scores.main == "mean_R@1"
    assert scores.scores.keys() == {
        "mean_R@1",
        *(f"{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
    }
    assert (scores.samples, scores.skipped) == (28, 2)
    # By hand: equal captions are one candidate, and all its images are positives.
    captions = [sample.caption for sample in world.samples]
    distinct = sorted(set(captions))
    assert 2 < len(distinct) < 28
    images = world.encoder.images(world.data.urls, "txt", 32).features
    similarity = images @ world.encoder.texts(distinct, 32).T
    of_images = [captions[i] == distinct[similarity[i].argmax()] for i in range(28)]
    of_texts = [captions[similarity[:, j].argmax()] == distinct[j] for j in range(len(distinct))]
    assert scores.scores["image_to_text_R@1"] == pytest.approx(np.mean(of_images))
    assert scores.scores["text_to_image_R@1"] == pytest.approx(np.mean(of_texts))
    assert scores.scores["mean_R@1"] == pytest.approx((np.mean(of_images) + np.mean(of_texts)) / 2)
    shares = [captions.count(text) / 28 for text in distinct]
    assert scores.chance == pytest.approx((1 / len(distinct) + np.mean(shares)) / 2)


def test_a_collapsed_model_scores_chance(world: World) -> None:
    state = {name: value.clone() for name, value in world.encoder._model.state_dict().items()}
    for name, value in state.items():
        # Each tower gives one vector whatever it sees: the last norm's shift.
        if name.endswith(("post_layernorm.weight", "final_layer_norm.weight")):
            value.zero_()
        if name.endswith(("post_layernorm.bias", "final_layer_norm.bias")):
            value.fill_(1.0)
        # Ones add up to the same bits in any order, hence in batches of any size.
        if name.endswith("projection.weight"):
            value.fill_(1.0)
    encoder = Encoder(
        world.spec, RunDirectory(f"file://{world.folder}/run"), write_checkpoint(world.folder / "collapsed", state)
    )
    for scores in (
        zero_shot(zero_shot_spec(world.data), encoder),
        retrieval(retrieval_spec(world.data), encoder),
    ):
        assert scores.scores[scores.main] == pytest.approx(scores.chance)


def _with_facts(sample: Sample, **facts: object) -> Sample:
    return replace(sample, facts={**sample.facts, **facts})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (10, "evaluation 'held-out': label 10 is not the index of one of 10 class_names."),
        (-1, "evaluation 'held-out': label -1 is not the index of one of 10 class_names."),
        ("three", "evaluation 'held-out': label 'three' is not the index of one of 10 class_names."),
        (1.0, "evaluation 'held-out': label 1.0 is not the index of one of 10 class_names."),
        (None, "evaluation 'held-out': label None is not the index of one of 10 class_names."),
    ],
)
def test_a_label_that_is_no_class(world: World, tmp_path: Path, label: object, message: str) -> None:
    data = data_of(tmp_path, [world.samples[0], _with_facts(world.samples[1], label=label)])
    with pytest.raises(DataError) as raised:
        zero_shot(zero_shot_spec(data), world.encoder)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("column", "field"),
    [("json", "lable"), ("txt", "label"), ("jpg", "label")],
    ids=["no such field", "no JSON", "no text at all"],
)
def test_a_label_that_is_not_there(world: World, column: str, field: str) -> None:
    spec = zero_shot_spec(world.data, label_column=column, label_field=field)
    with pytest.raises(DataError) as raised:
        zero_shot(spec, world.encoder)
    assert str(raised.value) == (
        f"evaluation 'held-out': a sample's {column} has no field {field!r}. "
        "Set label_column and label_field to where the index of its class (from 0) stands."
    )


def test_no_image_at_all(world: World, tmp_path: Path) -> None:
    data = data_of(tmp_path, [broken(sample) for sample in world.samples[:3]])
    with pytest.raises(DataError, match=r"evaluation 'held-out': not one image of .* could be scored"):
        zero_shot(zero_shot_spec(data), world.encoder)
    with pytest.raises(DataError, match="not one image"):
        zero_shot(zero_shot_spec(world.data, label_column="cls"), world.encoder)
    with pytest.raises(DataError, match="evaluation 'pairs' needs two texts at least, found 0"):
        retrieval(retrieval_spec(data), world.encoder)


def test_retrieval_needs_two_texts_in_utf_8(world: World, tmp_path: Path) -> None:
    same = [replace(sample, caption="the same") for sample in world.samples[:3]]
    with pytest.raises(DataError, match="evaluation 'pairs' needs two texts at least, found 1"):
        retrieval(retrieval_spec(data_of(tmp_path / "same", same)), world.encoder)
    odd = data_of(tmp_path / "odd", [replace(s, caption=f"caption {i}") for i, s in enumerate(same)])
    tar = tmp_path / "odd/shards/00000.tar"
    tar.write_bytes(tar.read_bytes().replace(b"caption 1", b"caption \xff"))
    with pytest.raises(DataError, match=r"evaluation 'pairs': a \.txt is not UTF-8"):
        retrieval(retrieval_spec(odd), world.encoder)


def test_a_checkpoint_of_another_model_is_refused(world: World) -> None:
    spec = loads(SPEC % world.folder, overrides=("model.embedding_dim=8",))
    with pytest.raises(CheckpointError, match="is of another model"):
        Encoder(spec, RunDirectory(f"file://{world.folder}/run"), f"file://{world.folder}/checkpoint")


def test_result_as_json(world: World) -> None:
    scores = zero_shot(zero_shot_spec(world.data), world.encoder)
    result = Result("held-out", "zero_shot", "hash", 11, "file:///x", 1.5, scores)
    stored = json.loads(result.to_json())
    assert stored["evaluation"] == "held-out"
    assert stored["scores"] == scores.scores
    assert (stored["main"], stored["samples"], stored["skipped"]) == ("acc@1", 28, 2)
    assert "result" not in stored
