"""The JSON schema of a spec as somebody writes it, for editors: `tandem schema`, `jobspecs/schema.json`.

It is pydantic's of `JobSpec`, with an example of every field, and with what is gone when a spec is loaded: `extends`,
under which nothing is required, and `${NAME}`, which may stand for any value.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from jobspecs.base import Section
from jobspecs.field_examples import examples_of
from jobspecs.fields import sections_at
from jobspecs.job import JobSpec
from jobspecs.training import LENGTHS

HEADER = "# yaml-language-server: $schema="
"""Begins the first line of a spec, by which the YAML language server finds the schema."""

_VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^{}]*)?\}"}
_EXTENDS = {
    "type": "string",
    "description": "Another spec, over which this one is laid; the path is relative to this file.",
    "examples": ["base.yaml"],
}

Schema = dict[str, Any]


def json_schema() -> Schema:
    """The schema of a spec in a file."""
    sections = described()
    whole = {name: _with_variables(section) for name, section in sections.items()}
    whole["JobSpec"]["properties"]["extends"] = _EXTENDS
    whole["Training"]["oneOf"] = [_given(name) for name in LENGTHS]
    partial = {f"Partial{name}": _partial(section) for name, section in whole.items()}
    return {
        "title": "Tandem job spec",
        "description": sections["JobSpec"]["description"],
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": "#/$defs/PartialJobSpec"},
        "else": {"$ref": "#/$defs/JobSpec"},
        "$defs": {**whole, **partial},
    }


def described() -> dict[str, Schema]:
    """Pydantic's schema of each section by the name of its class, with examples."""
    schema = JobSpec.model_json_schema()
    sections: dict[str, Schema] = schema.pop("$defs")
    sections["JobSpec"] = schema
    for section in _all(JobSpec):
        for name, field in sections[section.__name__]["properties"].items():
            field.pop("title", None)  # its name once more
            field["examples"] = examples_of(section, name)
    return sections


def _all(section: type[Section]) -> Iterator[type[Section]]:
    """A section's class and those below it; some come more than once."""
    yield section
    for field in section.model_fields.values():
        for each in sections_at(field.annotation):
            yield from _all(each)


def _with_variables(schema: Any) -> Any:
    """Where a number, a word of several or a text of some form may stand, a variable of the environment may too."""
    if isinstance(schema, list):
        return [_with_variables(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {
        key: value if key in ("examples", "default", "enum", "required") else _with_variables(value)
        for key, value in schema.items()
    }
    kind = schema.get("type")
    if kind in ("integer", "number", "boolean") or (kind == "string" and ("pattern" in schema or "enum" in schema)):
        told = {key: schema.pop(key) for key in ("title", "description", "examples", "default") if key in schema}
        return {**told, "anyOf": [schema, _VARIABLE]}
    return schema


def _given(name: str) -> Schema:
    return {"required": [name], "properties": {name: {"not": {"type": "null"}}}}


def _partial(schema: Any) -> Any:
    """The same with nothing required: it is laid over another spec."""
    if isinstance(schema, list):
        return [_partial(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key == "$ref":
            found[key] = value.replace("#/$defs/", "#/$defs/Partial")
        elif key in ("examples", "default", "enum", "properties"):
            found[key] = {name: _partial(each) for name, each in value.items()} if key == "properties" else value
        elif key == "oneOf":  # of a section without its kind, all members may be meant
            if "$ref" in value[0]:
                found["anyOf"] = _partial(value)
        elif key not in ("required", "discriminator"):
            found[key] = _partial(value)
    return copy.deepcopy(found)
