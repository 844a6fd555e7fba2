"""The class names of a zero-shot classification, out of the spec or of files that it names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jobspecs.errors import DataError
from jobspecs.evaluation import LabelFile, ZeroShot
from workers.storage import Storage, absolute


@dataclass(frozen=True)
class LabelSet:
    """Names of classes, in the order of the labels, and prompts for them."""

    name: str | None
    """Of its file; None for the names that stand in the spec."""
    class_names: list[str]
    templates: list[str]
    label_field: str


def label_sets(spec: ZeroShot, storage: Storage) -> list[LabelSet]:
    """Those in the spec, or each of its files'. Raises DataError, StorageError."""
    if not spec.label_files:
        return [LabelSet(None, spec.class_names, spec.templates, spec.label_field)]
    return [_read(spec, file, storage) for file in spec.label_files]


def _read(spec: ZeroShot, file: LabelFile, storage: Storage) -> LabelSet:
    where = f"evaluation {spec.name!r}: {file.uri}"
    try:
        text = storage.read(absolute(file.uri)).decode("utf-8")
        found = json.loads(text) if file.uri.endswith(".json") else text.splitlines()
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where} can't be read. Write UTF-8: a name a line, or JSON in a file that ends in .json."
        ) from error
    given: Any = found if isinstance(found, dict) else {"class_names": found}
    names, templates = given.get("class_names"), file.templates or given.get("templates") or spec.templates
    if not _are_texts(names) or len(names) < 2 or not all(name.strip() for name in names):
        raise DataError(
            f"{where} holds no class names. Write two at least and none that is empty: a name a line, or as JSON a "
            'list or {"class_names": […], "templates": […]}.'
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{where}: class names are unique; more than once: {', '.join(twice)}. Make each unlike.")
    if not _are_texts(templates) or not all(template.count("{}") == 1 for template in templates):
        raise DataError(f"{where}: its templates are no list of texts with one {{}} each for the class name.")
    return LabelSet(file.name, names, templates, file.label_field or spec.label_field)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)
