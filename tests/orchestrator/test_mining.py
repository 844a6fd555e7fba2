"""`tandem mine` on Ray: tars that the loader reads as they are, whole, gone on with, and never mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jobspecs.errors import DataError, UsageError
from jobspecs.job import JobSpec
from jobspecs.load import loads
from orchestrator import mining
from orchestrator.cli import app
from orchestrator.mining import mine_with_ray
from orchestrator.mining_work import find_mining
from tests.workers.checkpoints import write_untrained_run
from tests.workers.tiny_job import SPEC as IMAGE_TEXT
from tests.workers.tiny_job import index_of
from workers.data.demo_tar import TextPair, pack_shard
from workers.data.keyed import permutation
from workers.data.loader import Loader
from workers.data.order import Layout
from workers.data.tokenize import byte_tokenizer
from workers.evaluate.encode import Encoder
from workers.run import RunDirectory
from workers.storage import Storage

SPEC = """
apiVersion: tandem/v1
name: texts
objective: {kind: text_text}
data:
  sources: [{name: pairs, urls: ["%s/*.tar"]}]
  query: {context_length: 24, prefix: "q: "}
  document: {context_length: 24}
  negatives: {count: 3}
  lanes: 4
model:
  text: {kind: transformer, width: 32, layers: 1, heads: 2}
  embedding_dim: 16
training:
  global_batch: 8
  steps: 4
  precision: fp32
  optimizer: {kind: adamw, learning_rate: 1e-3}
  schedule: {kind: constant}
mining: {count: 3, ranks: {last: 20}, max_similarity_to_positive: {relative: null, absolute: 0.99}}
"""
TOKENIZERS = {"query": byte_tokenizer(), "document": byte_tokenizer()}


def words(*about: int | str) -> str:
    return "".join(chr(97 + letter) for letter in permutation(26, *about)[:8])


PAIRS = [TextPair(words("query", n % 45), words("document", n % 48), ("old",)) for n in range(60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards, and a run that was never trained."""
    folder = tmp_path_factory.mktemp("mining")
    (folder / "data").mkdir()
    for number in range(3):
        (folder / "data" / f"{number:05d}.tar").write_bytes(pack_shard(number, PAIRS[20 * number : 20 * number + 20]))
    (folder / "spec.yaml").write_text(SPEC % (folder / "data"))
    write_untrained_run(spec_of(folder), RunDirectory(f"file://{folder}/run"), TOKENIZERS)
    return folder


def spec_of(folder: Path, *overrides: str) -> JobSpec:
    return loads(SPEC % (folder / "data"), "spec.yaml", overrides)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "pairs").iterdir()}


def expected(folder: Path) -> dict[str, list[str]]:
    """By query, from evaluations' encoder and a plain sort."""
    run = RunDirectory(f"file://{folder}/run")
    encoder = Encoder.of_checkpoint(spec_of(folder), run, run.checkpoint(7))
    queries, documents = sorted({pair.query for pair in PAIRS}), sorted({pair.document for pair in PAIRS})
    scores = encoder.texts(queries, 8, "query") @ encoder.texts(documents, 8, "document").T
    known = {query: {pair.document for pair in PAIRS if pair.query == query} for query in queries}
    found = {}
    for query, row in zip(queries, scores, strict=True):
        order = [n for n in np.argsort(-row) if documents[n] not in known[query]][:20]
        found[query] = [documents[n] for n in order if row[n] <= 0.99][:3]
    return found


