"""The base of every section of a spec: strict (no coercion), frozen, no unknown keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_after_validator_function


class Section(BaseModel):
    """A section of a spec. Strict, frozen, and with no room for unknown keys.

    The attribute docstrings are the descriptions in the JSON schema.
    """

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


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
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = r"^([1-9][0-9]{0,14}) ?(B|KiB|MiB|GiB|TiB)$"


def _bytes(value: Any) -> int:
    """Bytes of a size such as "200 GiB", or of a whole number; PydanticCustomError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(_SIZE, value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError(
            "size", "should be a number of bytes, or a size in B, KiB, MiB, GiB or TiB such as '200 GiB'"
        )
    return int(match[1]) * _UNITS[match[2]]


Size = Annotated[
    int,
    Field(ge=1),
    BeforeValidator(_bytes),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _SIZE}]}, mode="validation"
    ),
]
"""Bytes; a text such as `200 GiB` is understood."""

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
