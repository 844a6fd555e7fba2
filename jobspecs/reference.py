"""The generated files: `README.md`, the reference of the language, and `schema.json`, which editors read.

    python -m jobspecs.reference            writes both
    python -m jobspecs.reference --check    says, with exit code 1, which of them is not current

`README.md` is `language.md` with a table of each section, out of the schema: descriptions are those beside the fields.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobspecs.fields import is_list, kinds, sections_at
from jobspecs.job import JobSpec
from jobspecs.schema import Schema, described, json_schema

_HERE = Path(__file__).parent


def page() -> str:
    """The text of `README.md`."""
    sections, places = described(), _places()
    parts = [(_HERE / "language.md").read_text(encoding="utf-8").rstrip()]
    for name, at in places.items():
        parts.append("\n".join(_section(name, at, sections)))
    return "<!-- Made by `make reference` out of language.md and the sources. -->\n" + "\n\n".join(parts) + "\n"


def schema_text() -> str:
    """The text of `schema.json`: a line a section."""
    schema = json_schema()
    sections = ",\n".join(f"{json.dumps(name)}: {_compact(section)}" for name, section in schema.pop("$defs").items())
    return f'{_compact(schema)[:-1]}, "$defs": {{\n{sections}\n}}}}\n'


def _places() -> dict[str, list[str]]:
    """Where each section can stand, by the name of its class: `data.sources[]`."""
    found: dict[str, list[str]] = {}

    def walk(section: type[Any], path: str) -> None:
        found.setdefault(section.__name__, []).append(path)
        for name, field in section.model_fields.items():
            items = "[]" if is_list(field.annotation) else ""
            for each in sections_at(field.annotation):
                kind = f" ({', '.join(kinds(each))})" if kinds(each) else ""
                walk(each, f"{path.partition(' (')[0]}.{name}{items}{kind}".lstrip("."))

    walk(JobSpec, "")
    return found


def _section(name: str, places: list[str], sections: dict[str, Schema]) -> Iterator[str]:
    schema = sections[name]
    yield f'## <a id="{name}"></a>{_title(places)}'
    yield ""
    yield _in_cell(schema.get("description", ""))
    yield ""
    yield "| field | type | default | |"
    yield "|---|---|---|---|"
    for field, described_field in schema["properties"].items():
        default = _default(field, described_field, schema)
        example = f" Example: `{_compact(described_field['examples'][0])}`." if _wants_example(described_field) else ""
        text = f"{_in_cell(described_field['description'])}{example}"
        yield f"| `{field}` | {_type(described_field)} | {default} | {text} |"


def _title(places: list[str]) -> str:
    shown = [place or "The spec" for place in dict.fromkeys(places)]
    return ", ".join(f"`{place}`" if place != "The spec" else place for place in shown)


def _default(field: str, schema: Schema, section: Schema) -> str:
    if field in section.get("required", ()):
        return "—"
    default = schema.get("default")
    if isinstance(default, dict) and default:
        kind = default.get("kind")
        return f"`{{kind: {kind}}}`" if kind else "its defaults"
    return f"`{_compact(default)}`"


def _wants_example(schema: Schema) -> bool:
    """Whether the table says more with one: not where it shows the default, or all values."""
    return schema.get("default") in (None, [], {}, "") and not ({"enum", "const", "$ref", "oneOf"} & schema.keys())


def _type(schema: Schema) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return "any JSON" if name == "JsonValue" else f"[{name}](#{name})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_type(each) for each in schema[key] if not _is_spelling(each)))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema['items'])}"
        case "object":
            return "mapping"
        case "string":
            return "text"
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number" as kind:
            return " ".join(filter(None, ("integer" if kind == "integer" else "number", _bounds(schema))))
        case other:
            return str(other)


def _is_spelling(schema: Schema) -> bool:
    """Whether it is another spelling of a number: `12.8M`."""
    return schema.get("type") == "string" and "pattern" in schema


def _bounds(schema: Schema) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Writes the files, or with `--check` compares them; the exit code."""
    made = {_HERE / "README.md": page(), _HERE / "schema.json": schema_text()}
    if arguments == ["--check"]:
        stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
        for path in stale:
            print(f"{path} is not current: run `make reference`", file=sys.stderr)
        return 1 if stale else 0
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
