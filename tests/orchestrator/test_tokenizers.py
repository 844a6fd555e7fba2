"""Tokenizers that a job trains, without Ray: its tasks are played."""

from __future__ import annotations

import pytest

from jobspecs.columns import BpeTokenizer, Document, Query, Text
from jobspecs.data import Data, Source
from jobspecs.errors import DataError, JobFailedError
from orchestrator import tokenizers
from orchestrator.tokenizers import train_with_ray
from tests.orchestrator.played_ray import PlayedRay, play_ray
from workers.storage import Storage

BPE, SMALL = BpeTokenizer(kind="bpe"), BpeTokenizer(kind="bpe", vocabulary=300)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> PlayedRay:
    return play_ray(monkeypatch)


def data_of(query: BpeTokenizer, document: BpeTokenizer) -> Data:
    sources = [Source(name="a", urls=["*"])]
    return Data(sources=sources, query=Query(tokenizer=query), document=Document(tokenizer=document))


def trains(section: BpeTokenizer, texts: list[Text], *_: object) -> str:
    return f"{section.vocabulary} of {' and '.join(text.column for text in texts)}"


def test_columns_of_equal_sections_share_one(played: PlayedRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_train", trains)
    shared = "16384 of query.txt and document.txt"
    assert train_with_ray(data_of(BPE, BPE), (), Storage(), 0) == {"query": shared, "document": shared}
    each = {"query": "300 of query.txt", "document": "16384 of document.txt"}
    assert train_with_ray(data_of(SMALL, BPE), (), Storage(), 0) == each
    assert played.names == ["tandem:tokenizer:query+document", "tandem:tokenizer:query", "tandem:tokenizer:document"]


def test_what_a_task_answers_with_is_raised(played: PlayedRay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizers, "_train", lambda *_: DataError("not one text"))
    with pytest.raises(DataError, match="not one text"):
        train_with_ray(data_of(BPE, BPE), (), Storage(), 0)


def test_a_task_that_dies_is_told_as_the_jobs_failure(played: PlayedRay, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.exceptions import WorkerCrashedError

    def dies(answers: object) -> None:
        raise WorkerCrashedError

    monkeypatch.setattr(tokenizers, "_train", trains)
    monkeypatch.setattr("ray.get", dies)
    with pytest.raises(
        JobFailedError, match=r"^training failed: .+\. No tokenizer was written: the same command trains"
    ):
        train_with_ray(data_of(BPE, BPE), (), Storage(), 0)


def test_what_the_check_raises_ends_the_training(played: PlayedRay, monkeypatch: pytest.MonkeyPatch) -> None:
    def stops() -> None:
        raise InterruptedError

    monkeypatch.setattr(tokenizers, "_train", trains)
    with pytest.raises(InterruptedError):
        train_with_ray(data_of(SMALL, BPE), (), Storage(), 0, stops)
    assert played.cancelled == ["300 of query.txt"], "one at a time"
