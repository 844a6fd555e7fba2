"""The demo of texts: what is a query, what a document, and what training never sees of the held-out modules."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path

import pytest

from jobspecs.errors import DataError
from workers.data.demo_stdlib import MOST_NEGATIVES, clean, definitions, is_held_out, stdlib
from workers.data.demo_tar import Demo, TextPair, pack_shard

MODULE = '''
"""A module."""

import os
raise SystemExit("nobody imports this")

def shorten(text, width=70, /, *rest, sep=" ", **kwargs):
    """shorten(text, width) -> str

    Collapse and truncate the text.

    >>> shorten("a  b", 9)
    'a b'

    Ends here.
    """
    def inner():
        """This is inside of a function."""

def _hidden():
    """This is nobody's business."""

def bare(a): ...
def curt():
    """Too short."""

try:
    import fast
except ImportError:
    async def slow(*, key):
        """Does it without the fast one."""
else:
    def slow(other):
        """Does it with the fast one."""

class Reader:
    """Reads what is there."""
    def __init__(self, path):
        """This is a constructor."""
    @classmethod
    def opened(cls, path, mode):
        """Opens a path for reading."""
    @property
    def size(self):
        """Number of bytes in it."""
    @size.setter
    def size(self, value):
        """Sets the number of bytes."""

class Plain(Reader):
    """Has no constructor of its own."""
'''
FOUND = {
    "shorten(text, width, *rest, sep, **kwargs)": "Collapse and truncate the text.\n\nEnds here.",
    "slow(*, key)": "Does it without the fast one.",
    "Reader(path)": "Reads what is there.",
    "Reader.opened(path, mode)": "Opens a path for reading.",
    "Reader.size()": "Number of bytes in it.",
    "Plain": "Has no constructor of its own.",
}


def library(folder: Path, **modules: str) -> Path:
    for name, text in modules.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture(scope="module")
def demo() -> Demo:
    return stdlib(0)


def pairs(demo: Demo, split: int) -> list[TextPair]:
    return [sample for sample in demo.splits[split].samples if isinstance(sample, TextPair)]


def test_definitions_of_a_module(tmp_path: Path) -> None:
    found = list(definitions(library(tmp_path, textwrap=MODULE, json__decoder=MODULE, json__init=MODULE)))
    assert {each.module for each in found} == {"json.decoder", "json.init", "textwrap"}
    of_one = [each for each in found if each.module == "json.decoder"]
    assert {each.query: each.document for each in of_one} == {
        f"json.decoder.{query}": document for query, document in FOUND.items()
    }
    assert [each.name for each in of_one] == ["shorten", "slow", "Reader", "Reader.opened", "Reader.size", "Plain"]


def test_what_is_no_library_is_left_out(tmp_path: Path) -> None:
    (library(tmp_path, a=MODULE, test__b=MODULE, c__tests__d=MODULE) / "e.py").write_text("no Python")
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "f.py").write_text(MODULE)
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "__init__.py").write_text(MODULE)
    assert {each.module for each in definitions(tmp_path)} == {"a", "g"}


@pytest.mark.parametrize(
    ("docstring", "cleaned"),
    [
        ("find(sub) -> int\n\nReturn the lowest index.", "Return the lowest index."),
        ("S.find(sub[, start]) - Return the lowest index.", "Return the lowest index."),
        ("find: looks for it\n", "looks for it"),
        ("Finds, like find(1).", "Finds, like find(1)."),
        ("Finds it.\n\n    >>> find(1)\n    2\n    >>> find(3)\n\n    And more.", "Finds it.\n\nAnd more."),
        (">>> find(1)\n2", ""),
    ],
)
def test_what_repeats_the_signature_is_taken_out(docstring: str, cleaned: str) -> None:
    assert clean(docstring, "find") == cleaned


def test_the_splits_share_neither_module_nor_document(demo: Demo) -> None:
    train, test = pairs(demo, 0), pairs(demo, 1)
    assert len(train) > 3000
    assert 400 < len(test) < len(train) / 2
    modules = [{str(pair.facts["module"]).partition(".")[0] for pair in split} for split in (train, test)]
    assert not modules[0] & modules[1]
    assert all(is_held_out(module, 0) for module in modules[1])
    documents = {pair.document for pair in test}
    assert not documents & {text for pair in train for text in (pair.document, *pair.negatives)}
    assert not documents & {negative for pair in train for negative in pair.negatives}


def test_negatives_are_other_documents_of_the_module(demo: Demo) -> None:
    for split in (0, 1):
        of_module: dict[object, set[str]] = {}
        for pair in pairs(demo, split):
            of_module.setdefault(pair.facts["module"], set()).add(pair.document)
        for pair in pairs(demo, split):
            others = of_module[pair.facts["module"]] - {pair.document}
            assert len(set(pair.negatives)) == len(pair.negatives) == min(len(others), MOST_NEGATIVES)
            assert set(pair.negatives) <= others


def test_no_document_holds_its_query_and_few_its_call(demo: Demo) -> None:
    every = pairs(demo, 0) + pairs(demo, 1)
    assert not any(pair.query in pair.document for pair in every)
    calls = [f"{str(pair.facts['name']).rpartition('.')[2]}(" for pair in every]
    assert sum(call in pair.document for call, pair in zip(calls, every, strict=True)) < len(every) / 10


def test_queries_are_unique_and_say_where_they_are_from(demo: Demo) -> None:
    every = pairs(demo, 0) + pairs(demo, 1)
    assert len({pair.query for pair in every}) == len(every)
    queries = {pair.query for pair in every}
    assert {"textwrap.shorten(text, width, **kwargs)", "threading.Thread.join(timeout)"} <= queries
    for pair in every:
        assert re.match(rf"{pair.facts['module']}\.{pair.facts['name']}($|\()", pair.query)


def test_the_same_again_and_another_split_with_another_seed(demo: Demo, tmp_path: Path) -> None:
    modules = {f"m{number}": MODULE.replace("is there", f"is {number}") for number in range(40)}
    folder = library(tmp_path, **modules)
    assert stdlib(1, folder=folder) == stdlib(1, folder=folder)
    one, other = ({pair.facts["module"] for pair in pairs(stdlib(seed, folder=folder), 1)} for seed in (1, 2))
    assert one != other
    # Equal documents of both splits are those of the test split; "Reads what is 7." are all that is left.
    assert {pair.document.rpartition(" ")[0] for pair in pairs(stdlib(1, folder=folder), 0)} == {"Reads what is"}


def test_the_members_of_a_pair() -> None:
    pair = TextPair("a.b(é)", "what it does", ("other", "ünlike"), {"module": "a", "name": "b"})
    with tarfile.open(fileobj=io.BytesIO(pack_shard(3, [pair, pair]))) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert [*contents][:4] == [f"000030000.{each}" for each in ("query.txt", "document.txt", "negatives.json", "json")]
    assert contents["000030001.query.txt"].decode() == "a.b(é)"
    assert contents["000030001.document.txt"] == b"what it does"
    assert json.loads(contents["000030001.negatives.json"]) == ["other", "ünlike"]
    assert json.loads(contents["000030001.json"]) == {"key": "000030001", "module": "a", "name": "b"}


def test_a_python_without_its_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        stdlib(0, folder=tmp_path)
    assert str(raised.value) == (
        "the demo 'stdlib' is made of the source files of Python's standard library, and "
        f"{tmp_path} has 0 docstrings in 0 modules: too few to train and to test with. Run it with a Python that was "
        "installed with its .py files"
    )
