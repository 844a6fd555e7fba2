"""The index as a file: what comes back, what is refused, and that LAION-2B's fits."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobspecs.errors import DataError
from workers.data.index import Index
from workers.data.index_file import from_parquet, to_parquet
from workers.data.ragged import Ragged, Strings
from workers.data.scan import Scan
from workers.storage import ObjectInfo

CASES = settings(deadline=None, max_examples=100)

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
NUMBERS = st.integers(0, 2**63 - 1)
ROWS = st.lists(st.integers(0, 2**32 - 1), max_size=6)
BITS = st.lists(st.integers(0, 255), max_size=6)


@st.composite
def indexes(draw: st.DrawFn) -> Index:
    """Any columns: no shards, empty rows, offsets in any order."""
    shards = draw(st.lists(st.tuples(TEXTS, TEXTS, NUMBERS, NUMBERS, NUMBERS, ROWS, BITS, TEXTS), max_size=6))
    uris, etags, sizes, stored, samples, offsets, kept, beside = zip(*shards, strict=True) if shards else [()] * 8
    numbers = [np.array(column, np.int64) for column in (sizes, stored, samples)]
    ragged = Ragged.of(offsets, np.uint32), Ragged.of(kept, np.uint8)
    return Index(draw(TEXTS), draw(TEXTS), Strings.of(uris), Strings.of(etags), *numbers, *ragged, Strings.of(beside))


def plain(index: Index) -> list[Any]:
    """All that an index holds, for a comparison."""
    numbers = (index.sizes, index.stored, index.samples)
    ragged = (index.uris.rows, index.etags.rows, index.offsets, index.kept, index.beside.rows)
    columns = [*numbers, *(column for rows in ragged for column in (rows.values, rows.ends))]
    return [index.source, index.filters, [(column.dtype, column.tobytes()) for column in columns]]


@given(indexes())
@CASES
def test_an_index_comes_back(index: Index) -> None:
    assert plain(from_parquet(to_parquet(index), "x")) == plain(index)


SHARDS = [ObjectInfo(f"s3://bücket/日本/{n:05d}.tar", 512 * n, f"tag-{n}") for n in range(1, 5)]
SCANS = [
    Scan.of(600, (0, 51200, 102400), (0, 5, 599)),
    replace(Scan.of(3, (), ()), beside="00ff"),
    Scan.of(2, (0,), (0, 1)),
    Scan.of(1, (1024,), (0,)),
]
INDEX = Index.of("wéb", '{"filters":[{"field":"α","at_least":0.28}]}', SHARDS, SCANS)
FILE = to_parquet(INDEX)


def test_it_is_the_same_index() -> None:
    index = from_parquet(FILE, "x")
    assert (index.source, index.filters) == (INDEX.source, INDEX.filters)
    assert [index.scan(number) for number in range(4)] == SCANS
    assert list(index.uris) == [shard.uri for shard in SHARDS]
    assert index.fingerprint() == INDEX.fingerprint()


def test_any_tool_reads_it() -> None:
    table = pyarrow.parquet.read_table(io.BytesIO(FILE))
    rows = table.to_pylist()
    assert [row["uri"] for row in rows] == list(INDEX.uris)
    assert [row["etag"] for row in rows] == list(INDEX.etags)
    assert [(row["size"], row["stored"], row["samples"]) for row in rows] == [
        (512, 600, 3),
        (1024, 3, 0),
        (1536, 2, 2),
        (2048, 1, 1),
    ]
    assert [row["offsets"] for row in rows] == [[0, 100, 100], [], [0], [2]]
    assert [row["kept"] for row in rows] == [INDEX.kept[number].tobytes() for number in range(4)]
    assert table.schema.metadata[b"source"].decode() == INDEX.source
    assert table.schema.metadata[b"filters"].decode() == INDEX.filters


def test_an_index_of_many_row_groups() -> None:
    table = pyarrow.parquet.read_table(io.BytesIO(FILE))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, row_group_size=1)
    assert plain(from_parquet(buffer.getvalue(), "x")) == plain(INDEX)


def file_of(table: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


TABLE = pyarrow.parquet.read_table(io.BytesIO(FILE))
SIZES = TABLE.schema.get_field_index("size")


@pytest.mark.parametrize(
    "content",
    [
        file_of(pyarrow.table({"uri": ["a"]})),
        file_of(TABLE.replace_schema_metadata({})),
        file_of(TABLE.replace_schema_metadata({**TABLE.schema.metadata, b"format": b"tandem-index/1"})),
        file_of(TABLE.drop_columns(["etag"])),
        file_of(TABLE.append_column("more", pyarrow.array([0] * 4))),
        file_of(TABLE.set_column(SIZES, "size", pyarrow.array([0] * 4, pyarrow.int32()))),
    ],
)
def test_a_file_that_is_no_index(content: bytes) -> None:
    with pytest.raises(DataError) as caught:
        from_parquet(content, "s3://b/x.parquet")
    expected = "s3://b/x.parquet is no index of this version. Delete it, and make it again with `tandem index`."
    assert str(caught.value) == expected


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet" * 100, FILE[:-1], FILE[1:], FILE[: len(FILE) // 2]])
def test_a_file_that_is_no_parquet(content: bytes) -> None:
    with pytest.raises(DataError) as caught:
        from_parquet(content, "s3://b/x.parquet")
    expected = "s3://b/x.parquet can't be read as an index. Delete it, and make it again with `tandem index`."
    assert str(caught.value) == expected


@pytest.mark.parametrize("column", range(7))
def test_a_damaged_column_is_told(column: int) -> None:
    """A bit that changed on a disk must not become another order of samples."""
    place = pyarrow.parquet.ParquetFile(io.BytesIO(FILE)).metadata.row_group(0).column(column)
    last = place.data_page_offset + place.total_compressed_size - 1
    damaged = bytearray(FILE)
    damaged[last] ^= 1
    with pytest.raises(DataError, match="can't be read as an index"):
        from_parquet(bytes(damaged), "x")


# --- LAION-2B's size ---


@pytest.fixture(scope="module")
def laion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 230,000 shards of 10,000 samples less those that did not load, all of them scanned."""
    random, n = np.random.default_rng(0), 230_000
    stored = random.integers(8_000, 10_001, n)
    rows = -(-stored // 256)
    ends = np.cumsum(rows)
    blocks = random.normal(256 * 40, 480, ends[-1]).clip(256).astype(np.int64)  # of 256 samples: 20 kB each
    blocks[ends - rows] = 0
    total = np.cumsum(blocks)
    index = Index(
        source="laion",
        filters="",
        uris=Strings.of(f"s3://bucket/laion2B-en/{number:06d}.tar" for number in range(n)),
        etags=Strings.of(f"{random.bytes(16).hex()}-24" for _ in range(n)),
        sizes=stored * 20_480 + random.integers(0, 10_000_000, n),
        stored=stored,
        samples=stored,
        offsets=Ragged((total - np.repeat(total[ends - rows], rows)).astype(np.uint32), ends),
        kept=Ragged(np.empty(0, np.uint8), np.zeros(n, np.int64)),
        beside=Strings.of(random.bytes(8).hex() for _ in range(n)),
    )
    path = tmp_path_factory.mktemp("laion") / "index.parquet"
    path.write_bytes(to_parquet(index))
    assert plain(from_parquet(path.read_bytes(), "x")) == plain(index)
    return path


def test_laions_index_takes_30_megabytes(laion: Path) -> None:
    print(f"{laion.stat().st_size / 1e6:.1f} MB")
    assert laion.stat().st_size <= 30e6


PLANNING = """
import json, sys, time
from pathlib import Path

started = [time.perf_counter()]
from jobspecs.load import loads
from orchestrator import plan
from workers.data.index_file import from_parquet
from workers.data.order import SourceOrder, lanes_of_rank
content = Path(sys.argv[1]).read_bytes()
spec = loads(Path(sys.argv[2]).read_text())
started.append(time.perf_counter())
index = from_parquet(content, sys.argv[1])
started.append(time.perf_counter())
fixed = plan.fix(spec, (index,))
made = plan.make(spec, (index,), fixed, "s3://bucket/runs/laion")
started.append(time.perf_counter())
order = SourceOrder(index.source, index.samples, fixed.layout)
for rank in range(1024):
    for lane in lanes_of_rank(rank, 1024, fixed.layout.lanes):
        for window, _, _ in order.windows_of_step(50_000, lane):
            order.window(order.pass_of(50_000), lane, window)
started.append(time.perf_counter())
print(json.dumps({
    "seconds": dict(zip(("import", "load", "plan", "place"), (b - a for a, b in zip(started, started[1:])))),
    # Not ru_maxrss: a child begins with that of its parent.
    "peak_kib": int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]),
    "imported": [name for name in ("boto3", "pandas", "ray", "torch", "transformers") if name in sys.modules],
    "plan": {"shards": made.shards, "samples": made.samples, "lanes": made.lanes, "rows": made.rows_per_rank},
}))
"""


def test_planning_over_laions_index_takes_500_megabytes(laion: Path, tmp_path: Path) -> None:
    """Loading included; in a process of its own, as `tandem plan` is."""
    spec = tmp_path / "job.yaml"
    spec.write_text(SPEC)
    command = [sys.executable, "-c", PLANNING, laion, spec]
    said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    seconds = ", ".join(f"{what} {taken:.2f} s" for what, taken in said["seconds"].items())
    print(f"{seconds}; {said['peak_kib'] / 1024:.0f} MiB at most")
    index = from_parquet(laion.read_bytes(), "x")
    assert said["plan"] == {"shards": 230_000, "samples": index.samples.sum(), "lanes": 1_024, "rows": 32}
    assert said["peak_kib"] * 1024 <= 500e6
    assert said["imported"] == []  # each takes longer than all that is done here


SPEC = """\
apiVersion: tandem/v1
name: laion
objective: {kind: image_text}
data:
  sources: [{name: laion, urls: ["s3://bucket/laion2B-en/{000000..229999}.tar"]}]
  image: {column: jpg, size: 224}
  text: {column: txt, tokenizer: {kind: bytes}, context_length: 77}
model:
  image: {kind: transformer, width: 96, layers: 3, heads: 4, patch: 16}
  text: {kind: transformer, width: 64, layers: 2, heads: 4}
  embedding_dim: 64
training:
  global_batch: 32768
  steps: 400000
  precision: bf16
  optimizer: {kind: adamw, learning_rate: 1e-3}
cluster: {workers: 1024}
"""
