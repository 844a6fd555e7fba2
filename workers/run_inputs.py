"""What a rank needs besides the plan, as the run directory keeps it: spec, indexes, tokenizers, mined negatives."""

from __future__ import annotations

from jobspecs.data import Data
from jobspecs.errors import DataError
from jobspecs.job import JobSpec
from jobspecs.load import loads
from workers.data.index import Index
from workers.data.negatives import NONE, NegativesTable, read_table
from workers.data.tokenize import Tokenizer
from workers.run import RunDirectory
from workers.storage import Storage


def load_spec(storage: Storage, run: RunDirectory) -> JobSpec:
    """The spec that the run was started with last. Raises NotFoundError: there is no run; SpecError: it is another
    version's; StorageError."""
    return loads(storage.read(run.spec).decode(), run.spec)


def load_indexes(storage: Storage, run: RunDirectory, data: Data) -> tuple[Index, ...]:
    """The index of each source. Raises DataError, StorageError."""
    from workers.data.index_file import from_parquet  # pyarrow

    uris = [run.index(source.name) for source in data.sources]
    return tuple(from_parquet(storage.read(uri), uri) for uri in uris)


def load_tokenizers(storage: Storage, run: RunDirectory, data: Data) -> dict[str, Tokenizer]:
    """The tokenizer of each text column. Raises DataError, StorageError."""
    return {name: Tokenizer.from_bytes(storage.read(run.tokenizer(name)), run.tokenizer(name)) for name in data.texts}


def load_negatives(storage: Storage, run: RunDirectory, version: int) -> NegativesTable:
    """A version of the negatives that the job mines; version 0 is none. Raises DataError: it is not there, or damaged;
    StorageError."""
    if not version:
        return NONE
    table = read_table(storage, run.negatives(version))
    if table is None:
        raise DataError(
            f"{run.negatives(version)} holds no negatives: they are mined by the driver, before the attempt that needs "
            "them. Run the job with `tandem run`"
        )
    return table
