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
    _merge(below, below.value, above, above.value, ())
    below.faults += above.faults
    below.entries[()] = above.entries[()]


def _merge(below: Document, old: dict[str, Any], above: Document, new: dict[str, Any], path: KeyPath) -> None:
    for key, value in new.items():
        at = (*path, key)
        if _merges(old.get(key), value):
            below.entries[at] = above.entries[at]
            below.values.pop(at, None)
            _merge(below, old[key], above, value, at)
        else:
            drop_rivals(below, old, at, value, keep=set(new))
            old[key] = value
            below.take(above, at, at)


def _merges(old: Any, new: Any) -> bool:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return False
    return "kind" not in old or "kind" not in new or old["kind"] == new["kind"]


def drop_rivals(document: Document, section: dict[str, Any], path: KeyPath, value: Any, keep: set[str]) -> None:
    """Takes out of the `section` what the field at `path` excludes, now that it has a `value`; those named in `keep`
    come from the same layer, and stay to be told as a fault."""
    *around, key = path
    for where, names in _EXCLUSIVE:
        if where == tuple(around) and key in names and value is not None:
            for name in {*names} - {str(key)} - keep:
                section.pop(name, None)
                document.forget((*where, name))
