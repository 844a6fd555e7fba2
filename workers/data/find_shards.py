"""URLs of a spec -> the shards that they name, with size and ETag, before anything is started.

A folder with many of them is listed once (1,000 objects a request) instead of asking for each: 230,000
shards with a _stats.json and a parquet file each take 690 requests.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from jobspecs.errors import AccessDeniedError, DataError, NotFoundError
from workers.data.keyed import hash64
from workers.storage import ObjectInfo, Storage, absolute

REQUESTS_AT_A_TIME = 32
_ENDING = (".tar.gz", ".tgz", ".tar")
_LIST_FROM = 256
"""Shards of one folder from which on it is listed. Asking for fewer takes a second at most, and a trial may
name a few shards of a folder whose listing takes minutes."""


class Folders:
    """What lies in the folders that were listed, each once."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._listed: dict[str, dict[str, ObjectInfo]] = {}

    def list(self, folder: str) -> dict[str, ObjectInfo]:
        """Objects by URI, sorted."""
        if folder not in self._listed:
            self._listed[folder] = {info.uri: info for info in self.storage.list(folder, deep=False)}
        return self._listed[folder]

    def has(self, uri: str) -> bool | None:
        """Whether there is such an object; None where that is not known, its folder was not listed."""
        listed = self._listed.get(uri.rpartition("/")[0])
        return None if listed is None else uri in listed

    def stat(self, uri: str, *, optional: bool = False) -> ObjectInfo | None:
        """None where there is no such object; or, where it is `optional`, none that may be read: without the
        right to list a bucket, S3 says "denied" of what is not there."""
        listed = self._listed.get(uri.rpartition("/")[0])
        if listed is not None:
            return listed.get(uri)
        try:
            return self.storage.stat(uri)
        except NotFoundError:
            return None
        except AccessDeniedError:
            if not optional:
                raise
            return None


def find_shards(urls: list[str], folders: Folders) -> list[ObjectInfo]:
    """The shards that `urls` name, in their order: `{000..041}` counts, `{a,b}` lists, `*` lists a folder.

    Raises DataError: a brace or `*` that means nothing; and all patterns that match nothing and shards that are
    missing, empty, named twice or held twice under two names, at once. StorageError.
    """
    named = [(pattern, _named(pattern, folders)) for url in urls for pattern in _braces(url)]
    uris = [uri for _, matching in named for uri in matching]
    found = _stat(uris, folders)
    there = [info for info in found if info is not None]
    missing = [uri for uri, info in zip(uris, found, strict=True) if info is None]
    faults = [
        f"{pattern} matches nothing. Check the folder and the ending." for pattern, matching in named if not matching
    ]
    for names, what, remedy in (
        (missing, "do not exist", "Check the urls (braces count both ends), or bring the shards there."),
        ([info.uri for info in there if not info.size], "are empty", "Write them again or take them out of the urls."),
        (_repeated(uris), "are named twice", "Each would be seen twice a pass; name each once."),
        (_same_content(there), "hold the same bytes as another one", "They would be seen twice a pass; keep one."),
    ):
        if names:
            faults.append(f"{len(names)} of {len(uris)} shards {what}: {some(names)}. {remedy}")
    if faults:
        raise DataError("\n".join(faults))
    return there


def files_beside(shards: list[ObjectInfo], folders: Folders) -> list[str]:
    """What tells the files beside each shard, which counts and filters come from, from others of their names:
    a hash of their tags, "" where there is none. Raises StorageError."""
    uris = [f"{stem(shard.uri)}{ending}" for shard in shards for ending in ("_stats.json", ".parquet")]
    tags = ["" if info is None else f"{info.size}-{info.etag}" for info in _stat(uris, folders, optional=True)]
    pairs = zip(tags[::2], tags[1::2], strict=True)
    return [f"{hash64(*pair) % 2**64:016x}" if any(pair) else "" for pair in pairs]


def stem(uri: str) -> str:
    """The URI of a shard without its ending: what stands beside it begins so."""
    return next((uri.removesuffix(ending) for ending in _ENDING if uri.endswith(ending)), uri)


def _stat(uris: list[str], folders: Folders, *, optional: bool = False) -> list[ObjectInfo | None]:
    """What stands at each URI; folders with many of them are listed."""
    for folder, count in Counter(uri.rpartition("/")[0] for uri in uris).items():
        if count >= _LIST_FROM:
            folders.list(folder)
    asked = [uri for uri in uris if folders.has(uri) is None]
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as pool:
        answers = dict(zip(asked, pool.map(partial(folders.stat, optional=optional), asked), strict=True))
    return [answers[uri] if uri in answers else folders.stat(uri) for uri in uris]


def _repeated(uris: list[str]) -> list[str]:
    return sorted(uri for uri, count in Counter(uris).items() if count > 1)


def _same_content(infos: list[ObjectInfo]) -> list[str]:
    """Shards whose ETag, a hash of the content in object stores, another one has too."""
    seen: dict[tuple[str, int], str] = {}
    twice = []
    for info in infos:
        if info.size and info.uri.startswith("s3://"):
            first = seen.setdefault((info.etag, info.size), info.uri)
            if first != info.uri:
                twice.append(f"{info.uri} (as {first})")
    return twice


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


def _named(pattern: str, folders: Folders) -> list[str]:
    uri = absolute(pattern)
    if "*" not in uri:
        return [uri]
    folder, _, name = uri.rpartition("/")
    if "*" in folder:
        raise DataError(f"{pattern}: * may stand in the file name only. Name the folders in the list of urls.")
    wanted = re.compile("[^/]*".join(map(re.escape, name.split("*"))))
    return [uri for uri in folders.list(folder) if wanted.fullmatch(uri.removeprefix(f"{folder}/"))]


def some(names: list[str], most: int = 3) -> str:
    """The first few of many names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
