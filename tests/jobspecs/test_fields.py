"""What the types of fields allow."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import Field

from jobspecs.fields import is_list


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (list[int], True),
        (Annotated[list[int], Field(min_length=1)] | None, True),
        (int | list[int], True),
        (dict[str, list[int]], False),
        (Annotated[str, Field(description="no list[str]")], False),
        (None, False),
    ],
)
def test_where_a_list_can_stand(annotation: Any, expected: bool) -> None:
    assert is_list(annotation) == expected
