"""For each field of the language, generated from specs that have them all between them: unknown keys, wrong types
and missing keys are found, at their line; and the JSON schema.

The line that is expected is found by text search for a word put there, not by the parser under test.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from pydantic import ValidationError

from jobspecs.base import Section
from jobspecs.job import JobSpec
from jobspecs.load import loads
from tests.jobspecs.conftest import FULL

Wrong = Callable[..., list[str]]
Path = tuple[str | int, ...]
MARK = "MARKED"
STYLES: dict[str, Callable[[Any], str]] = {
    "block": lambda spec: yaml.safe_dump(spec, sort_keys=False, width=1000),
    "flow over lines": lambda spec: json.dumps(spec, indent=2),
}


FREE = ("settings", "deepspeed", "node_selector")
"""Mappings that may have any keys: transformers', DeepSpeed's and Kubernetes' own. What is refused in them is told in
test_model.py and test_deepspeed.py."""


@pytest.fixture(params=FULL)
def full(request: pytest.FixtureRequest, fulls: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Each of the specs in full."""
    return fulls[request.param]


def nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """All values in `value`, those in lists and mappings too, but for those in mappings that are free."""
    yield path, value
    if path and path[-1] in FREE:
        return
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def replaced(spec: Any, path: Path, value: Any) -> Any:
    """A copy of `spec` with `value` at `path`."""
    if not path:
        return value
    spec = copy.copy(spec)
    spec[path[0]] = replaced(spec[path[0]], path[1:], value) if len(path) > 1 else value
    return spec


def at(spec: Any, path: Path) -> Any:
    """The value at `path`."""
    return at(spec[path[0]], path[1:]) if path else spec


def line_of(word: str, text: str) -> int:
    (line,) = [number for number, line in enumerate(text.splitlines(), 1) if word in line]
    return line


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


OPTIONAL = re.compile(
    r"data\.(image|text|query|document|negatives|weight)|data\.sources\.\d\.(weight|index)"
    r"|data\.sources\.\d\.filters\.\d\.(at_least|at_most|one_of)|data\.image\.color|data\.loader\.cache"
    r"|model\.(image|text|query|document)|model\.\w+\.revision"
    r"|data\.\w+\.(field|tokenizer\.revision)|training\.(steps|ema)|storage\.s3\.(endpoint|region)"
    r"|retry\.max_attempts|objective\.(matryoshka|matryoshka\.weights|false_negatives\.margin)"
    r"|evaluations\.\d\.(main|side|\w+\.field|label_files\.\d\.(templates|label_field))"
    r"|mining(\.(model|every_steps|corpus|max_similarity_to_positive\.(relative|absolute)))?"
    r"|checkpoint\.(every_steps|every_minutes|keep_best|keep_every)"
    r"|cluster\.kubernetes(\.(service_account|token_secret|queue|monitoring_namespace|tolerations\.\d\.\w+))?"
    r"|stop|evaluations\.\d\.(every_checkpoints|best_only|resources)"
    r"|tracking\.(mlflow|wandb|mlflow\.uri|mlflow\.experiment|wandb\.entity)"
)
"""Fields that may be null, though they aren't in each spec in full."""


def wrong_values(path: Path, value: Any) -> list[Any]:
    """Values of other types than the field at `path`, which holds `value`."""
    if path in (("data", "lanes"), ("data", "shuffle_window")):
        return [1.5, True, None, [], {}]
    if path == ("cluster", "workers"):
        return [1.5, True, None, [], "1"]
    if "one_of" in path[:-1]:
        return [1.5, None, [], {}]
    if value is None:  # of a text, number or section
        return [True, []]
    null = [] if OPTIONAL.fullmatch(dotted(path)) else [None]
    match value:
        case bool():
            return ["true", 1, 0.0, [], {}, *null]
        case int():
            return ["1", 1.5, True, [], {}, *null]
        case float():
            return ["1", True, [], {}, *null]
        case str():
            return [1, 1.5, True, [], {}, *null]
        case list():
            return ["1", 1, True, {}, *null]
        case _:
            return ["1", 1, True, [], *null]


@pytest.mark.parametrize("style", STYLES)
def test_a_wrong_type_is_found_at_its_line(wrong: Wrong, full: dict[str, Any], style: str) -> None:
    """Many at once: all nodes of one depth. A wrong `kind` hides what stands beside it, and comes alone."""
    batches: dict[object, list[tuple[Path, Any]]] = {}
    for path, value in nodes(full):
        if path:
            hides = path[-1] == "kind"
            batches.setdefault((len(path), hides), []).append((path, value))
    for batch, turn in itertools.product(batches.values(), range(6)):
        marked: Any = full
        for number, (path, _) in enumerate(batch):
            marked = replaced(marked, path, f"{MARK}{number:03}")
        text = STYLES[style](marked)
        expected = {}
        for number, (path, value) in enumerate(batch):
            mark, others = f"{MARK}{number:03}", wrong_values(path, value)
            given = json.dumps(others[turn % len(others)])
            expected[f"job.yaml:{line_of(mark, text)} ({dotted(path)})"] = given
            text = text.replace(f'"{mark}"', mark).replace(mark, given)
        faults = [fault.partition("): ") for fault in wrong(text)]
        assert sorted(f"{place})" for place, _, _ in faults) == sorted(expected)
        for place, _, message in faults:
            assert message.startswith("should "), message
            assert f", given: {expected[f'{place})']}" in message


