"""Shards become tars with negatives: whatever they are divided into, and for each way to search."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from jobspecs.columns import Document, Image, Query, Text
from jobspecs.data import Data, Filter, Source
from jobspecs.errors import DataError
from jobspecs.mining import Mining
from tests.workers.data.tars import noise_jpeg
from workers.data.keyed import hash64
from workers.data.tar import TarSample, tar_samples
from workers.mining.bm25 import Bm25, words
from workers.mining.embedded import EmbeddedSearch, Vectors
from workers.mining.lexical import LexicalSearch, index_of
from workers.mining.mine import Mined, Search, mine
from workers.mining.pairs import Pairs, Texts, read_pairs
from workers.mining.pool import Pool
from workers.mining.write import Record, read_tar_record, write_tar
from workers.storage import ObjectInfo, Storage

TEXTS = Data(sources=[Source(name="a", urls=["*"])], query=Query(), document=Document())
SIDES = ("query", "document")
Sample = dict[str, bytes]


def pair(query: str, document: str, **more: bytes) -> Sample:
    return {"query.txt": query.encode(), "document.txt": document.encode(), **more}


def write_shard(path: Path, samples: list[Sample]) -> ObjectInfo:
    with tarfile.open(path, "w") as tar:
        for number, members in enumerate(samples):
            for extension, content in members.items():
                info = tarfile.TarInfo(f"{number:04d}.{extension}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return Storage().stat(f"file://{path}")


def read_all(shards: list[ObjectInfo], data: Data = TEXTS, **more: Any) -> tuple[list[Pairs], list[Texts]]:
    found = [read_pairs(Storage(), shard, data, SIDES, query_texts=True, **more) for shard in shards]
    return [pairs for pairs, _ in found], [texts for _, texts in found]


def vector_of(text: str) -> NDArray[np.float32]:
    """Some direction, the same for equal texts."""
    vector = np.random.default_rng(hash64(text) % 2**32).normal(size=3)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def vectors_of(pairs: list[Pairs], texts: list[Texts], side: str) -> Vectors:
    def vectors(shard: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        of_side = texts[shard].documents if side == "document" else texts[shard].queries
        return pairs[shard].places, np.array([vector_of(text) for text in of_side], np.float32).reshape(-1, 3)

    return vectors


def embedded(pairs: list[Pairs], texts: list[Texts], pool: Pool, corpus: int) -> Search:
    return EmbeddedSearch(pairs, pool, corpus, vectors_of(pairs, texts, "query"), vectors_of(pairs, texts, "document"))


def by_query(texts: list[Texts], pairs: list[Pairs], mined: list[Mined]) -> dict[str, list[str]]:
    found = {}
    for of_shard, each, one in zip(texts, pairs, mined, strict=True):
        names = dict(zip(each.places.tolist(), of_shard.queries, strict=True))
        found.update({names[place]: got for place, got in zip(one.places.tolist(), one.negatives, strict=True)})
    return found


def query_of(n: int) -> str:
    return f"query {n}: word{n % 7} token{n % 5}"


def answer_of(n: int) -> str:
    return f"answer {n}: word{n % 7} token{n % 3}"


SAMPLES = [pair(query_of(n), answer_of(n % 40)) for n in range(60)] + [
    pair(query_of(0), "word0 in another answer"),
    pair(query_of(1), answer_of(2)),
]


@pytest.mark.parametrize("kind", ["model", "bm25"])
@pytest.mark.parametrize("sampling", ["top", "random"])
def test_shards_and_tasks_change_nothing(tmp_path: Path, kind: str, sampling: str) -> None:
    mining = Mining.model_validate(
        {
            "count": 4,
            "sampling": sampling,
            "ranks": {"first": 2, "last": 20},
            "max_similarity_to_positive": {"relative": None, "absolute": 0.9 if kind == "model" else None},
        }
    )
    answers = []
    for number, cuts in enumerate([(), (20, 45), (5, 6, 7, 50)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        parts = [SAMPLES[start:end] for start, end in itertools.pairwise([0, *cuts, len(SAMPLES)])]
        shards = [write_shard(folder / f"{n}.tar", part) for n, part in enumerate(parts)][:: -1 if number else 1]
        pairs, texts = read_all(shards)
        pool = Pool.of(pairs, len(shards))
        search = searching(kind, pairs, texts, pool)
        groups = [[n] for n in range(len(shards))] if number == 1 else [list(range(len(shards)))]
        found = [mine(group, pairs, pool, search, documents_of(texts), mining) for group in groups]
        answers.append(by_query(texts, pairs, [one for group in found for one in group]))
    assert answers[0] == answers[1] == answers[2]
    assert len(answers[0]) == 60
    known = {query_of(n): {answer_of(n % 40)} for n in range(60)}
    known[query_of(0)].add("word0 in another answer")
    known[query_of(1)].add(answer_of(2))
    for query, got in answers[0].items():
        assert len(set(got)) == len(got) <= 4
        assert not known[query] & {*got}
    assert sum(map(len, answers[0].values())) > 200


def documents_of(texts: list[Texts]) -> Callable[[int], list[str]]:
    return lambda shard: texts[shard].documents


def searching(kind: str, pairs: list[Pairs], texts: list[Texts], pool: Pool) -> Search:
    if kind == "model":
        return embedded(pairs, texts, pool, len(pairs))
    return LexicalSearch(pairs, pool, index_of(pool, documents_of(texts)), lambda shard: texts[shard].queries)


def test_negatives_are_those_of_a_plain_search(tmp_path: Path) -> None:
    mining = Mining.model_validate({"count": 3, "max_similarity_to_positive": {"relative": 0.9}})
    pairs, texts = read_all([write_shard(tmp_path / "0.tar", SAMPLES)])
    pool = Pool.of(pairs, 1)
    (mined,) = mine([0], pairs, pool, embedded(pairs, texts, pool, 1), lambda _: texts[0].documents, mining)
    answers: dict[str, set[int]] = {}
    for query, document in zip(texts[0].queries, texts[0].documents, strict=True):
        answers.setdefault(query, set()).add(hash64(document))
    for row, got in enumerate(mined.negatives):
        query = vector_of(texts[0].queries[row]).astype(np.float64)
        positive = query @ vector_of(texts[0].documents[row])
        scores = {
            hash64(text): (query @ vector_of(text), text)
            for text in texts[0].documents
            if hash64(text) not in answers[texts[0].queries[row]]
        }
        allowed = [score for score in scores.values() if score[0] <= positive - 0.1 * abs(positive)]
        expected = sorted(allowed, reverse=True)[:3]
        assert [hash64(text) for text in got] == [hash64(text) for _, text in expected]


def test_a_corpus_of_its_own_gives_the_candidates_and_its_pairs_count(tmp_path: Path) -> None:
    data = write_shard(tmp_path / "data.tar", [pair("a", "yes"), pair("b", "also")])
    corpus = write_shard(
        tmp_path / "corpus.tar", [{"document.txt": b"no"}, pair("a", "maybe"), {"document.txt": b"also"}]
    )
    pairs, texts = read_all([corpus, data])
    pool = Pool.of(pairs, 1)
    mining = Mining.model_validate({"count": 5, "max_similarity_to_positive": {"relative": None}})
    (mined,) = mine([1], pairs, pool, embedded(pairs, texts, pool, 1), lambda n: texts[n].documents, mining)
    assert [sorted(got) for got in mined.negatives] == [["also", "no"], ["maybe", "no"]]


LISTS = TEXTS.model_copy(
    update={"query": Query(column="json", field="queries"), "document": Document(column="json", field="documents")}
)


def listed(queries: list[str], documents: list[str]) -> Sample:
    return {"json": json.dumps({"queries": queries, "documents": documents}).encode()}


def test_no_negative_answers_any_of_the_queries_that_a_pass_may_draw(tmp_path: Path) -> None:
    samples = [listed(["a", "b"], ["yes"]), listed(["b"], ["also"]), listed(["c", "a"], ["too", "as well"])]
    pairs, texts = read_all([write_shard(tmp_path / "0.tar", [*samples, listed(["d"], ["no"])])], LISTS)
    pool = Pool.of(pairs, 1)
    mining = Mining.model_validate({"count": 9, "ranks": {"last": 9}, "max_similarity_to_positive": {"relative": None}})
    (mined,) = mine([0], pairs, pool, embedded(pairs, texts, pool, 1), documents_of(texts), mining)
    assert [sorted(got) for got in mined.negatives] == [["no"], ["no", "too"], ["also", "no"], ["also", "too", "yes"]]


LETTERS = st.lists(st.sampled_from(["a", "b", "c", "a b", "b c", "c d", "a c d"]), max_size=3)


@pytest.mark.parametrize("kind", ["model", "bm25"])
@given(samples=st.lists(st.tuples(LETTERS, LETTERS), max_size=12), data=st.data())
@settings(deadline=None, max_examples=60)
def test_lists_of_queries_keep_out_all_that_answers_one_of_them(
    tmp_path_factory: pytest.TempPathFactory, kind: str, samples: list[tuple[list[str], list[str]]], data: st.DataObject
) -> None:
    """And all else that is a candidate is found, however the samples are divided."""
    samples = [(["a"], ["b"]), *samples]  # data of no pair at all are refused before
    last = data.draw(st.integers(1, 9))
    mining = Mining.model_validate(
        {"count": last, "ranks": {"last": last}, "max_similarity_to_positive": {"relative": None}}
    )
    cut = data.draw(st.integers(0, len(samples)))
    known: dict[str, set[str]] = {}
    for queries, documents in samples:
        for query in queries:
            known.setdefault(query, set()).update(documents)
    candidates = {documents[0] for _, documents in samples if documents}
    answers = []
    for parts in ([samples], [samples[:cut], samples[cut:]]):
        folder = tmp_path_factory.mktemp("lists")
        shards = [write_shard(folder / f"{n}.tar", [listed(*one) for one in part]) for n, part in enumerate(parts)]
        pairs, texts = read_all(shards, LISTS)
        pool = Pool.of(pairs, len(shards))
        search = searching(kind, pairs, texts, pool)
        found = [mine([n], pairs, pool, search, documents_of(texts), mining)[0] for n in range(len(shards))]
        answers.append([got for one in found for got in one.negatives])
    assert answers[0] == answers[1]
    asking = [(queries, documents) for queries, documents in samples if queries and documents]
    assert len(answers[0]) == len(asking)
    for (queries, _), got in zip(asking, answers[0], strict=True):
        left = candidates.difference(*(known[query] for query in queries))
        if kind == "bm25":  # which finds shared words alone
            left = {document for document in left if {*document.split()} & {*queries[0].split()}}
        assert {*got} <= left
        assert len({*got}) == len(got) == min(last, len(left))


def test_captions_of_images(tmp_path: Path) -> None:
    """The same picture under two keys: the captions of both are known; of listed captions all are."""
    jpegs = [noise_jpeg(0), noise_jpeg(1), noise_jpeg(0)]
    listed = [["red", "crimson"], ["crimson"], ["scarlet"]]
    samples = [
        {"jpg": jpeg, "json": json.dumps({"captions": captions}).encode()}
        for jpeg, captions in zip(jpegs, listed, strict=True)
    ]
    data = Data(sources=[Source(name="a", urls=["*"])], image=Image(size=8), text=Text(column="json", field="captions"))
    shard = write_shard(tmp_path / "0.tar", [*samples, {"jpg": b"not one that decodes", "json": samples[0]["json"]}])
    pairs, texts = read_pairs(Storage(), shard, data, ("image", "text"))
    assert texts.documents == ["red", "crimson", "scarlet", "red"]
    pool = Pool.of([pairs], 1)
    # As `tandem embed` would: the picture that can't be decoded has no vector.
    images = pairs.places[:3], np.stack([vector_of("0"), vector_of("1"), vector_of("0")])
    captions = pairs.places, np.stack([vector_of(text) for text in texts.documents])
    search = EmbeddedSearch([pairs], pool, 1, lambda _: images, lambda _: captions)
    mining = Mining.model_validate({"count": 5, "max_similarity_to_positive": {"relative": None}})
    (mined,) = mine([0], [pairs], pool, search, lambda _: texts.documents, mining)
    assert mined.places.tolist() == [0, 1, 2]
    assert [sorted(got) for got in mined.negatives] == [[], ["red", "scarlet"], []]


def test_a_tar_is_copied_with_its_negatives(tmp_path: Path) -> None:
    samples = [
        pair("a", "yes", **{"json": b'{"good": true}', "negatives.json": b'["old"]'}),
        pair("b", "no", json=b'{"good": false}'),
        pair("c", "caf\u00e9", json=b'{"good": true}'),
        {"query.txt": b"d", "json": b'{"good": true}'},
        {"query.txt": b"\xff", "document.txt": b"e", "json": b'{"good": true}'},
    ]
    shard = write_shard(tmp_path / "0.tar", samples)
    source = Source(name="a", urls=["*"], filters=[Filter(field="good", one_of=[True])])
    pairs, texts = read_pairs(Storage(), shard, TEXTS, SIDES, source, query_texts=True)
    assert (pairs.places.tolist(), pairs.asks.tolist()) == ([0, 2, 4], [True, True, False])
    assert (pairs.left_out.tolist(), pairs.stored) == ([1], 5)
    pool = Pool.of([pairs], 1)
    mining = Mining.model_validate({"count": 2, "max_similarity_to_positive": {"relative": None}})
    (mined,) = mine([0], [pairs], pool, embedded([pairs], [texts], pool, 1), lambda _: texts.documents, mining)
    out = f"file://{tmp_path}/out/0.tar"
    record = write_tar(Storage(), shard, out, "negatives.json", pairs, mined, 2)
    assert record == read_tar_record(Storage(), out) == Record(shard.uri, 4, 2, 0, 0, 4, 1)
    new = samples_of(tmp_path / "out" / "0.tar", samples)
    assert [sample.key for sample in new] == ["0000", "0002", "0003", "0004"]
    for sample, number in zip(new, (0, 2, 3, 4), strict=True):
        negatives = json.loads(sample.members.pop("negatives.json"))
        assert sample.members == {name: old for name, old in samples[number].items() if name != "negatives.json"}
        assert sorted(negatives) == ({0: ["caf\u00e9", "e"], 2: ["e", "yes"]}.get(number, []))
    stats = json.loads((tmp_path / "out" / "0_stats.json").read_text())
    assert stats["successes"] == 4, "where the plan of a job finds it"


def samples_of(path: Path, samples: list[Sample]) -> list[TarSample]:
    names = frozenset(name for sample in samples for name in (*sample, "negatives.json"))
    return list(tar_samples(io.BytesIO(path.read_bytes()), names))


def test_a_damaged_tar_is_told(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "0.tar", SAMPLES[:4])
    path = tmp_path / "0.tar"
    path.write_bytes(path.read_bytes()[:3500])
    with pytest.raises(DataError, match=r"0\.tar: truncated after \d samples\. Write the tar again or take it out"):
        read_pairs(Storage(), Storage().stat(shard.uri), TEXTS, SIDES)


def test_bm25_finds_shared_words() -> None:
    assert words("textwrap.shortenAll(a_b) \u00c9t\u00e9") == ["textwrap", "shorten", "all", "a", "b", "\u00e9t\u00e9"]
    documents = ["read a file", "write a file", "close the socket", "a file a file", ""]
    index = Bm25(documents, np.array([True, True, True, False, True]))
    found, own = index.nearest("fileRead", 0, 4)
    assert found.indexes.tolist() == [0, 1, -1, -1]
    assert found.scores[0] == own > found.scores[1] > 0
    assert np.isneginf(found.scores[2:]).all()
    assert index.nearest("nothing known", 0, 2)[0].indexes.tolist() == [-1, -1]
