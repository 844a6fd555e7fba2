"""What the loader processes of a rank hold at most, from the spec and the indexes. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jobspecs.columns import BpeTokenizer
from jobspecs.data import Data
from workers.data.index import Index
from workers.data.order import Layout, lanes_of_rank, rows_per_rank
from workers.data.rows import rows_bytes
from workers.data.tokenize import Tokenizer
from workers.storage.read_ahead import RANGE_BYTES

PROCESS_BYTES = 160 << 20
"""A process with its libraries, S3 client included, and what it decodes. An image of 50 megapixels takes more for
a moment: a JPEG up to 143 MB, a PNG or WebP up to 850 MB; `data.image.max_pixels` bounds that."""


_LOADED = 56
"""A fast tokenizer in memory over its JSON, measured with tokenizers 0.23: 20 for BPE and WordPiece, 55 for
Unigram."""
_TOKEN_BYTES = 40
"""JSON of a token of BPE that is still to be trained."""


@dataclass(frozen=True)
class LoaderMemory:
    """Bytes of the loader processes of the rank with most lanes."""

    windows: int
    """Undecoded samples that are shuffled among each other."""
    negatives: int
    """What the job mines for itself: of the samples in the windows, and of each shard that is read."""
    read_ahead: int
    """Ranges that were fetched and not read yet."""
    queues: int
    """Decoded rows that wait for the rank, in shared memory, and two batches of the rank's own."""
    processes: int
    """The programs themselves, with their copies of the index, the orders of two passes, and the tokenizers."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.windows + self.negatives + self.read_ahead + self.queues + self.processes


def loader_memory(
    data: Data,
    indexes: tuple[Index, ...],
    tokenizers: Mapping[str, Tokenizer],
    layout: Layout,
    workers: int,
    mined: int = 0,
) -> LoaderMemory:
    """For a job on so many workers. `tokenizers`: by text column, those that there are already. mined: negatives of a
    sample that the job mines for itself, at most."""
    lanes = max(len(lanes_of_rank(rank, workers, layout.lanes)) for rank in range(workers))
    processes = min(data.loader.processes, lanes)
    # The streams of all sources in all lanes of a rank, at most; those of S3 have ranges in flight.
    streams = lanes + len(indexes) - 1
    ranges = (data.loader.read_ahead + 1) * RANGE_BYTES
    held = min(lanes * layout.window, sum(int(index.samples.sum()) for index in indexes))
    share = -(-lanes // processes)
    sample_bytes = max(_sample_bytes(index) for index in indexes)
    # A negative is a sample's document, and taken for as large as all of a sample: with the tar's own blocks, that has
    # room for what Python adds to a text. Documents of another corpus are taken for no larger.
    with_negatives = held + streams * max(int(index.stored.max()) for index in indexes)
    return LoaderMemory(
        windows=int(held * sample_bytes),
        negatives=int(with_negatives * mined * sample_bytes),
        read_ahead=streams * min(ranges, max(map(_largest_remote_shard, indexes))),
        queues=processes * (data.loader.prefetch + 1) * rows_bytes(share * layout.lane_batch, data)
        + 2 * rows_bytes(rows_per_rank(workers, layout), data),
        processes=processes
        * (
            PROCESS_BYTES
            + sum(_index_bytes(index) + _order_bytes(index) for index in indexes)
            + _tokenizer_bytes(data, tokenizers)
        ),
    )


def _tokenizer_bytes(data: Data, tokenizers: Mapping[str, Tokenizer]) -> int:
    """Bytes of the tokenizers in a process, each column's its own."""
    json_bytes = 0
    for name, text in data.texts.items():
        if name in tokenizers:
            json_bytes += len(tokenizers[name].fast or "")
        elif isinstance(text.tokenizer, BpeTokenizer):
            json_bytes += text.tokenizer.vocabulary * _TOKEN_BYTES
    return json_bytes * _LOADED


def _largest_remote_shard(index: Index) -> int:
    """Bytes; 0 where all lie on disks, whose files are read without ranges."""
    is_remote = any(not uri.startswith("file://") for uri in index.uris)
    return int(index.sizes.max()) if is_remote else 0


def _sample_bytes(index: Index) -> float:
    """The largest mean of a shard's samples, all members and the tar's own blocks included."""
    there = index.stored > 0
    return float((index.sizes[there] / index.stored[there]).max())


def _index_bytes(index: Index) -> int:
    rows = (index.uris.rows, index.etags.rows, index.beside.rows, index.offsets, index.kept)
    columns = [index.sizes, index.stored, index.samples, *(each.values for each in rows), *(each.ends for each in rows)]
    return sum(column.nbytes for column in columns)


def _order_bytes(index: Index) -> int:
    """The rings of the pass that is read and of the next: each shard's number and end, 8 bytes each."""
    return 2 * 2 * 8 * len(index)
