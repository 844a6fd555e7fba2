"""The types of a spec's fields, walked without a value: which sections can stand where, and by which name."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from jobspecs.base import Section


def members(annotation: Any) -> list[Any]:
    """The types that `annotation` allows, but for None."""
    if get_origin(annotation) is Annotated:
        return members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for argument in get_args(annotation) for member in members(argument)]
    return [] if annotation in (None, NoneType) else [annotation]


def is_section(annotation: Any) -> bool:
    """Whether it is a section's class."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def is_list(annotation: Any) -> bool:
    """Whether a list can stand there."""
    return any(get_origin(member) is list for member in members(annotation))


def kinds(annotation: Any) -> tuple[str, ...]:
    """The values of the field `kind` that tell a section from others; () of one without it, and of no section."""
    field = annotation.model_fields.get("kind") if is_section(annotation) else None
    return get_args(field.annotation) if field and get_origin(field.annotation) is Literal else ()


def names(annotation: Any) -> tuple[str, ...]:
    """What stands for a section in pydantic's `loc`: its kinds, or of one without them its class's name."""
    return kinds(annotation) or ((annotation.__name__,) if is_section(annotation) else ())


def sections_at(annotation: Any) -> list[type[Section]]:
    """The sections that can stand where `annotation` is, as itself or as items of its list."""
    found = []
    for member in members(annotation):
        if get_origin(member) is list:
            found += sections_at(get_args(member)[0])
        elif is_section(member):
            found.append(member)
    return found


def field_at(section: type[Section], value: Any, path: tuple[str | int, ...]) -> FieldInfo | None:
    """The field at `path` of a `section` with the plain `value`, whose kinds tell which sections there are. None where
    there is no such field: an item of a list, a key of a free mapping, a mistake."""
    field: FieldInfo | None = None
    here: list[type[Section]] = [section]
    for part in path:
        if isinstance(part, int):
            field = None
        else:
            kind = value.get("kind") if isinstance(value, dict) else None
            fitting = [each for each in here if len(here) == 1 or kind in kinds(each)]
            field = fitting[0].model_fields.get(part) if fitting else None
            here = sections_at(field.annotation) if field else []
        value = _child(value, part)
    return field


def _child(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


def paths_of(section: type[Section], name: str) -> list[str]:
    """Dotted paths of the fields called `name` at and below `section`, without the indexes of lists."""
    found = [name] if name in section.model_fields else []
    for key, field in section.model_fields.items():
        below = (path for each in sections_at(field.annotation) for path in paths_of(each, name))
        found += [f"{key}.{path}" for path in below]
    return list(dict.fromkeys(found))
