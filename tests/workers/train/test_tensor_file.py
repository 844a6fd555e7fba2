"""Files that are made in memory are what the library reads; a cut of them loses nothing and keeps to the limit."""

from __future__ import annotations

import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.train.host_copy import owners
from workers.train.tensor_file import Entry, TensorFile, cut

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool, torch.float64]

entries = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=12
).map(lambda drawn: [Entry(f"ä{i}.weight", dtype, tuple(shape)) for i, (dtype, shape) in enumerate(drawn)])


@given(entries)
def test_the_library_reads_it(entries: list[Entry]) -> None:
    file = TensorFile(entries, pinned=False)
    values = {}
    for number, entry in enumerate(entries):
        n = torch.Size(entry.shape).numel()
        values[entry.name] = (torch.arange(n) + number).to(entry.dtype)
        file.tensors[entry.name].copy_(values[entry.name])
    found = safetensors.torch.load(bytes(file.content))
    assert found.keys() == values.keys()
    for entry in entries:
        assert (found[entry.name].dtype, tuple(found[entry.name].shape)) == (entry.dtype, entry.shape)
        assert torch.equal(found[entry.name].view(-1), values[entry.name])


@given(entries, st.integers(1, 300))
def test_files_keep_to_the_limit(entries: list[Entry], limit: int) -> None:
    files = cut(entries, limit)
    assert [entry for file in files for entry in file] == entries
    assert all(len(file) == 1 or sum(entry.nbytes for entry in file) <= limit for file in files)


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 100)), st.integers(1, 5))
def test_every_tensor_has_one_writer_and_no_rank_much_more_than_another(sizes: dict[str, int], ranks: int) -> None:
    owner = owners(sizes, ranks)
    assert owner.keys() == sizes.keys()
    loads = [sum(size for name, size in sizes.items() if owner[name] == rank) for rank in range(ranks)]
    assert max(loads) - min(loads) <= max(sizes.values(), default=0)
