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
from jobspecs.evaluation import Evaluation, Health, Knn, LinearProbe, Retrieval, ZeroShot
from jobspecs.job import JobSpec
from jobspecs.load import loads
from jobspecs.scores import RANKED, score_names
from jobspecs.storage import S3
from tests.workers.tiny_job import SPEC, broken, scans, write_shards, write_tokenizers
from workers.data.demo_digits import CLASS_NAMES
from workers.data.demo_tar import Sample, TextPair, pack_shard
from workers.data.tokenize import byte_tokenizer
from workers.evaluate import KINDS
from workers.evaluate.cache import Cache
from workers.evaluate.class_names import LabelSet
from workers.evaluate.encode import Encoder
from workers.evaluate.knn import knn
from workers.evaluate.linear_probe import linear_probe
from workers.evaluate.result import Result
from workers.evaluate.retrieval import retrieval
from workers.evaluate.zero_shot import class_embeddings, zero_shot
from workers.models.build import build
from workers.models.model import ContrastiveModel
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
    result = Result("held-out", "zero_shot", "hash", 11, "file:///x [\n1]", 1.5, scores)
    stored = json.loads(result.to_json())
    assert stored["evaluation"] == "held-out"
    assert stored["scores"] == scores.scores
    assert (stored["main"], stored["samples"], stored["skipped"]) == ("acc@1", 28, 2)
    assert "result" not in stored
    assert stored["checkpoint"] == "file:///x [\n1]"
    assert (stored["higher_is_better"], stored["resamples"], stored["seed"]) == (True, 1000, 0)
    low, high = stored["interval"]
    assert low <= scores.scores["acc@1"] <= high
    assert f'"interval": [{low}, {high}]' in result.to_json().decode()
    assert len(stored["data_fingerprint"]) == 64


@pytest.mark.parametrize("main", ["mean_per_class_recall", "acc@5"])
def test_the_main_score_is_the_one_asked_for(world: World, main: str) -> None:
    scores = zero_shot(zero_shot_spec(world.data, main=main), world.encoder)
    assert scores.main == main
    assert scores.chance == pytest.approx({"mean_per_class_recall": 0.1, "acc@5": 0.5}[main])
    assert scores.interval[0] <= scores.scores[main] <= scores.interval[1]


def test_a_main_score_that_these_data_have_not(world: World, tmp_path: Path) -> None:
    few = [sample for sample in world.samples if int(sample.facts["label"]) < 5]
    spec = zero_shot_spec(data_of(tmp_path, few), class_names=list(CLASS_NAMES[:5]), main="acc@5")
    with pytest.raises(DataError) as raised:
        zero_shot(spec, world.encoder)
    assert str(raised.value) == (
        "evaluation 'held-out': main is 'acc@5', which these data have not. They have: acc@1, mean_per_class_recall."
    )


# --- label files --------------------------------------------------------------------------------------


