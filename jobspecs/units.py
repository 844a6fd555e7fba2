"""Numbers that a spec may write with a unit: `12.8M` samples, `64MiB`, `30m`.

A text with a unit is turned into the field's number before anything else is checked; every other text is left for the
field to refuse.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import no_info_before_validator_function


class Written:
    """Metadata of a number that may also be written as a text with a unit.

    Its JSON schema is that of the number, or a text that matches `pattern`.
    """

    pattern: str

    def read(self, value: Any) -> Any:
        """The number that `value` stands for; what is no text with a unit comes out as it is."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self.read, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [handler(schema), {"type": "string", "pattern": self.pattern}]}


# --- counts -------------------------------------------------------------------------------------------

COUNT = r"^[0-9]+(\.[0-9]+)?[kMB]$"
_THOUSANDS = {"k": 10**3, "M": 10**6, "B": 10**9}


class Counted(Written):
    """A whole number that may be written as `12.8M`: k, M and B are powers of ten."""

    pattern = COUNT

    def read(self, value: Any) -> Any:
        """12,800,000 of "12.8M". Raises PydanticCustomError: 1.2345k is no whole number."""
        if not (isinstance(value, str) and re.fullmatch(COUNT, value)):
            return value
        number = Decimal(value[:-1]) * _THOUSANDS[value[-1]]
        if number != number.to_integral_value():
            raise PydanticCustomError("count", "should be a whole number once its k, M or B is multiplied out")
        return int(number)


# --- durations ----------------------------------------------------------------------------------------

DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$"
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600), "d": Decimal(86400)}


class Timed(Written):
    """A time, in units of `seconds` seconds, that may be written as `90s`, `30m` or `1h30m`."""

    pattern = DURATION

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds

    def read(self, value: Any) -> Any:
        """1800.0 seconds of "30m". Raises PydanticCustomError for a text that is no time."""
        if not isinstance(value, str):
            return value
        if not re.fullmatch(DURATION, value):
            unit = "seconds" if self.seconds == 1 else "minutes"
            raise PydanticCustomError("duration", f"should be a number of {unit}, or a time such as 90s, 30m or 1h30m")
        parts = re.findall(r"([0-9.]+)(ms|[smhd])", value)
        total = sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0)) / self.seconds
        return int(total) if total == total.to_integral_value() else float(total)


# --- sizes --------------------------------------------------------------------------------------------

SIZE = r"^([1-9][0-9]{0,14}) ?(B|KiB|MiB|GiB|TiB)$"
_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


class Sized(Written):
    """Bytes, that may be written as `64MiB` or `200 GiB`."""

    pattern = SIZE

    def read(self, value: Any) -> int:
        """Bytes of "200 GiB", or of a whole number. Raises PydanticCustomError for anything else."""
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        match = re.fullmatch(SIZE, value) if isinstance(value, str) else None
        if match is None:
            raise PydanticCustomError(
                "size", "should be a number of bytes, or a size in B, KiB, MiB, GiB or TiB such as '200 GiB'"
            )
        return int(match[1]) * _BYTES[match[2]]


# --- the types of fields ------------------------------------------------------------------------------

PositiveInt = Annotated[int, Field(ge=1), Counted()]
"""1 or more; `400k` is understood."""
NonNegativeInt = Annotated[int, Field(ge=0), Counted()]
"""0 or more; `400k` is understood."""
Size = Annotated[int, Field(ge=1), Sized()]
"""Bytes; a text such as `200 GiB` is understood."""
Seconds = Annotated[float, Field(gt=0.0), Timed(1)]
"""A time above 0 in seconds; `30m` is understood."""
NonNegativeSeconds = Annotated[float, Field(ge=0.0), Timed(1)]
"""A time in seconds that may be 0; `30m` is understood."""
Minutes = Annotated[float, Field(gt=0.0), Timed(60)]
"""A time above 0 in minutes; `2h` is understood."""
