"""`extends: base.yaml`: a spec that says only what is different.

The path is relative to the file that says it. A file extends one other, which may extend one in its turn.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from jobspecs.errors import Fault, SpecError
from jobspecs.layers import lay_over
from jobspecs.yaml_places import Document

KEY = "extends"


def extended(document: Document, folder: Path, read: Callable[[Path], Document], chain: tuple[Path, ...]) -> Document:
    """`document` over the file that it extends, if it does; `read` gives a file's own document, and `chain` has the
    files that led here.

    Raises SpecError: there is no such file, it is no spec, or the files extend each other in a circle.
    """
    given = document.value.pop(KEY, None)
    place = document.place((KEY,))
    if given is None:
        return document
    if (KEY,) in document.broken:
        raise SpecError(tuple(document.faults))

    def refused(message: str, remedy: str) -> SpecError:
        return SpecError((*document.faults, Fault(place, message, remedy, KEY)))

    if not isinstance(given, str):
        raise refused("should be the path of one spec", "Its own `extends` may name another.")
    path = folder / given
    try:
        resolved = path.resolve(strict=True)
        if resolved in chain:
            circle = " -> ".join(file.name for file in (*chain[chain.index(resolved) :], resolved))
            raise refused(f"the files extend each other in a circle: {circle}", "Take one of the lines out.")
        below = extended(read(path), path.parent, read, (*chain, resolved))
    except OSError as error:
        close = difflib.get_close_matches(path.name, _files(path.parent), n=1, cutoff=0.6)
        hint = f"Did you mean {close[0]!r}? " if close else ""
        remedy = f"{hint}The path is relative to the file that says it."
        raise refused(f"can't be read: {path}: {error.strerror}", remedy) from error
    except SpecError as error:
        if document.faults and not set(document.faults) & set(error.faults):
            raise SpecError((*document.faults, *error.faults)) from error
        raise
    lay_over(below, document)
    return below


def _files(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except OSError:
        return []
