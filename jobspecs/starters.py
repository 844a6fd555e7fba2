"""The specs that users start from: `jobspecs/examples`, by name, and a file of one's own made of one."""

from __future__ import annotations

import difflib
import json
import re
from importlib.resources import files
from pathlib import Path

from jobspecs.errors import UsageError
from jobspecs.schema import HEADER, json_schema

SCHEMA = "tandem.schema.json"
"""Name of the schema that stands beside a new spec."""


def starters() -> dict[str, str]:
    """Text of each example by name, without the line for editors."""
    found = (path for path in files("jobspecs.examples").iterdir() if path.name.endswith(".yaml"))
    return {path.name.removesuffix(".yaml"): _body(path.read_text(encoding="utf-8")) for path in sorted(found, key=str)}


def about(text: str) -> str:
    """What an example says of itself: its comment up to the first full stop or colon."""
    comment = text.partition("\n#\n")[0].replace("\n#", "").removeprefix("#")
    return re.split(r"[.:](?:\s|$)", " ".join(comment.split()), maxsplit=1)[0]


def starter(name: str) -> str:
    """The text of an example. Raises UsageError: there is none of that name."""
    known = starters()
    name = name.removesuffix(".yaml")
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UsageError(f"there is no example {name!r}. {hint}Examples: {', '.join(known)}.")
    return known[name]


def write_spec(text: str, path: Path) -> None:
    """Writes a new spec, and beside it the schema that its first line names to editors.

    Raises UsageError: there is a file of that name, or it can't be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"{HEADER}{SCHEMA}\n{text}")
        (path.parent / SCHEMA).write_text(json.dumps(json_schema()), encoding="utf-8")
    except FileExistsError as error:
        raise UsageError(f"{path} is there already. Give another name, or remove it.") from error
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}. Give the path of a new file.") from error


def _body(text: str) -> str:
    return text.partition("\n")[2] if text.startswith(HEADER) else text
