"""Where an error of pydantic stands in the language: its path in the spec, and the sections around it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args, get_origin

from jobspecs.base import Section
from jobspecs.fields import is_section, kinds, members, names
from jobspecs.job import JobSpec
from jobspecs.yaml_places import KeyPath


@dataclass(frozen=True)
class Spot:
    """Where an error stands."""

    path: KeyPath
    section: type[Section]
    """Holds the last key of `path`."""
    in_union: bool
    """Whether the error is that of one member of a plain union, such as `int | "auto"`."""
    members: tuple[type[Section], ...]
    """Sections that can stand at `path`, of which each has a `kind`."""
    siblings: tuple[type[Section], ...]
    """Sections of other kinds that could stand where `section` does."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Allowed values of `kind` at `path`."""
        return tuple(kind for member in self.members for kind in kinds(member))


def spot_of(loc: KeyPath) -> Spot:
    """Reads pydantic's `loc`, in which names of union members stand between the keys.

    ('evaluations', 0, 'zero_shot', 'templates') -> ('evaluations', 0, 'templates') in ZeroShot
    ('cluster', 'workers', 'WorkerRange', 'min') -> ('cluster', 'workers', 'min') in WorkerRange
    ('data', 'lanes', 'constrained-int')         -> ('data', 'lanes') in Data, in a union
    """
    path: KeyPath = ()
    section: type[Section] = JobSpec
    in_union = False
    union: tuple[Any, ...] = ()
    siblings: tuple[Any, ...] = ()
    here: Any = JobSpec
    for part in loc:
        options = members(here)
        if len(options) > 1:
            here = next((member for member in options if part in names(member)), None)
            in_union = here is None
            union = tuple(member for member in options if member is not here)
            continue
        path = (*path, part)
        here = options[0] if options else None
        if is_section(here):
            section, siblings, union = here, tuple(filter(is_section, union)), ()
            field = section.model_fields.get(str(part))
            here = field.annotation if field else None
        else:
            here = get_args(here)[0] if get_origin(here) is list else None
    members_here = tuple(member for member in members(here) if kinds(member))
    return Spot(path, section, in_union, members_here, siblings)
