"""`apiVersion`: the versions of the language, and how a spec of an older one is read.

Within a version, fields are added and defaults stay: a spec that was right stays right and means the same. What renames
or moves a field makes a new version, which gets an entry below: specs of all older ones are then read as if they had
been written in the newest, those of runs too, so that a run goes on under a newer Tandem. `tandem diff OLD NEW` shows
that a spec that was rewritten by hand is the same experiment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jobspecs.errors import Fault
from jobspecs.yaml_places import Document, KeyPath


@dataclass(frozen=True)
class Version:
    """A version of the language."""

    name: str
    moved: Mapping[str, str] = field(default_factory=dict)
    """Dotted paths of fields, and where they stand in the next version."""


VERSIONS = (Version("tandem/v1"),)
"""Oldest first. The last is the one that `JobSpec` describes."""


def migrate(document: Document, versions: tuple[Version, ...] = VERSIONS) -> None:
    """Turns a document of an older version into one of the newest; places stay those of the old fields."""
    given, newest = document.value.get("apiVersion"), versions[-1].name
    names = [version.name for version in versions]
    if given in names:
        for version in versions[names.index(given) : -1]:
            for old, new in version.moved.items():
                _move(document, tuple(old.split(".")), tuple(new.split(".")))
        document.value["apiVersion"] = newest
    elif isinstance(given, str) and re.fullmatch(r"tandem/v[0-9]+", given):
        document.broken.add(("apiVersion",))
        message = f"this Tandem reads {newest}{' and older' if len(names) > 1 else ''}, given: {given}"
        document.faults.append(
            Fault(
                document.place(("apiVersion",)),
                message,
                f"Install a Tandem that knows {given}, or write the spec in {newest}.",
                "apiVersion",
            )
        )


def _move(document: Document, old: KeyPath, new: KeyPath) -> None:
    source, target = _around(document.value, old), document.value
    if source is None or old[-1] not in source:
        return
    for key in new[:-1]:
        target = target.setdefault(key, {})
        if not isinstance(target, dict):
            return
    if new[-1] not in target:  # else the old one is told as an unknown key
        target[new[-1]] = source.pop(old[-1])
        document.take(document, new, old)
        document.forget(old)


def _around(value: Any, path: KeyPath) -> dict[str | int, Any] | None:
    for key in path[:-1]:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else None
