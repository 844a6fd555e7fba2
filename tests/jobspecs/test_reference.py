"""The schema for editors, the examples of fields, and the pages that are made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest
from pydantic import TypeAdapter

import jobspecs
from jobspecs import reference
from jobspecs.errors import UsageError
from jobspecs.field_examples import _WRITTEN, examples_of
from jobspecs.fields import paths_of
from jobspecs.job import JobSpec
from jobspecs.load import loads
from jobspecs.schema import HEADER, json_schema
from jobspecs.starters import SCHEMA, about, starter, starters, write_spec
from jobspecs.yaml_places import parse
from tests.jobspecs.conftest import EXAMPLE
from tests.jobspecs.test_schema import sections_in

HERE = Path(jobspecs.__path__[0])


def test_the_pages_are_current(capsys: pytest.CaptureFixture[str]) -> None:
    assert reference.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_that_is_not_current_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "language.md").write_text("# Other\n")
    monkeypatch.setattr(reference, "_HERE", tmp_path)
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == "".join(
        f"{tmp_path}/{name} is not current: run `make reference`\n" for name in ("README.md", "schema.json")
    )
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0


def test_the_page_has_every_field_and_its_links_lead_somewhere() -> None:
    page = (HERE / "README.md").read_text()
    fields = {name for section in sections_in(JobSpec) for name in section.model_fields}
    assert not [name for name in fields if f"| `{name}` |" not in page]
    anchors = set(re.findall(r'<a id="(\w+)">', page))
    assert set(re.findall(r"\]\(#(\w+)\)", page)) == anchors - {"JobSpec"}


def test_every_field_has_an_example_that_is_right() -> None:
    used = set()
    for section in sections_in(JobSpec):
        for name, field in section.model_fields.items():
            used |= {f"{each.__name__}.{name}" for each in section.__mro__}
            used.add(section.__name__)
            adapter: TypeAdapter[object] = TypeAdapter(field.rebuild_annotation())
            for example in examples_of(section, name):
                adapter.validate_json(json.dumps(example), strict=True)
    assert _WRITTEN.keys() <= used


def test_the_schema_takes_what_a_file_may_say() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    for text in (EXAMPLE, *starters().values()):
        assert list(validator.iter_errors(parse(text, "f").value)) == []
    spec = parse(EXAMPLE, "f").value
    for path, value, fits in (
        ("extends", "base.yaml", True),
        ("name", "${NAME}", True),
        ("seed", "${SEED:-1}", True),
        ("seed", "SEED", False),
        ("seed", "1k", True),
        ("retry", {"hang_after_seconds": "30m"}, True),
        ("retry", {"hang_after_seconds": "30 min"}, False),
        ("training", {"global_batch": 2, "steps": 1, "passes": 1}, False),
        ("training", {"global_batch": 2, "steps": None, "passes": 1}, True),
        ("training", {"global_batch": 2}, False),
    ):
        assert validator.is_valid(spec | {path: value}) == fits, (path, value)
    assert validator.is_valid({"extends": "base.yaml", "training": {"schedule": {"warmup_steps": 5}}})
    assert not validator.is_valid({"training": {"steps": 5}})
    assert not validator.is_valid({"extends": "base.yaml", "training": {"stepz": 5}})


def test_every_example_names_the_schema_to_editors() -> None:
    for path in (HERE / "examples").glob("*.yaml"):
        first = path.read_text().splitlines()[0]
        assert (path.parent / first.removeprefix(HEADER)).resolve() == HERE / "schema.json"


def test_fields_by_name() -> None:
    assert paths_of(JobSpec, "zero_stage") == ["training.zero_stage"]
    assert paths_of(JobSpec, "at_least") == ["data.sources.filters.at_least"]


# --- starters -----------------------------------------------------------------------------------------


def test_an_example_is_copied(tmp_path: Path) -> None:
    write_spec(starter("digits_clip"), tmp_path / "mine.yaml")
    text = (tmp_path / "mine.yaml").read_text()
    assert text.startswith(f"{HEADER}{SCHEMA}\n# CLIP from scratch")
    assert loads(text).name == "digits-clip"
    assert json.loads((tmp_path / SCHEMA).read_text()) == json_schema()
    with pytest.raises(UsageError, match=r"mine\.yaml is there already\. Give another name, or remove it\."):
        write_spec("", tmp_path / "mine.yaml")
    with pytest.raises(UsageError, match="can't be written: No such file or directory"):
        write_spec("", tmp_path / "nowhere" / "mine.yaml")


def test_examples_by_name() -> None:
    assert {name: about(text) for name, text in starters().items()}["digits_clip"] == (
        "CLIP from scratch on scikit-learn's scanned digits"
    )
    assert starter("digits_clip.yaml") == starter("digits_clip")
    with pytest.raises(UsageError, match=r"'digit_clip'\. Did you mean digits_clip\? Examples: digits_clip, "):
        starter("digit_clip")
