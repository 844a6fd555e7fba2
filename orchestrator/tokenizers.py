"""The tokenizers of a job: looked for before anything is started, made once, kept with the run.

`find` is what `tandem plan` does too; training one on the texts needs the cluster and waits for `tandem run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from jobspecs.columns import BpeTokenizer, PretrainedTokenizer, Text
from jobspecs.data import Data
from jobspecs.errors import DataError, TandemError
from orchestrator.ray_tasks import answers
from workers.data.index import Index
from workers.data.keyed import permutation
from workers.data.row_maker import texts_of
from workers.data.shards import extensions, read_samples
from workers.data.tokenize import Tokenizer, byte_tokenizer
from workers.storage import Storage


def find(data: Data) -> dict[str, Tokenizer]:
    """The tokenizers that need no training, by text column. Raises UsageError: one that can't be loaded."""
    found = {}
    for name, text in data.texts.items():
        section = text.tokenizer
        if isinstance(section, PretrainedTokenizer):
            from workers.data.make_tokenizer import pretrained  # transformers

            found[name] = pretrained(section.name, section.revision)
        elif not isinstance(section, BpeTokenizer):
            found[name] = byte_tokenizer()
    return found


def train_with_ray(
    data: Data,
    indexes: tuple[Index, ...],
    storage: Storage,
    seed: int,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Tokenizer]:
    """The tokenizers that are trained on the job's texts, each in a Ray task, one at a time. Columns with equal
    sections share one, trained on the texts of all of them. check: called each second; what it raises ends the tasks.

    Raises DataError, StorageError; JobFailedError: a task died again and again, or raised another error.
    """
    import ray

    trained: dict[str, Tokenizer] = {}
    task = ray.remote(num_cpus=1)(_train)
    columns: dict[BpeTokenizer, dict[str, Text]] = {}
    for name, text in data.texts.items():
        if isinstance(text.tokenizer, BpeTokenizer):
            columns.setdefault(text.tokenizer, {})[name] = text

    def start(section: BpeTokenizer) -> Any:
        texts = columns[section]
        named = task.options(name=f"tandem:tokenizer:{'+'.join(texts)}")
        return named.remote(section, list(texts.values()), indexes, storage, seed)

    remedy = "No tokenizer was written: the same command trains them anew"
    for section, tokenizer in answers(start, columns, len(columns), "training", "tokenizers", remedy, 1, check):
        trained |= dict.fromkeys(columns[section], tokenizer)
    return trained


def _train(
    section: BpeTokenizer, texts: list[Text], indexes: tuple[Index, ...], storage: Storage, seed: int
) -> Tokenizer | TandemError:
    """An answer, not an exception: Ray would wrap it in one of its own."""
    from workers.data.make_tokenizer import train_bpe

    try:
        found = list(_sampled(texts, indexes, storage, seed, section.texts))
        if not found:
            columns = ", ".join(text.column for text in texts)
            return DataError(f"there is not one text to train a tokenizer on in the columns {columns}.")
        return train_bpe(found, section.vocabulary)
    except TandemError as error:
        return error


def _sampled(texts: list[Text], indexes: tuple[Index, ...], storage: Storage, seed: int, most: int) -> Iterator[str]:
    """Up to `most` texts, in the order of randomly chosen shards; each source gives its share by numbers of
    samples. Those that can't be read or decoded are passed over: training masks them."""
    total = sum(int(index.samples.sum()) for index in indexes)
    for index in indexes:
        left = -(-most * int(index.samples.sum()) // total)
        shards = permutation(len(index), seed, "tokenizer", index.source)
        found = (text for shard in shards for text in _texts(texts, index, int(shard), storage))
        yield from islice(found, left)


def _texts(texts: list[Text], index: Index, shard: int, storage: Storage) -> Iterator[str]:
    columns = tuple(extensions(text.column) for text in texts)
    for sample in read_samples(storage, index.shard(shard), columns):
        if sample.fault is not None:
            continue
        for text, alternatives in zip(texts, columns, strict=True):
            try:
                content = (sample.column(alternatives) or b"").decode("utf-8")
                yield from [content] if text.field is None else texts_of(content, text.field)
            except ValueError:
                continue
