"""YAML -> JobSpec. Every fault is reported at once, each with its file and line and a remedy.

Goes in: a path and the `--set` overrides. Comes out: a `JobSpec`, or a `SpecError` with all faults.
Called by every command that takes a spec.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from jobspecs.errors import Fault, SpecError
from jobspecs.faults import faults_of
from jobspecs.job import JobSpec
from jobspecs.yaml_places import Document, KeyPath, dotted, parse


def load(path: str | Path, overrides: tuple[str, ...] = ()) -> JobSpec:
    """The spec in the file `path`, with `overrides` (`training.steps=100`) laid over it.

    Raises SpecError: no such file, not YAML, or faults in it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        fault = Fault(str(path), f"can't be read: {reason}", "Give the path of a YAML file.")
        raise SpecError((fault,)) from error
    return loads(text, str(path), overrides)


def loads(text: str, name: str = "<spec>", overrides: tuple[str, ...] = ()) -> JobSpec:
    """The spec in `text`; `name` stands for the file in error messages. Raises SpecError."""
    document = parse(text, name)
    if document.value is None:
        document.value = {}
    if not isinstance(document.value, dict):
        fault = Fault(f"{name}:1", "a spec is a mapping of `key: value` lines", "See jobspecs/examples.")
        raise SpecError((fault,))
    faults = [*document.faults]
    for override in overrides:
        faults += _override(document, override)
    try:
        # In JSON, strict validation takes an integer for a float and nothing else that it should not.
        spec = JobSpec.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        faults += faults_of(error, document)
    if faults:
        raise SpecError(tuple(faults))
    return spec


def dumps(spec: JobSpec) -> str:
    """`spec` as YAML that `loads` reads back to an equal one. Text is quoted: other readers, too, are not
    to take the name "1e3" for a number."""
    return yaml.dump(spec.model_dump(mode="json", exclude_none=True), Dumper=_Quoting, sort_keys=False)


class _Quoting(yaml.SafeDumper):
    pass


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _override(document: Document, override: str) -> list[Fault]:
    """Sets one `path.to.field=value` in the document; the value is YAML. Comes out: what is wrong with it.

    Sections that the file leaves out are made on the way; items of lists are not.
    """
    keys, equals, text = override.partition("=")
    parts = keys.strip().split(".")
    if not equals or not all(parts):
        example = "For example --set training.steps=100."
        return [Fault(f"--set {override}", "an override is path.to.field=value", example)]
    place = f"--set {keys.strip()}"
    try:
        given = parse(text, place)
    except SpecError as error:
        message = f"the value can't be read: {error.faults[0].message}"
        return [Fault(place, message, "Quote it for YAML, and the whole for the shell.")]
    if given.faults:
        return [Fault(place, given.faults[0].message, given.faults[0].remedy)]

    here: Any = document.value
    path: KeyPath = ()
    for part in parts[:-1]:
        key = _key(here, part)
        if key is None:
            return [_no_such_place(place, path, part, here)]
        path = (*path, key)
        if isinstance(here, dict) and key not in here:
            here[key] = {}
            document.places[path] = place
        here = here[key]
    last = _key(here, parts[-1])
    if last is None:
        return [_no_such_place(place, path, parts[-1], here)]
    here[last] = given.value
    document.forget((*path, last))
    document.places[*path, last] = place
    return []


def _key(container: Any, part: str) -> str | int | None:
    """`part` as a key of `container`, or None where it can't be one."""
    if isinstance(container, dict):
        return part
    is_index = isinstance(container, list) and part.isascii() and part.isdigit()
    return int(part) if is_index and int(part) < len(container) else None


def _no_such_place(place: str, path: KeyPath, part: str, container: Any) -> Fault:
    remedy = f"{dotted(path)} is a single value."
    if isinstance(container, list):
        remedy = f"{dotted(path)} is a list of {len(container)}, counted from 0."
    return Fault(place, f"there is no {dotted((*path, part))} in the spec", remedy)