@pytest.mark.ray
def test_mined_tars_train_as_they_are(
    folder: Path,
    tmp_path: Path,
    ray_cluster: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    call = ["mine", str(folder / "spec.yaml"), "--out", str(out), "--model", str(folder / "run")]
    app([*call, "-o", "json"], standalone_mode=False)
    manifest = json.loads((out / "_manifest.json").read_text())
    assert json.loads(capsys.readouterr().out) == manifest
    assert (manifest["samples"], manifest["mined"], manifest["fewer"], manifest["negatives"]) == (60, 60, 0, 180)
    assert manifest["plan"]["step"] == 7
    assert [tar["tar"] for tar in manifest["tars"]] == [f"pairs/0000{n}.tar" for n in range(3)]
    assert not list(out.glob("_embeddings/**/*.*")), "gone in the end"

    # As a job would read it: the counts stand beside the tars, and each row has its three negatives.
    spec = loads(SPEC % (out / "pairs"), "mined.yaml")
    layout = Layout(seed=0, global_batch=8, lanes=4, window=4, slots=(8,))
    seen = 0
    by_query = expected(folder)
    tokens_of = {
        tuple(byte_tokenizer().encode(f"q: {query}", 24)): {tuple(byte_tokenizer().encode(each, 24)) for each in texts}
        for query, texts in by_query.items()
    }
    indexes = index_of(spec, Storage())
    with Loader(
        indexes, layout, spec.data, TOKENIZERS, spec.storage.s3, rank=0, world_size=1, first_step=0, last_step=7
    ) as loader:
        for batch in loader:
            columns = batch.rows.columns
            assert batch.rows.valid.all()
            assert columns["negatives_valid"].all()
            for query, negatives in zip(columns["query"], columns["negatives"], strict=True):
                assert {tuple(each) for each in negatives} == tokens_of[tuple(query)]
                seen += 1
    assert seen == 56

    # Broken off; and a task a shard instead of one for all.
    before = contents(out)
    times = {path.name: path.stat().st_mtime_ns for path in (out / "pairs").glob("*.tar")}
    (out / "_manifest.json").unlink()
    (out / "pairs" / "00001_stats.json").unlink()
    monkeypatch.setattr(mining, "QUERIES_AT_A_TIME", 1)
    app([*call, "--workers", "2"], standalone_mode=False)
    assert f"{out}: 180 negatives for 60 of 60 samples\n" in capsys.readouterr().out
    assert contents(out) == before
    now = {path.name: path.stat().st_mtime_ns for path in (out / "pairs").glob("*.tar")}
    assert [name for name in now if now[name] != times[name]] == ["00001.tar"]
    assert json.loads((out / "_manifest.json").read_text()) == manifest

    other = spec_of(folder, f"mining.model={folder}/run", "mining.count=2")
    with pytest.raises(UsageError, match=r'mined otherwise \(settings .*"count": 2.* Name another --out'):
        find_mining(other, f"file://{out}")
    work = find_mining(spec_of(folder, "mining.model=bm25"), f"file://{tmp_path}/bm25")
    mined = mine_with_ray(work, None)
    assert (mined.mined, mined.none) == (60, 60), "not one word is shared"
    empty = find_mining(spec_of(folder, "mining.model=bm25", "data.query.column=no.txt"), f"file://{tmp_path}/empty")
    with pytest.raises(DataError, match="not one sample has both a query and a document: there is nothing to mine"):
        mine_with_ray(empty, None)


def test_what_can_not_be_mined_is_told_before_anything_starts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the spec of texts has no section `mining`\. Add it \(`mining: {}`"):
        find_mining(spec_of(folder, "mining="), f"file://{tmp_path}")
    run = RunDirectory(f"file://{tmp_path}/images")
    write_untrained_run(loads(IMAGE_TEXT % "data"), run, {"text": byte_tokenizer()})
    with pytest.raises(UsageError, match="encodes image and text, and mining for text_text needs query and document"):
        find_mining(spec_of(folder, f"mining.model={run.uri}"), f"file://{tmp_path}/out")
    with pytest.raises(UsageError, match="holds no run"):  # its own, which was never started
        find_mining(spec_of(folder, f"storage.root={tmp_path}"), f"file://{tmp_path}/out")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        UsageError,
        match=r"mining\.model: .*/theirs is a model of another library\. Mining takes a run of Tandem, the folder of "
        "one of its checkpoints, or bm25$",
    ):
        find_mining(spec_of(folder, f"mining.model={tmp_path}/theirs"), f"file://{tmp_path}/out")
    here = spec_of(folder, "mining.model=bm25", "data.sources.0.name=data")
    with pytest.raises(UsageError, match="the new tars would replace those that they are made of"):
        find_mining(here, f"file://{folder}")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "_plan.json").write_text("[]")
    with pytest.raises(UsageError, match=r"_plan\.json is none of this version of Tandem\. Name another --out"):
        find_mining(spec_of(folder, "mining.model=bm25"), f"file://{tmp_path}/out")


def test_shards_of_one_name_and_a_model_with_other_columns(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "00000.tar").write_bytes(pack_shard(7, PAIRS[:3]))
    spec = spec_of(
        folder,
        f"data.sources.0.urls=[{folder}/data/00000.tar, {folder}/data/00001.tar, {tmp_path}/more/00000.tar]",
        f"mining.corpus=[{tmp_path}/more/*.tar]",
        f"mining.model={folder}/run",
        "data.query.column=question.txt",
        "data.query.prefix=other",
    )
    work = find_mining(spec, f"file://{tmp_path}/out")
    names = [target.out.rpartition("/")[2] for target in work.targets]
    assert names[1] == "00001.tar"
    assert len({*names}) == 3
    assert all(name.startswith("00000-") for name in (names[0], names[2]))
    assert [target.number for target in work.targets] == [1, 2, 0], "the corpus comes first"
    assert (work.corpus, len(work.shards)) == (1, 3)
    assert work.model is not None
    query = work.model.found.spec.data.query
    assert query is not None
    assert (query.column, query.prefix) == ("question.txt", "q: ")
