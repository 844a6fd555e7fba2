"""YAML -> JobSpec. Every fault is reported at once, each with its file, line and column and a remedy.

Goes in: a path and the `--set` overrides. Comes out: a `JobSpec`, or a `SpecError` with all faults.
Called by every command that takes a spec. The steps, each in a file of its own:

    yaml_places   text -> plain values and their places, the environment's values in them
    versions      older versions of the language -> this one
    extends       the file that it extends, below it
    overrides     `--set`, over it
    job           plain values -> JobSpec
    faults        what pydantic says -> places, words, remedies
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from jobspecs.base import Section
from jobspecs.environment import escape
from jobspecs.errors import Fault, SpecError
from jobspecs.extends import extended
from jobspecs.faults import faults_of, wants_text
from jobspecs.job import JobSpec
from jobspecs.overrides import lay_override
from jobspecs.places import Place
from jobspecs.redaction import secret_in
from jobspecs.versions import migrate
from jobspecs.yaml_places import Document, KeyPath, dotted, parse


def load(path: str | Path, overrides: tuple[str, ...] = (), environment: Mapping[str, str] | None = None) -> JobSpec:
    """The spec in the file `path`, with `overrides` (`training.steps=100`) laid over it; `environment` has the
    variables that it names, those of this process by default.

    Raises SpecError: no such file, not YAML, or faults in it.
    """
    path, environment = Path(path), os.environ if environment is None else environment
    read = partial(_read, environment=environment)
    try:
        document = read(path)
    except OSError as error:
        fault = Fault(Place(str(path)), f"can't be read: {error.strerror}", "Give the path of a YAML file.")
        raise SpecError((fault,)) from error
    return _checked(extended(document, path.parent, read, (path.resolve(),)), overrides, environment)


def loads(
    text: str, name: str = "<spec>", overrides: tuple[str, ...] = (), environment: Mapping[str, str] | None = None
) -> JobSpec:
    """The spec in `text`; `name` stands for the file in error messages, and a path that it extends is relative to the
    current folder. Raises SpecError."""
    environment = os.environ if environment is None else environment
    read = partial(_read, environment=environment)
    document = extended(_document(text, name, environment), Path(), read, ())
    return _checked(document, overrides, environment)


def _read(path: Path, environment: Mapping[str, str]) -> Document:
    """Raises OSError, SpecError."""
    try:
        return _document(path.read_text(encoding="utf-8"), str(path), environment)
    except UnicodeDecodeError as error:
        fault = Fault(Place(str(path)), "can't be read: it is not UTF-8 text", "Save it as UTF-8 text.")
        raise SpecError((fault,)) from error


def _document(text: str, name: str, environment: Mapping[str, str]) -> Document:
    """What one file says, in the newest version of the language."""
    document = parse(text, name, environment)
    if document.value is None:
        document.value = {}
    if not isinstance(document.value, dict):
        fault = Fault(document.entry(()), "a spec is a mapping of `key: value` lines", "`tandem init` shows examples.")
        raise SpecError((fault,))
    migrate(document)
    return document


def _checked(document: Document, overrides: tuple[str, ...], environment: Mapping[str, str]) -> JobSpec:
    wrong = [fault for override in overrides for fault in lay_override(document, override, environment)]
    faults = [*document.faults, *wrong]
    try:
        spec = _validated(document)
    except ValidationError as error:
        faults += faults_of(error, document)
    secrets = _secrets(document, document.value)
    faults = [fault for fault in faults if fault.path not in {secret.path for secret in secrets}] + secrets
    if faults:
        raise SpecError(_in_order(faults))
    return spec


def _secrets(document: Document, value: Any, path: KeyPath = ()) -> list[Fault]:
    """A fault for each text in `value`, which stands at `path`, with a secret in it."""
    if isinstance(value, dict | list):
        children = value.items() if isinstance(value, dict) else enumerate(value)
        return [fault for key, child in children for fault in _secrets(document, child, (*path, key))]
    kind = secret_in(value) if isinstance(value, str) else None
    if kind is None:
        return []
    remedy = "Specs are kept and shown. Credentials come from the environment or the cloud's role: see SECURITY.md."
    return [Fault(document.place(path), f"{kind} has no place in a spec", remedy, dotted(path))]


def _in_order(faults: list[Fault]) -> tuple[Fault, ...]:
    """As somebody reads who mends them: file after file from top to bottom, then the overrides."""
    files = list(dict.fromkeys(fault.place.name for fault in faults))

    def key(fault: Fault) -> tuple[bool, int, int, int]:
        place = fault.place
        return place.line == 0, files.index(place.name), place.line, place.column

    return tuple(sorted(faults, key=key))


def _validated(document: Document) -> JobSpec:
    """Raises ValidationError."""
    try:
        # In JSON, strict validation takes an integer for a float and nothing else that it should not.
        return JobSpec.model_validate_json(json.dumps(document.value))
    except ValidationError as error:
        meant = [path for path in wants_text(error) if path in document.texts]
        if not meant:
            raise
        for path in meant:
            _put(document, path, document.texts.pop(path))
        return _validated(document)


def _put(document: Document, path: KeyPath, value: str) -> None:
    here = document.value
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value


def dumps(spec: JobSpec) -> str:
    """`spec` as YAML that `loads` reads back to an equal one. Text is quoted: other readers, too, are not
    to take the name "1e3" for a number. No part of it is taken for a variable of the environment."""
    stated = _without_null_defaults(spec, spec.model_dump(mode="json"))
    return yaml.dump(stated, Dumper=_Quoting, sort_keys=False)


def _without_null_defaults(value: Any, dumped: Any) -> Any:
    """`value` as it was `dumped`, without each null that is its field's default. Any other null is said: it does not
    go without saying."""
    if isinstance(value, Section):
        return {
            name: _without_null_defaults(getattr(value, name), dumped[name])
            for name, field in type(value).model_fields.items()
            if dumped[name] is not None or field.default is not None
        }
    if isinstance(value, list):
        return [_without_null_defaults(*pair) for pair in zip(value, dumped, strict=True)]
    return dumped


class _Quoting(yaml.SafeDumper):
    pass


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", escape(text), style='"')


_Quoting.add_representer(str, _quoted)
