"""`--set path.to.field=value`, and `+=` for one more: laid over what the files say.

    --set training.steps=100
    --set data.sources.0.urls+=more/*.tar        an item of a list; a list adds all of its items
    --set evaluations+='{kind: health, …}'
    --set deepspeed+='{…}'                       laid over a mapping, as a file over another

The value is YAML. Sections that the file leaves out are made on the way; items of lists are not.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jobspecs.errors import Fault, SpecError
from jobspecs.fields import field_at, is_list
from jobspecs.job import JobSpec
from jobspecs.layers import drop_rivals, lay_value
from jobspecs.places import Place
from jobspecs.yaml_places import Document, KeyPath, dotted, parse


def lay_override(document: Document, override: str, environment: Mapping[str, str]) -> list[Fault]:
    """Sets one `path.to.field=value` in the document. Comes out: what is wrong with it."""
    keys, equals, text = override.partition("=")
    adds = keys.rstrip().endswith("+")
    parts = keys.strip().removesuffix("+").rstrip().split(".")
    if not equals or not all(parts):
        remedy = "For example --set training.steps=100."
        return [Fault(Place(f"--set {override}"), "an override is path.to.field=value", remedy)]
    place = Place(f"--set {'.'.join(parts)}{'+' if adds else ''}", column=len(keys) + 2, text=override)
    try:
        given = _moved(parse(text, "", environment), place)
    except SpecError as error:
        message = f"the value can't be read: {error.faults[0].message}"
        return [Fault(place, message, "Quote it for YAML, and the whole for the shell.")]

    here: Any = document.value
    path: KeyPath = ()
    for part in parts[:-1]:
        key = _key(here, part)
        if key is None:
            return [_no_such_place(place, path, part, here)]
        path = (*path, key)
        if isinstance(here, dict) and key not in here:
            here[key] = {}
            document.entries[path] = place
        here = here[key]
    last = _key(here, parts[-1])
    if last is None:
        return [_no_such_place(place, path, parts[-1], here)]
    path = (*path, last)
    faults = [replace(fault, path=".".join(filter(None, (dotted(path), fault.path)))) for fault in given.faults]
    if adds:
        return faults or _add(document, here, path, given, place)
    if isinstance(here, dict):
        drop_rivals(document, here, path, given.value, keep=set())
    here[last] = given.value
    document.take(given, path, ())
    document.faults += faults
    return []


def _moved(given: Document, place: Place) -> Document:
    """The document of a value, as part of its override."""

    def moved(inner: Place) -> Place:
        column = inner.column + (place.column - 1 if inner.line == 1 else 0)
        return replace(place, column=column, text=place.text if inner.line == 1 else inner.text)

    for places in (given.entries, given.values):
        for path, inner in places.items():
            places[path] = moved(inner)
    given.faults = [replace(fault, place=moved(fault.place)) for fault in given.faults]
    return given


def _add(document: Document, here: Any, path: KeyPath, given: Document, place: Place) -> list[Fault]:
    """`+=`: items join those that are there, or those of the default; a mapping is laid over that which is there."""
    last = path[-1]
    if isinstance(here, dict) and here.get(last) is None:
        here[last] = _default(document, path)
        document.entries[path] = place
    there = here[last]
    if isinstance(there, dict) and isinstance(given.value, dict):
        lay_value(document, here, path, given, given.value, (), keep=set())
    elif isinstance(there, list):
        are_several = isinstance(given.value, list)
        for number, item in enumerate(given.value if are_several else [given.value]):
            there.append(item)
            document.take(given, (*path, len(there) - 1), (number,) if are_several else ())
    else:
        what = "a mapping takes a mapping" if isinstance(there, dict) else "only lists and mappings can be added to"
        return [Fault(place, what, f"Set it whole: --set {dotted(path)}=….")]
    return []


def _default(document: Document, path: KeyPath) -> Any:
    """What the field at `path` is where the spec doesn't say it, if that can be added to."""
    field = field_at(JobSpec, document.value, path)
    if field is None:
        return None
    default = copy.deepcopy(field.get_default(call_default_factory=True))
    if isinstance(default, list | dict):
        return default
    return [] if is_list(field.annotation) and default is None else None


def _key(container: Any, part: str) -> str | int | None:
    """`part` as a key of `container`, or None where it can't be one."""
    if isinstance(container, dict):
        return part
    is_index = isinstance(container, list) and part.isascii() and part.isdigit()
    return int(part) if is_index and int(part) < len(container) else None


def _no_such_place(place: Place, path: KeyPath, part: str, container: Any) -> Fault:
    remedy = f"{dotted(path)} is a single value."
    if isinstance(container, list):
        remedy = f"{dotted(path)} is a list of {len(container)}, counted from 0."
    return Fault(place, f"there is no {dotted((*path, part))} in the spec", remedy)
