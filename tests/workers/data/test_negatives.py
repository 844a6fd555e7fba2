"""Mined negatives: each sample has its own, whoever reads it and from whichever step on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobspecs.errors import DataError
from tests.workers.data.tars import filtered
from tests.workers.mining_job import (
    EACH,
    LAYOUT,
    PAIRS,
    SHARDS,
    TOKENIZERS,
    negatives_of,
    spec_of,
    write_pairs,
    write_table,
)
from tests.workers.tiny_job import index_of
from workers.data.index import Index
from workers.data.keyed import hash64
from workers.data.loader import Loader
from workers.data.negatives import NONE, NegativesTable, content_hash, from_parquet, read_table, to_parquet
from workers.data.order import lanes_of_rank
from workers.data.rows import Rows, batch_digest
from workers.run import RunDirectory
from workers.run_inputs import load_negatives
from workers.storage import Storage

STEPS = 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("negatives")
    write_pairs(folder / "data")
    return folder


def table_in(folder: Path, version: int = 1) -> NegativesTable:
    return write_table(RunDirectory(f"file://{folder}"), version)


def batches(
    folder: Path, indexes: tuple[Index, ...], table: NegativesTable, ranks: int = 1, processes: int = 1, first: int = 0
) -> list[dict[int, tuple[list[int], set[tuple[int, ...]]]]]:
    """Of each step the query and the negatives of each sample, by its identity."""
    spec = spec_of(folder / "data", f"data.loader.processes={processes}")
    with contextlib.ExitStack() as stack:
        loaders = [
            stack.enter_context(
                Loader(
                    indexes, LAYOUT, spec.data, TOKENIZERS, spec.storage.s3,
                    rank=rank, world_size=ranks, first_step=first, last_step=STEPS, negatives=table,
                )
            )
            for rank in range(ranks)
        ]  # fmt: skip
        return [
            {
                key: value
                for rank, batch in enumerate(shares)
                for key, value in rows_of(batch.rows, 2 * len(lanes_of_rank(rank, ranks, LAYOUT.lanes)))
            }
            for shares in zip(*loaders, strict=True)
        ]


def rows_of(rows: Rows, count: int) -> Iterator[tuple[int, tuple[list[int], set[tuple[int, ...]]]]]:
    columns = rows.columns
    for row in range(count):
        assert rows.valid[row], "a sample needs no member for them"
        valid = columns["negatives_valid"][row]
        assert not columns["negatives"][row][~valid].any()
        yield (
            int(rows.ids[row]),
            (
                columns["query"][row].tolist(),
                {tuple(tokens) for tokens in columns["negatives"][row][valid].tolist()},
            ),
        )


def tokens_of(texts: list[str]) -> set[tuple[int, ...]]:
    return {tuple(TOKENIZERS["document"].encode(text, 24).tolist()) for text in texts}


def test_each_sample_has_its_own_on_any_rank_and_after_any_resume(folder: Path) -> None:
    table = table_in(folder / "run")
    indexes = index_of(spec_of(folder / "data"), Storage())
    expected = batches(folder, indexes, table)
    places = {
        hash64("pairs", shard, place, f"{shard:05d}{place:04d}"): (shard, place)
        for shard in range(SHARDS)
        for place in range(EACH)
    }
    for batch in expected:
        assert len(batch) == 8
        for identity, (query, negatives) in batch.items():
            shard, place = places[identity]
            assert query == TOKENIZERS["query"].encode(PAIRS[EACH * shard + place].query, 24).tolist()
            own = tokens_of(negatives_of(1, shard, place))
            assert negatives <= own
            assert len(negatives) == min(2, len(own))
    assert batches(folder, indexes, table, ranks=3, processes=2) == expected
    assert batches(folder, indexes, table, first=4) == expected[4:]
    # None are mined yet: those in the tars are not taken either.
    assert not any(negatives for batch in batches(folder, indexes, NONE) for _, negatives in batch.values())


def test_places_are_those_in_the_tar_where_filters_leave_samples_out(folder: Path) -> None:
    table = table_in(folder / "run")
    (index,) = index_of(spec_of(folder / "data"), Storage())
    places = {
        hash64("pairs", shard, place, f"{shard:05d}{place:04d}"): (shard, place)
        for shard in range(SHARDS)
        for place in range(0, EACH, 3)
    }
    kept = batches(folder, (filtered(index, 3),), table)
    assert [len(batch) for batch in kept] == [8] * STEPS
    for batch in kept:
        assert batch.keys() <= places.keys()
        for identity, (_, negatives) in batch.items():
            shard, place = places[identity]
            assert negatives <= tokens_of(negatives_of(1, shard, place))
            assert bool(negatives) == (place % 4 > 0)


@given(st.dictionaries(st.integers(0, 2**40), st.lists(st.text(st.characters(codec="utf-8")), max_size=3), max_size=5))
def test_a_file_holds_what_was_written(negatives: dict[int, list[str]]) -> None:
    assert from_parquet(to_parquet(negatives)) == negatives
    other = {**negatives, 3: ["another"], 4: ["one"]}
    assert content_hash(negatives) != content_hash(other)
    assert content_hash(other) == content_hash(dict(reversed(other.items())))


def test_the_digest_tells_tables_apart(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    assert read_table(Storage(), table.uri) == table
    assert table.digest != table_in(tmp_path, 2).digest
    (files,) = table.files.values()
    assert table.digest != replace(table, files={"pairs": files[::-1]}).digest
    ids, valid = np.arange(4), np.ones(4, np.bool_)
    assert batch_digest(ids, valid, NONE.digest) == batch_digest(ids, valid)
    assert batch_digest(ids, valid, table.digest) != batch_digest(ids, valid)


def test_what_is_not_what_was_mined_is_never_trained_with(tmp_path: Path) -> None:
    run, storage = RunDirectory(f"file://{tmp_path}"), Storage()
    assert load_negatives(storage, run, 0) is NONE
    with pytest.raises(DataError, match=r"v00001 holds no negatives: they are mined by the driver.* `tandem run`"):
        load_negatives(storage, run, 1)
    table = table_in(tmp_path)
    path = tmp_path / "negatives" / "v00001" / table.files["pairs"][0].name
    path.write_bytes(to_parquet({0: ["another"]}))
    with pytest.raises(DataError, match=r"00000-0+\.parquet holds other negatives than were mined: bring a copy"):
        table.of_shard(storage, "pairs", 0)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"00000-0+\.parquet can't be read \(.+\): bring a copy"):
        table.of_shard(storage, "pairs", 0)
    path.unlink()
    with pytest.raises(DataError, match=r"00000-0+\.parquet is gone: bring a copy of the run's folder `negatives`"):
        table.of_shard(storage, "pairs", 0)
    manifest = tmp_path / "negatives" / "v00001" / "manifest.json"
    stored = json.loads(manifest.read_text())
    stored["files"]["pairs"].reverse()
    for content, what in (
        (json.dumps(stored), "it names other files"),
        ('{"format": 1}', "its format is 1"),
        ("[", ""),
    ):
        manifest.write_text(content)
        with pytest.raises(DataError, match=rf"manifest\.json can't be read \({what}"):
            read_table(storage, table.uri)