@pytest.mark.parametrize("style", STYLES)
def test_an_unknown_key_is_found_in_each_section(wrong: Wrong, full: dict[str, Any], style: str) -> None:
    sections = [path for path, value in nodes(full) if isinstance(value, dict) and (not path or path[-1] not in FREE)]
    marked: Any = full
    for number, path in reversed([*enumerate(sections)]):
        marked = replaced(marked, path, at(marked, path) | {f"{MARK}{number:03}": 1})
    text = STYLES[style](marked)
    faults = {fault.partition(": ")[0]: fault for fault in wrong(text)}
    assert len(faults) == len(sections)
    for number, path in enumerate(sections):
        key = f"{MARK}{number:03}"
        fault = faults[f"job.yaml:{line_of(key, text)} ({dotted((*path, key))})"]
        assert f": unknown key {key!r}\n" in fault
        allowed = fault.partition("Allowed here: ")[2].removesuffix(".").split(", ")
        assert set(allowed) == at(full, path).keys(), "the spec in full holds every field"


REQUIRED = {
    "KeepBest": {"evaluation"},
    "EarlyStop": {"evaluation", "patience"},
    "JobSpec": {"apiVersion", "name", "objective", "data", "model", "training"},
    "ImageText": {"kind"},
    "TwoView": {"kind"},
    "TextText": {"kind"},
    "PairInfoNCE": {"kind"},
    "SigLip": {"kind"},
    "NTXent": {"kind"},
    "TextInfoNCE": {"kind"},
    "Matryoshka": {"dims"},
    # The columns and the towers are those of the objective.
    "Data": {"sources", "image", "text", "query", "document"},
    "Source": {"urls", "weight"},
    "Filter": {"field"},
    "BytesTokenizer": {"kind"},
    "BpeTokenizer": {"kind"},
    "PretrainedTokenizer": {"kind", "name"},
    "Weight": {"field"},
    "Cache": {"folder", "max_size"},
    "Model": {"image", "text"},
    "ImageTransformer": {"kind", "width", "layers", "heads", "patch"},
    "TextTransformer": {"kind", "width", "layers", "heads"},
    "ImagePreset": {"kind", "name"},
    "TextPreset": {"kind", "name"},
    "ImageConfig": {"kind", "architecture"},
    "TextConfig": {"kind", "architecture"},
    "ImagePretrained": {"kind", "name"},
    "TextPretrained": {"kind", "name"},
    "Training": {"global_batch"},
    "AdamW": {"kind"},
    "Lamb": {"kind", "learning_rate"},
    "Cosine": {"kind"},
    "Constant": {"kind"},
    "Rsqrt": {"kind"},
    "ZeroShot": {"kind", "name", "data", "class_names"},
    "Retrieval": {"kind", "name", "data"},
    "Knn": {"kind", "name", "data", "train"},
    "LinearProbe": {"kind", "name", "data", "train"},
    "LabelFile": {"name", "uri"},
    "Sts": {"kind", "name", "data"},
    "Health": {"kind", "name", "data"},
    "EvaluationData": {"urls"},
    "WorkerRange": {"min", "max"},
    "Kubernetes": {"image"},
    "Toleration": {"key"},
    "Claim": {"claim", "path"},
    "Wandb": {"project"},
}
"""Keys that can't be left out, by section."""

RULED = {
    "data.negatives",
    "mining.model",
    "mining.before_training",
    "training.steps",
    "data.text.column",
    "data.image.views",
    "data.text.tokenizer",
    "objective.loss",
    "model.query",
    "model.document",
    "evaluations.0.every_checkpoints",
}
"""Fields without which another one is at fault, which rules of their own say."""


def test_a_missing_key_is_found_at_its_section(wrong: Wrong, fulls: dict[str, dict[str, Any]]) -> None:
    required: dict[str, set[str]] = {}
    tried: set[str] = set()
    as_text = STYLES["block"]
    for name, full in fulls.items():
        spec = loads(json.dumps(full))
        for path, section in nodes(full):
            if not isinstance(section, dict) or (path and path[-1] in FREE):
                continue
            title = type(section_at(spec, path)).__name__
            if title in tried and title not in ("Data", "Model"):
                continue
            tried.add(title)
            line = line_of(MARK, as_text(replaced(full, path, MARK))) if path else 1
            for key in section:
                faults = wrong(as_text(replaced(full, path, {k: v for k, v in section.items() if k != key})))
                where = dotted((*path, key))
                if faults and where not in RULED:
                    assert len(faults) == 1
                    assert faults[0].startswith(f"job.yaml:{line} ({where}): {key!r} is missing"), (name, faults)
                    assert "\n    " in faults[0], "a remedy"
                    required.setdefault(title, set()).add(key)
    assert required == REQUIRED