def test_zero_shot_with_label_files(world: World, tmp_path: Path) -> None:
    names = "\n".join(CLASS_NAMES)
    (tmp_path / "english.txt").write_text(names + "\n")
    (tmp_path / "half.json").write_text(json.dumps(list(CLASS_NAMES[:5])))
    (tmp_path / "own.json").write_text(json.dumps({"class_names": list(CLASS_NAMES), "templates": ["a {}."]}))
    coarse = [_with_facts(sample, coarse=int(sample.facts["label"]) // 2) for sample in world.samples]
    files = [
        {"name": "english", "uri": f"{tmp_path}/english.txt"},
        {"name": "half", "uri": f"file://{tmp_path}/half.json", "label_field": "coarse", "templates": ["{}"]},
        {"name": "own", "uri": f"{tmp_path}/own.json"},
    ]
    data = data_of(tmp_path, coarse)
    found = zero_shot(zero_shot_spec(data, class_names=[], label_files=files), world.encoder)
    inline = zero_shot(zero_shot_spec(data), world.encoder).scores
    half = {"class_names": list(CLASS_NAMES[:5]), "templates": ["{}"], "label_field": "coarse"}
    alone = {
        "english": inline,
        "half": zero_shot(zero_shot_spec(data, **half), world.encoder).scores,
        "own": zero_shot(zero_shot_spec(data, templates=["a {}."]), world.encoder).scores,
    }
    for name, scores in alone.items():
        assert {score: found.scores[f"{name}_{score}"] for score in scores} == pytest.approx(scores)
    assert found.main == "acc@1"
    assert found.scores["acc@1"] == pytest.approx(np.mean([scores["acc@1"] for scores in alone.values()]))
    assert found.scores["acc@5"] == pytest.approx((inline["acc@5"] + alone["own"]["acc@5"]) / 2)
    assert found.chance == pytest.approx((0.1 + 0.2 + 0.1) / 3)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[", "can't be read. Write UTF-8: a name a line, or JSON in a file that ends in .json."),
        ("a.txt", "one\n\ntwo", "holds no class names. Write two at least and none that is empty: a name a line, or as "
            'JSON a list or {"class_names": […], "templates": […]}.'),
        ("a.json", "[1, 2]", "holds no class names. Write two at least and none that is empty: a name a line, or as "
            'JSON a list or {"class_names": […], "templates": […]}.'),
        ("a.txt", "one\none", "class names are unique; more than once: one. Make each unlike."),
        ("a.json", '{"class_names": ["a", "b"], "templates": ["x"]}',
            "its templates are no list of texts with one {} each for the class name."),
    ],
)  # fmt: skip
def test_a_label_file_that_is_wrong(world: World, tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    files = [{"name": "fine", "uri": f"{tmp_path}/{name}"}]
    with pytest.raises(DataError) as raised:
        zero_shot(zero_shot_spec(world.data, class_names=[], label_files=files), world.encoder)
    assert str(raised.value).replace(f"{name}: ", f"{name} ") == f"evaluation 'held-out': {tmp_path}/{name} {message}"


# --- what is kept -------------------------------------------------------------------------------------


class Counting(torch.nn.Module):
    """Counts the rows that pass the towers."""

    def __init__(self, model: ContrastiveModel) -> None:
        super().__init__()
        self.model = model
        self.rows = {"image": 0, "text": 0}

    def embed(self, side: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        self.rows[side] += len(next(iter(inputs.values())))
        return self.model.embed(side, inputs)

    def backbone(self, side: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        self.rows[side] += len(next(iter(inputs.values())))
        return self.model.backbone(side, inputs)

    def project(self, side: str, pooled: torch.Tensor) -> torch.Tensor:
        return self.model.project(side, pooled)


@pytest.mark.parametrize("cache_bytes", [1 << 20, 0])
def test_each_data_set_is_encoded_once_for_all_evaluations(world: World, cache_bytes: int) -> None:
    of_world = world.encoder
    model = Counting(of_world._model)  # type: ignore[arg-type]
    encoder = Encoder(world.spec.data, of_world.storage, of_world._tokenizers, model, cache_bytes)
    tasks = (
        zero_shot_spec(world.data),
        retrieval_spec(world.data),
        Knn.model_validate(on_features("knn", world, k=1)),
        LinearProbe.model_validate(on_features("linear_probe", world, features="embedding")),
        Health.model_validate({"kind": "health", "name": "spread", "data": world.data}),
    )
    for task in tasks:
        found, alone = (KINDS[task.kind](task, each) for each in (encoder, of_world))
        assert found.scores == pytest.approx(alone.scores, abs=1e-3)
        assert (found.skipped, found.data_fingerprint) == (alone.skipped, alone.data_fingerprint)
    prompts, captions = 20, len({sample.caption for sample in world.samples})
    times = 1 if cache_bytes else 7
    assert model.rows == {"image": times * 28, "text": prompts + (1 if cache_bytes else 2) * captions}


def test_the_fingerprint_tells_contents_not_places(world: World, tmp_path: Path) -> None:
    def fingerprint(samples: list[Sample], folder: str, column: str = "json") -> str:
        return world.encoder.images(data_of(tmp_path / folder, samples).urls, column, 9).fingerprint

    one = fingerprint(world.samples[:4], "one")
    assert fingerprint(world.samples[:4], "moved") == one
    assert fingerprint(world.samples[:4], "texts", "txt") != one
    relabelled = [_with_facts(world.samples[0], label=9 - int(world.samples[0].facts["label"])), *world.samples[1:4]]
    assert fingerprint(relabelled, "relabelled") != one
    assert (tmp_path / "relabelled/shards/00000.tar").stat().st_size == (
        tmp_path / "one/shards/00000.tar"
    ).stat().st_size


def test_the_cache_keeps_to_its_bound() -> None:
    cache = Cache(10)
    for key, size in (("a", 4), ("b", 4), ("too large", 11)):
        cache.put(key, key, size)
    assert (cache.get("a"), cache.get("b"), cache.get("too large")) == ("a", "b", None)
    cache.get("a")
    cache.put("c", "c", 5)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("a", None, "c")


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
