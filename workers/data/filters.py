"""Filters on metadata: which samples of a source are kept. Typed comparisons; nothing is evaluated as code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jobspecs.data import Filter, Source


def keeps(filters: list[Filter], metadata: Mapping[str, Any]) -> bool:
    """Whether a sample with this `metadata` fulfils all `filters`."""
    return all(_holds(filter_, field_of(metadata, filter_.field)) for filter_ in filters)


def field_of(metadata: Any, path: str) -> Any:
    """The value at a dotted `path`, None where there is none. A key that holds dots itself goes first."""
    if isinstance(metadata, Mapping):
        if path in metadata:
            return metadata[path]
        first, dot, rest = path.partition(".")
        return field_of(metadata.get(first), rest) if dot else None
    return None


def canonical(source: Source) -> str:
    """The filters of a source as text: an index made with equal ones has the same samples."""
    if not source.filters:
        return ""
    filters = [filter_.model_dump(mode="json", exclude_none=True) for filter_ in source.filters]
    return json.dumps({"metadata": source.metadata, "filters": filters}, sort_keys=True, separators=(",", ":"))


def _holds(filter_: Filter, value: Any) -> bool:
    if filter_.one_of is not None and not any(_equal(value, wanted) for wanted in filter_.one_of):
        return False
    if filter_.at_least is None and filter_.at_most is None:
        return value is not None
    number = _number(value)
    if number is None:
        return False
    return (filter_.at_least is None or number >= filter_.at_least) and (
        filter_.at_most is None or number <= filter_.at_most
    )


def _equal(value: Any, wanted: str | int | bool) -> bool:
    """Python takes True for 1; a filter does not."""
    return isinstance(value, bool) == isinstance(wanted, bool) and bool(value == wanted)


def _number(value: Any) -> float | None:
    """Numbers also where they stand in quotes, as some writers of metadata do; NaN fails every comparison."""
    if isinstance(value, bool):
        return None
    try:
        return value if isinstance(value, int) else float(value)  # some integers are too long for a float
    except (TypeError, ValueError):
        return None
