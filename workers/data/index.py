"""The index of a source: its shards with their sizes, ETags and sample counts.

It is made once, before the start (orchestrator/indexing.py), and kept with the run: the order of
samples follows from it. Counts come from img2dataset's sidecar (`00000_stats.json` beside `00000.tar`)
where there is one, else from a scan of the tar.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from jobspecs.errors import DataError, NotFoundError
from workers.data.shards import read_samples
from workers.storage import ObjectInfo, Storage, absolute, basename

_BLOCK_BYTES = 512
"""A tar is a series of blocks of this size; the last ones are zero."""


@dataclass(frozen=True)
class Index:
    """The shards of one source, in the order of its URLs; a shard's number is its place here."""

    source: str
    uris: tuple[str, ...]
    sizes: tuple[int, ...]
    """Bytes of each shard."""
    etags: tuple[str, ...]
    samples: tuple[int, ...]
    """Samples of each shard."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """Samples of each shard, as an array."""
        return np.asarray(self.samples, dtype=np.int64)

    def fingerprint(self) -> str:
        """sha256 over the source's name and each shard's file name, size and count. The place of the
        shards is not in it: copies elsewhere are the same data."""
        lines = [self.source] + [
            f"{basename(uri)} {size} {count}"
            for uri, size, count in zip(self.uris, self.sizes, self.samples, strict=True)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The index as stored in the run directory."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Index:
        """The inverse of `to_json`."""
        fields = json.loads(data)
        return cls(fields["source"], *(tuple(fields[name]) for name in ("uris", "sizes", "etags", "samples")))


def expand(urls: list[str], storage: Storage) -> list[str]:
    """The shards that a source's URLs name: `{000..041}` counts, `{a,b}` lists, `*` lists a folder.

    Raises DataError: a pattern that matches nothing, or a shard named twice.
    """
    shards: list[str] = []
    for url in urls:
        for pattern in _braces(url):
            shards += _listed(pattern, storage) if "*" in pattern else [absolute(pattern)]
    twice = sorted({shard for shard in shards if shards.count(shard) > 1}) if len(set(shards)) < len(shards) else []
    if twice:
        raise DataError(f"shards named twice: {_some(twice)}. Each would be seen twice a pass; name each once.")
    return shards


def stat_shards(shards: list[str], storage: Storage) -> list[ObjectInfo]:
    """Size and ETag of each shard. Raises DataError naming all that are missing or empty."""
    infos: list[ObjectInfo] = []
    missing: list[str] = []
    for shard in shards:
        try:
            infos.append(storage.stat(shard))
        except NotFoundError:
            missing.append(shard)
    if missing:
        raise DataError(
            f"{len(missing)} of {len(shards)} shards do not exist: {_some(missing)}. "
            "Check the urls of the source (braces count both ends), or bring the shards there."
        )
    empty = [info.uri for info in infos if info.size == 0]
    if empty:
        raise DataError(f"shards without a byte: {_some(empty)}. Write them again or take them out of the urls.")
    return infos


def sidecar_count(shard: str, storage: Storage) -> int | None:
    """Samples of `shard` by img2dataset's `…_stats.json` beside it; None where there is none.

    Raises DataError where the sidecar can't be understood.
    """
    sidecar = f"{shard.removesuffix('.tar')}_stats.json"
    try:
        content = storage.read(sidecar)
    except NotFoundError:
        return None
    try:
        count = json.loads(content)["successes"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{sidecar} has no count under 'successes'. Mend it, or delete it to have the tar scanned."
        ) from error
    if type(count) is not int or count < 0:
        raise DataError(f"{sidecar}: 'successes' is {count!r}, not a count. Mend or delete it.")
    return count


def scan_count(shard: str, storage: Storage) -> int:
    """Samples of `shard`, counted by reading it.

    Raises DataError for a tar that is damaged. One that was cut between two members reads well to its
    end, but lacks the block of zeros that ends a tar.
    """
    count = 0
    for sample in read_samples(storage, shard, columns=frozenset()):
        if sample.fault is not None:
            raise DataError(f"{shard}: {sample.fault} after {count} samples. Write the tar again or take it out.")
        count += 1
    size = storage.stat(shard).size
    with storage.open(shard, max(0, size - _BLOCK_BYTES)) as end:
        if shard.endswith(".tar") and end.read().strip(b"\0"):
            raise DataError(f"{shard}: truncated after {count} samples. Write the tar again or take it out.")
    if not count:
        raise DataError(f"{shard} holds no sample. Take it out of the urls.")
    return count


def _braces(url: str) -> Iterator[str]:
    # The first outermost pair, which may hold others: the shell's order.
    match = re.search(r"\{((?:[^{}]|\{[^{}]*\})*)\}", url)
    if not match:
        yield url
        return
    before, inside, after = url[: match.start()], match.group(1), url[match.end() :]
    count = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if count:
        first, last = count.groups()
        if int(first) > int(last):
            raise DataError(f"{url}: {{{inside}}} counts down. Write the smaller number first.")
        parts = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    else:
        parts = re.split(r",(?![^{]*\})", inside)  # at no comma of an inner pair
        if len(parts) == 1:
            raise DataError(f"{url}: {{{inside}}} is neither a count like {{000..041}} nor a list like {{a,b}}.")
    for part in parts:
        yield from _braces(before + part + after)


def _listed(pattern: str, storage: Storage) -> list[str]:
    folder, _, name = absolute(pattern).rpartition("/")
    if "*" in folder:
        raise DataError(f"{pattern}: * may stand in the file name only. Name the folders in the list of urls.")
    wanted = re.compile("[^/]*".join(map(re.escape, name.split("*"))))
    found = [info.uri for info in storage.list(folder) if wanted.fullmatch(info.uri.removeprefix(f"{folder}/"))]
    if not found:
        raise DataError(f"{pattern} matches nothing. Check the folder and the ending.")
    return found


def _some(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
