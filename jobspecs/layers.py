"""A spec laid over another: a file over the one that it extends, `--set` over files.

Mappings are merged, lists and single values replaced; null takes a value away. A section of another `kind` replaces
the one below it whole, as their fields have nothing to do with each other. Of fields that exclude each other the upper
layer's stay: `passes: 3` over `steps: 400` is three passes.
"""

from __future__ import annotations

from typing import Any

from jobspecs.training import LENGTHS
from jobspecs.yaml_places import Document, KeyPath

_EXCLUSIVE: tuple[tuple[KeyPath, tuple[str, ...]], ...] = ((("training",), LENGTHS),)
"""Sections, and fields of them of which one is given."""


def lay_over(below: Document, above: Document) -> None:
    """Lays `above` over `below`, which becomes both; places tell which file a value is from."""
    for key, value in above.value.items():
        lay_value(below, below.value, (key,), above, value, (key,), keep=set(above.value))
    below.faults += above.faults
    below.entries[()] = above.entries[()]


def lay_value(
    below: Document, around: Any, path: KeyPath, above: Document, value: Any, within: KeyPath, keep: set[str]
) -> None:
    """Lays the `value`, which is at `within` of `above`, over that at `path` of `below`, which is in the section or
    list `around`. keep: the fields that come from the same layer."""
    key = path[-1]
    there = around.get(key) if isinstance(around, dict) else around[key]
    if _merges(there, value):
        below.entries[path] = above.entries[within]
        below.values.pop(path, None)
        for name, inner in value.items():
            lay_value(below, there, (*path, name), above, inner, (*within, name), keep=set(value))
    else:
        if isinstance(around, dict):
            drop_rivals(below, around, path, value, keep)
        around[key] = value
        below.take(above, path, within)


def _merges(old: Any, new: Any) -> bool:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return False
    return "kind" not in old or "kind" not in new or old["kind"] == new["kind"]


def drop_rivals(document: Document, section: dict[str, Any], path: KeyPath, value: Any, keep: set[str]) -> None:
    """Takes out of the `section` what the field at `path` excludes, now that it has a `value`. Those of the same layer
    stay, to be told as a fault: those named in `keep` and, of an override, those that others set."""
    *around, key = path
    for where, names in _EXCLUSIVE:
        if where == tuple(around) and key in names and value is not None:
            for name in {*names} - {str(key)} - keep:
                if document.entry((*where, name)).line:  # an override has no line
                    section.pop(name, None)
                    document.forget((*where, name))