def section_at(spec: Any, path: Path) -> Any:
    """The section of `spec` at `path`."""
    for key in path:
        spec = spec[key] if isinstance(key, int) else getattr(spec, key)
    return spec


def sections_in(annotation: Any) -> set[type[Section]]:
    """The sections of which a value of this type can consist."""
    if not (isinstance(annotation, type) and issubclass(annotation, Section)):
        return {section for argument in get_args(annotation) for section in sections_in(argument)}
    fields = annotation.model_fields.values()
    return {annotation}.union(*(sections_in(field.annotation) for field in fields))


def test_the_specs_in_full_have_every_section(fulls: dict[str, dict[str, Any]]) -> None:
    there = {type(section) for full in fulls.values() for section in sections_of(loads(json.dumps(full)))}
    assert there == sections_in(JobSpec)
    assert len(there) > 50


def sections_of(value: Any) -> Iterator[Section]:
    if isinstance(value, Section):
        yield value
        for name in type(value).model_fields:
            yield from sections_of(getattr(value, name))
    elif isinstance(value, list):
        for item in value:
            yield from sections_of(item)


def test_frozen(full: dict[str, Any]) -> None:
    sections = list(sections_of(loads(json.dumps(full))))
    assert len(sections) > 15
    for section in sections:
        for name in type(section).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(section, name, getattr(section, name))
        with pytest.raises(ValidationError):
            section.unknown = 1  # type: ignore[attr-defined]


def test_the_defaults_are_valid(full: dict[str, Any]) -> None:
    """Pydantic doesn't check defaults; the example in full holds all of them, written out."""
    assert loads(json.dumps(full)).model_dump(mode="json") == full


def test_every_field_is_described() -> None:
    schema = JobSpec.model_json_schema()
    sections = {"JobSpec": schema, **schema["$defs"]}
    assert sections.pop("JsonValue") == {}, "any value, of an architecture's settings"
    bare = [
        f"{title}.{name}"
        for title, section in sections.items()
        for name, field in section["properties"].items()
        if not field.get("description")
    ]
    assert not bare
    assert not [title for title, section in sections.items() if section["additionalProperties"]]
    assert schema["properties"]["name"]["pattern"].startswith("^[a-z0-9]")


def test_the_specs_in_full_fit_the_json_schema(full: dict[str, Any]) -> None:
    schema = JobSpec.model_json_schema()
    unknown = misfits(full, schema, schema)
    assert not unknown
    assert misfits(full | {"seed": "x", "extra": 1}, schema, schema) == [
        "extra is unknown",
        "seed is no integer",
    ]
    validator = jsonschema.Draft202012Validator(schema)  # an independent judge
    assert list(validator.iter_errors(full)) == []
    for size, fits in ((1, True), ("200 GiB", True), (0, False), ("200 GB", False), (1.5, False)):
        cached = replaced(full, ("data", "loader", "cache"), {"folder": "/a", "max_size": size})
        assert validator.is_valid(cached) == fits
    assert len(list(validator.iter_errors(full | {"seed": "x", "extra": 1, "name": "A"}))) == 3


TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,),
    "integer": (int,), "number": (int, float), "null": (type(None),),
}  # fmt: skip


def misfits(value: Any, schema: dict[str, Any], root: dict[str, Any], path: str = "") -> list[str]:
    """What of `value` the schema's keys, types and references don't allow (no bounds, no patterns)."""
    if "$ref" in schema:
        return misfits(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    for options in (schema.get("anyOf"), schema.get("oneOf")):
        if options:
            return min((misfits(value, option, root, path) for option in options), key=len)
    wanted = schema.get("type", "")
    if not isinstance(value, TYPES[wanted]) or (isinstance(value, bool) and wanted != "boolean"):
        return [f"{path} is no {wanted}"]
    if "pattern" in schema and not re.search(schema["pattern"], value):
        return [f"{path} does not match {schema['pattern']}"]
    if "const" in schema and value != schema["const"]:
        return [f"{path} is not {schema['const']!r}"]
    if wanted == "array":
        return [
            fault for number, item in enumerate(value)
            for fault in misfits(item, schema["items"], root, f"{path}.{number}")
        ]  # fmt: skip
    if wanted != "object":
        return []
    properties = schema.get("properties")
    if properties is None:  # a free mapping
        return []
    return [
        *(f"{path}.{key} is unknown".lstrip(".") for key in value if key not in properties),
        *(f"{path}.{key} is missing".lstrip(".") for key in schema.get("required", ()) if key not in value),
        *(
            fault for key, field in properties.items() if key in value
            for fault in misfits(value[key], field, root, f"{path}.{key}".lstrip("."))
        ),
    ]  # fmt: skip
