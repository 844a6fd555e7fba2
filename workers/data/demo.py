"""Demo data sets, made on the spot and written in img2dataset's layout.

    write_demo("digits", Path("data/digits"))   1,437 train + 360 test scans, ten labels
    write_demo("glyphs", Path("data/glyphs"))   characters captioned with their Unicode names
    write_demo("stdlib", Path("data/stdlib"))   signatures and docstrings of Python's standard library

    DIR/train/00000.tar  00000_stats.json  00001.tar  …
    DIR/test/00000.tar   00000_stats.json
    DIR/labels.txt                                     class names in label order, if there are any

Called by `tandem data`. Nothing is downloaded. Same kind, seed and library versions, same bytes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jobspecs.errors import StorageError, UsageError
from workers.data.demo_digits import digits
from workers.data.demo_glyphs import glyphs
from workers.data.demo_stdlib import stdlib
from workers.data.demo_tar import Demo, Split, pack_shard, shard_stats

DEMOS: dict[str, Callable[[int], Demo]] = {"digits": digits, "glyphs": glyphs, "stdlib": stdlib}
"""Kind -> what makes it from a seed."""

PARTIAL = ".partial"
"""Suffix of a file being written: one left by an interrupted call is written again."""


@dataclass(frozen=True)
class SplitSummary:
    """What was written of one split; `tar_bytes` is the size of its tars together."""

    name: str
    directory: Path
    samples: int
    shards: int
    tar_bytes: int


@dataclass(frozen=True)
class DemoSummary:
    """What `write_demo` wrote, and where."""

    kind: str
    directory: Path
    splits: tuple[SplitSummary, ...]


def write_demo(kind: str, directory: Path, *, seed: int = 0) -> DemoSummary:
    """Make the demo `kind` and write it below `directory`, which is created if it is missing.

    The directory may hold this very demo, whole or in part: the outcome is the same. Nothing else
    is ever overwritten or removed. Each file appears under its name only when it is complete.

    Raises UsageError for an unknown kind, a seed out of range, or a directory that holds anything
    else; StorageError where the files can't be written; DataError where matplotlib lacks its fonts.
    """
    if kind not in DEMOS:
        close = difflib.get_close_matches(kind, DEMOS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(f"there is no demo {kind!r}: choose one of {', '.join(DEMOS)}{hint}")
    if not 0 <= seed < 2**32:
        raise UsageError(f"the seed of a demo is {seed}, expected 0 to {2**32 - 1}")
    demo = DEMOS[kind](seed)
    try:
        _refuse_other_files(kind, seed, demo, directory)
        for name, content in _files(demo):
            _write_whole(directory / name, content)
    except OSError as error:
        raise StorageError(f"can't write the demo {kind!r} to {directory}: {error}") from error
    return DemoSummary(kind, directory, tuple(_summarize(split, directory) for split in demo.splits))


def _files(demo: Demo) -> Iterator[tuple[str, bytes]]:
    """Relative path and content of each file. A generator: the tars of `glyphs` are 124 MB together."""
    for split in demo.splits:
        for index in range(split.shards):
            samples = split.shard(index)
            yield f"{split.name}/{index:05d}.tar", pack_shard(index, samples)
            yield f"{split.name}/{index:05d}_stats.json", shard_stats(samples)
    if demo.labels:
        yield "labels.txt", "".join(f"{label}\n" for label in demo.labels).encode()


def _refuse_other_files(kind: str, seed: int, demo: Demo, directory: Path) -> None:
    """UsageError unless each file below `directory` is one of this demo's, with the same content.

    Names alone prove nothing: a real data set's first shard is called `train/00000.tar` as well.
    """
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"{directory} is a file; a demo needs a directory of its own")
    found = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    if not found:
        return
    others = set(found)
    for name, content in _files(demo):
        others.discard(name + PARTIAL)
        if name in found and (directory / name).read_bytes() == content:
            others.discard(name)
    if others:
        first = sorted(others)[0]
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UsageError(
            f"{directory} holds files that are not of the demo {kind!r} with seed {seed}: {first}{more}. "
            "Nothing was written; name an empty directory, or remove the files (another version of Pillow, "
            "scikit-learn or Python makes other bytes)"
        )


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(content)
    partial.replace(path)


def _summarize(split: Split, directory: Path) -> SplitSummary:
    folder = directory / split.name
    tar_bytes = sum((folder / f"{index:05d}.tar").stat().st_size for index in range(split.shards))
    return SplitSummary(split.name, folder, len(split.samples), split.shards, tar_bytes)
