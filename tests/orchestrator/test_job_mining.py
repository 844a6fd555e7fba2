"""A job that mines for itself: planned, checked before it starts, and run on Ray."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jobspecs.errors import DataError, UsageError
from jobspecs.job import JobSpec
from jobspecs.storage import S3
from orchestrator import job_mining
from orchestrator.embedding import file_name, work_on
from orchestrator.interrupt import Interrupt
from orchestrator.ledger import Ledger
from orchestrator.mining_work import MiningWork
from orchestrator.prepare import Prepared, prepare
from orchestrator.tables import plan_table
from tests.orchestrator.command import ledger_of
from tests.orchestrator.conftest import drive
from tests.workers.checkpoints import write_untrained_run
from tests.workers.mining_job import PAIRS, TOKENIZERS, spec_of, write_pairs, write_table
from workers.data.loader import Loader
from workers.data.negatives import NegativesTable, read_table
from workers.data.rows import batch_digest
from workers.embed.parquet_file import Rows, to_parquet
from workers.embed.settings import Record
from workers.evaluate.encode import Encoder
from workers.mining.table import record_of
from workers.mining.versions import Era
from workers.run import RunDirectory
from workers.run_inputs import load_indexes
from workers.storage import Storage, join


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_pairs(tmp_path / "data")
    return tmp_path / "data"


def job(data: Path, *overrides: str) -> JobSpec:
    return spec_of(data, f"storage.root={data.parent}/runs", "training.steps=6", *overrides)


def test_the_plan_says_when_and_by_what(data: Path) -> None:
    plan = prepare(job(data, "training.steps=100", "checkpoint.every_steps=50")).plan
    assert plan.mining is not None
    assert (plan.mining.before_training, plan.mining.versions, plan.mining.steps) == ("bm25", 34, (0, 3, 6, 9, 99))
    assert plan.checkpoints == 33 + 1 + 1, "one where each version begins but the first, and those of every_steps"
    assert plan.loader_memory.negatives > prepare(job(data, "mining.count=2")).plan.loader_memory.negatives > 0
    console = Console(width=300, record=True, file=io.StringIO())
    console.print(plan_table(plan))
    assert (
        "before training by bm25 and every 3 steps by the newest checkpoint: 34 versions, from steps 0, 3, 6, 9, …, 99 "
        "on; up to 3 negatives a sample, 2 in a pass" in console.export_text()
    )


def test_what_can_not_be_mined_is_told_before_anything_starts(data: Path) -> None:
    with pytest.raises(UsageError, match=r"mining\.every_steps is 6, and the job has 6 steps: it would never mine ag"):
        prepare(job(data, "mining.every_steps=6"))
    with pytest.raises(UsageError, match="holds no run"):
        prepare(job(data, "mining.model=nothing"))
    with pytest.raises(DataError, match="elsewhere"):
        prepare(job(data, f"mining.corpus=[{data}/elsewhere/*.tar]"))
    # Once it is mined, the model is not asked for any more, nor the corpus when all is.
    run = RunDirectory(f"file://{data.parent}/runs/mines")
    write_table(run, 1)
    prepare(job(data, "mining.model=nothing"))
    elsewhere = job(data, f"mining.corpus=[{data}/elsewhere/*.tar]")
    with pytest.raises(DataError, match="elsewhere"):
        prepare(elsewhere)
    write_table(run, 2)
    prepare(elsewhere)


def test_the_corpus_is_looked_for_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    find_shards = job_mining.find_shards
    monkeypatch.setattr(job_mining, "find_shards", lambda *asked: looks.append(asked) or find_shards(*asked))
    prepare(job(data, f"mining.corpus=[{data}/*.tar]"))
    assert len(looks) == 1


def test_what_is_done_is_known_by_what_is_mined_and_how(data: Path) -> None:
    """A driver that died while it mined is gone on with; nothing of other settings is taken for its work."""
    prepared, era = prepare(job(data)), Era(1, 0, 3)
    targets = job_mining.find_version(prepared, era, None).targets
    prepared.storage.write(record_of(targets[1].out), b"{}")
    assert job_mining.find_version(prepared, era, None).done == [targets[1].out]
    other = job_mining.find_version(prepare(job(data, "mining.ranks.first=2")), era, None)
    assert not other.done
    assert not {target.out for target in other.targets} & {target.out for target in targets}


def test_vectors_that_another_model_left_are_in_nobodys_way(data: Path, tmp_path: Path) -> None:
    """A driver died while it embedded; the checkpoint was withdrawn, or another model is named since."""
    works = []
    for seed in (1, 2):
        run = RunDirectory(f"file://{tmp_path}/model-{seed}")
        write_untrained_run(job(data, f"seed={seed}"), run, TOKENIZERS)
        works.append(job_mining.find_version(prepare(job(data, f"mining.model={run.uri}")), Era(1, 0, 3), None))
    first, second = works
    shard = first.shards[0]
    for side in ("query", "document"):
        assert first.model is not None
        assert second.model is not None
        settings = first.model.settings[side], second.model.settings[side]
        assert settings[0] != settings[1]
        record = Record(settings[0], shard.uri, shard.size, shard.etag, 0, {})
        rows = Rows([], [], np.zeros((0, 16), np.float32), {})
        first.storage.write(join(first.embeddings(side), file_name(shard.uri)), to_parquet(rows, record))
        assert [*work_on(first.storage, first.shards, first.embeddings(side), settings[0]).done] == [shard.uri]
        assert not work_on(second.storage, second.shards, second.embeddings(side), settings[1]).done


@pytest.mark.ray
def test_a_job_mines_trains_and_goes_on_where_it_was_interrupted(
    data: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers to step 3, interrupted while it mines by that commit; one worker from there."""
    interrupt, find = Interrupt(), job_mining.find_version

    def interrupted(job: Prepared, era: Era, checkpoint: str | None) -> MiningWork:
        if era.version == 2:
            interrupt.request()
        return find(job, era, checkpoint)

    monkeypatch.setattr(job_mining, "find_version", interrupted)
    assert drive(job(data, "cluster.workers=2"), interrupt).state == "interrupted"
    ledger = ledger_of(tmp_path / "runs", "mines")
    assert [event["version"] for event in ledger.events() if event["event"] == "mining_started"] == [1, 2]
    monkeypatch.setattr(job_mining, "find_version", find)
    assert drive(job(data, "cluster.workers=1")).state == "succeeded"

    attempts = [event for event in ledger.events() if event["event"] == "attempt_started"]
    assert [(event["step"], event["world_size"]) for event in attempts] == [(0, 2), (3, 1)]
    mined = [event for event in ledger.events() if event["event"] == "negatives_mined"]
    assert [(event["version"], event["step"], event["mined"]) for event in mined] == [(1, 0, 45), (2, 3, 45)]
    metrics = list(ledger.metrics())
    assert [record["negatives"] for record in metrics] == [1, 1, 1, 2, 2, 2]
    tables = [read_table(Storage(), ledger.run.negatives(version)) for version in (1, 2)]
    assert [record["batch_digest"] for record in metrics] == digests(ledger, job(data), tables)

    folder = tmp_path / "runs" / "mines" / "negatives" / "v00002"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["mined"], manifest["negatives"], manifest["digest"]) == (45, 135, mined[1]["digest"])
    assert manifest["plan"]["step"] == 3
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"manifest.json", *(file["name"][6:] for file in manifest["files"]["pairs"])}, "and no vectors"
    of_shards = [tables[1].of_shard(Storage(), "pairs", shard) for shard in range(3)]
    found = {15 * shard + place: texts for shard in range(3) for place, texts in of_shards[shard].items()}
    assert found == expected(job(data), ledger.run)


def digests(ledger: Ledger, spec: JobSpec, tables: list[NegativesTable]) -> list[str]:
    """Of all steps, by one loader that reads from the first step to the last."""
    indexes, plan = load_indexes(Storage(), ledger.run, spec.data), ledger.plan()
    loader = Loader(
        indexes, plan.layout, spec.data, TOKENIZERS, S3(), rank=0, world_size=1, first_step=0, last_step=6,
        negatives=tables[0],
    )  # fmt: skip
    with loader:
        return [batch_digest(each.rows.ids, each.rows.valid, tables[each.step // 3].digest) for each in loader]


def expected(spec: JobSpec, run: RunDirectory) -> dict[int, list[str]]:
    """By the checkpoint at step 3, from evaluations' encoder and a plain sort."""
    encoder = Encoder.of_checkpoint(spec, run, run.checkpoint(3))
    queries, documents = [pair.query for pair in PAIRS], [pair.document for pair in PAIRS]
    scores = encoder.texts(queries, 8, "query") @ encoder.texts(documents, 8, "document").T
    np.fill_diagonal(scores, -np.inf)
    return {row: [documents[n] for n in order[:3]] for row, order in enumerate(np.argsort(-scores))}
