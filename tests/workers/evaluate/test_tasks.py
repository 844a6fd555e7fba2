"""The evaluations, end to end, of a checkpoint with random weights on digits in tars."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import safetensors.torch
import torch

from jobspecs.data import Data, EvaluationData
from jobspecs.errors import DataError
from jobspecs.evaluation import Evaluation, Knn, LinearProbe, Retrieval, ZeroShot
from jobspecs.job import JobSpec
from jobspecs.load import loads
from jobspecs.scores import RANKED, score_names
from jobspecs.storage import S3
from tests.workers.tiny_job import SPEC, broken, scans, write_shards, write_tokenizers
from workers.data.demo_digits import CLASS_NAMES
from workers.data.demo_tar import Sample, TextPair, pack_shard
from workers.data.tokenize import byte_tokenizer
from workers.evaluate import KINDS
from workers.evaluate.class_names import LabelSet
from workers.evaluate.encode import Encoder
from workers.evaluate.knn import knn
from workers.evaluate.linear_probe import linear_probe
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
        shapes={name: tuple(value.shape) for name, value in state.items()},
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
            Encoder.of_checkpoint(spec, run, uri),
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
    kinds = {section.model_fields["kind"].annotation for section in get_args(get_args(Evaluation)[0])}
    assert {kind for literal in kinds for kind in get_args(literal)} == KINDS.keys()


def test_encoder_encodes_what_the_checkpoint_holds(world: World) -> None:
    """The spec's seed is 0, the checkpoint's weights are of another."""
    model = build(world.spec.model, world.spec.data, world.spec.objective, 123, {"text": byte_tokenizer()}).eval()
    texts = ["one", "", "a text that is longer than what the tower can take in, by far and away"]
    tokens = torch.from_numpy(np.stack([byte_tokenizer().encode(text, 48) for text in texts]))
    with torch.inference_mode():
        expected = model.embed("text", {"tokens": tokens}).numpy()
    np.testing.assert_allclose(world.encoder.texts(texts, batch=2), expected, atol=1e-6)


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
    assert (scores.samples, scores.skipped, scores.chance) == (28, 2, pytest.approx(0.1))
    # By hand: the class whose mean prompt is nearest.
    features = world.encoder.images(world.data.urls, "json", 32).features
    prompts = [[f"the digit {name}", f"a {name}."] for name in CLASS_NAMES]
    classes = np.stack([world.encoder.texts(pair, 2).mean(0) for pair in prompts])
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    labels = LabelSet(None, list(CLASS_NAMES), ["the digit {}", "a {}."], "label")
    np.testing.assert_allclose(classes, class_embeddings(labels, world.encoder, 4), atol=1e-6)
    labels = [sample.facts["label"] for sample in world.samples]
    right = (features @ classes.T).argmax(1) == labels
    assert scores.scores["acc@1"] == pytest.approx(right.mean())


def test_zero_shot_of_five_classes_has_no_acc_5(world: World, tmp_path: Path) -> None:
    few = [sample for sample in world.samples if int(sample.facts["label"]) < 5]
    spec = zero_shot_spec(data_of(tmp_path, few), class_names=list(CLASS_NAMES[:5]))
    scores = zero_shot(spec, world.encoder)
    assert scores.scores.keys() == {"acc@1", "mean_per_class_recall"}
    assert (scores.samples, scores.chance) == (len(few), pytest.approx(0.2))


def test_retrieval(world: World) -> None:
    scores = retrieval(retrieval_spec(world.data), world.encoder)
    assert scores.main == "mean_R@1"
    assert tuple(scores.scores) == score_names(retrieval_spec(world.data), world.spec.data)
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
    encoder = Encoder.of_checkpoint(
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
        (True, "evaluation 'held-out': label True is not the index of one of 10 class_names."),
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
        Encoder.of_checkpoint(spec, RunDirectory(f"file://{world.folder}/run"), f"file://{world.folder}/checkpoint")


def test_result_as_json(world: World) -> None:
    scores = zero_shot(zero_shot_spec(world.data), world.encoder)
    result = Result("held-out", "zero_shot", "hash", 11, "file:///x", 1.5, scores)
    stored = json.loads(result.to_json())
    assert stored["evaluation"] == "held-out"
    assert stored["scores"] == scores.scores
    assert (stored["main"], stored["samples"], stored["skipped"]) == ("acc@1", 28, 2)
    assert "result" not in stored


# --- classifiers on features --------------------------------------------------------------------------


def on_features(kind: str, world: World, **fields: object) -> dict[str, object]:
    return {"kind": kind, "name": "probe", "data": world.data, "train": world.data, "batch": 4} | fields


def test_features_of_the_backbone_are_those_before_the_projection(world: World) -> None:
    model = build(world.spec.model, world.spec.data, world.spec.objective, 123, {"text": byte_tokenizer()}).eval()
    found = world.encoder.images(world.data.urls, "txt", 9, "backbone")
    assert found.features.shape == (28, 32)
    projected = found.features @ model.get_parameter("towers.image.projection.weight").detach().numpy().T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(projected, world.encoder.images(world.data.urls, "txt", 9).features, atol=1e-5)


@pytest.mark.parametrize("features", ["backbone", "embedding"])
def test_classifiers_on_features(world: World, features: str) -> None:
    """Each image is among the training images: its nearest neighbour is itself."""
    near = knn(Knn.model_validate(on_features("knn", world, k=1, features=features)), world.encoder)
    assert near.scores == {"acc@1": 1.0, "acc@5": pytest.approx(1, abs=0.7), "mean_per_class_recall": 1.0}
    assert (near.main, near.samples, near.skipped) == ("acc@1", 28, 4)
    probe = linear_probe(LinearProbe.model_validate(on_features("linear_probe", world)), world.encoder)
    assert near.chance == probe.chance < probe.scores["acc@1"]
    named = on_features("knn", world, k=1, label_field="class_name")
    assert knn(Knn.model_validate(named), world.encoder).scores["acc@1"] == 1.0


# --- queries and documents ----------------------------------------------------------------------------


class Lookup(torch.nn.Module):
    """Embeds a text by its first two bytes after the prefix, which are a direction: "a" is 0°, "b" 10°, …"""

    def embed(self, side: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        assert (inputs["tokens"][:, 1] == ord(side[0])).all(), "the prefix of the side"
        angle = torch.deg2rad((inputs["tokens"][:, 2] - ord("a")) * 10.0)
        return torch.stack([angle.cos(), angle.sin()], 1)

    def backbone(self, side: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        raise NotImplementedError


def text_encoder(**sections: object) -> Encoder:
    data = Data.model_validate(
        {
            "sources": [{"name": "pairs", "urls": ["x.tar"]}],
            "query": {"prefix": "q", "context_length": 9},
            "document": {"prefix": "d", "context_length": 7},
            **sections,
        }
    )
    return Encoder(data, Storage(S3()), dict.fromkeys(data.texts, byte_tokenizer()), Lookup())


def pairs_in(folder: Path, pairs: list[TextPair]) -> Retrieval:
    folder.mkdir(parents=True)
    (folder / "00000.tar").write_bytes(pack_shard(0, pairs))
    return retrieval_spec(EvaluationData(urls=[f"{folder}/*.tar"]))


def test_retrieval_of_documents(tmp_path: Path) -> None:
    """Documents a to d. By hand: query a finds a at rank 1; b asks for d, which is third (b, then a and c tie at
    10°: d is last, rank 4); c asks for d (rank 2 or 3, a tie with b) and for c itself (rank 1)."""
    pairs = [TextPair(q, d, ()) for q, d in (("a", "a"), ("b", "d"), ("c", "d"), ("c", "c"), ("c", "c"), ("a", "b"))]
    scores = retrieval(pairs_in(tmp_path / "pairs", pairs), text_encoder())
    assert scores.main == "nDCG@10"
    assert tuple(scores.scores) == RANKED
    assert (scores.samples, scores.skipped) == (6, 0)
    two = 1 + 1 / np.log2(3)
    of_c = (1 + (1 / np.log2(3) + 1 / np.log2(4)) / 2) / two
    assert scores.scores["nDCG@10"] == pytest.approx((1 + 1 / np.log2(5) + of_c) / 3)
    assert scores.scores["MRR@10"] == pytest.approx((1 + 1 / 4 + 1) / 3)
    assert [scores.scores[f"R@{k}"] for k in (1, 5, 10)] == pytest.approx([2 / 3, 1, 1])
    places = (1 / np.log2(np.arange(2, 6))).sum()
    assert scores.chance == pytest.approx((2 * (2 / 4 * places / two) + 1 / 4 * places) / 3)


def test_a_collapsed_model_of_texts_scores_chance(tmp_path: Path) -> None:
    pairs = [TextPair(f"x{number}", f"x{number % 30}", ()) for number in range(40)]
    scores = retrieval(pairs_in(tmp_path / "pairs", pairs), text_encoder())
    assert scores.scores["nDCG@10"] == pytest.approx(scores.chance)
    assert scores.scores["R@1"] == pytest.approx(1 / 30)


def test_queries_in_a_field_and_samples_without_a_document(tmp_path: Path) -> None:
    encoder = text_encoder(query={"column": "json", "field": "asked", "prefix": "q", "context_length": 9})
    spec = pairs_in(tmp_path / "pairs", [TextPair("", text, (), {"asked": text}) for text in "abc"])
    image = Sample(b"", "d", 1, 1, {"asked": "d"})
    (tmp_path / "pairs/00001.tar").write_bytes(pack_shard(1, [image]))
    scores = retrieval(spec, encoder)
    assert scores.scores["nDCG@10"] == 1.0
    assert (scores.samples, scores.skipped) == (3, 1)


def test_retrieval_of_documents_needs_two(tmp_path: Path) -> None:
    spec = pairs_in(tmp_path / "pairs", [TextPair("a", "b", ()), TextPair("c", "b", ())])
    with pytest.raises(DataError, match="evaluation 'pairs' needs two texts at least, found 1"):
        retrieval(spec, text_encoder())
