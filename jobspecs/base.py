"""The base of every section of a spec: strict (no coercion), frozen, no unknown keys; and the types of its fields."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function

from jobspecs.descriptions import description

S = TypeVar("S", bound="Section")


class Section(BaseModel):
    """A section of a spec. Strict, frozen, and with no room for unknown keys.

    The attribute docstrings are the descriptions in the JSON schema.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        # Most sections are built as a part of the whole alone: a third of the time that `tandem validate` takes.
        defer_build=True,
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, field in schema.get("properties", {}).items():
            field["description"] = description(cls, name)
        return schema


def defaults(section: type[S], **fields: Any) -> S:
    """`section` with its defaults, for a field whose default it is. Nothing is checked (a test does), so that the
    section's validator need not be built at import: for all of them that is a fifth of the time of `tandem validate`.
    """
    return section.model_construct(**fields)


@dataclass(frozen=True)
class Pattern:
    """Text that matches `regex`. Its error says so in `words`: "should be <words>"."""

    regex: str
    words: str

    def check(self, text: str) -> str:
        """`text`, or PydanticCustomError where it doesn't match."""
        if not re.fullmatch(self.regex, text):
            raise PydanticCustomError("pattern", "should be {words}", {"words": self.words})
        return text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self.regex}


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]

Name = Annotated[
    str,
    Pattern(
        r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$",
        "1 to 63 lower-case letters, digits, '-', '_' or '.', a letter or digit first and last",
    ),
]
"""A name that is also a folder, an object key and a label: lower case, digits, `-`, `_`, `.`."""


def misplaced(path: str, message: str, remedy: str = "") -> PydanticCustomError:
    """An error of a rule between sections, to be raised by a validator: `path` (dotted, from the section
    that raises it) is the place that the user is sent to, `remedy` says what to do there."""
    return PydanticCustomError("rule", "{message}", {"message": message, "path": path, "remedy": remedy})
