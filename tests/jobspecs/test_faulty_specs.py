"""Faulty specs, each with the exact file, line and column that it is sent to. Nothing but a SpecError comes out."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.fields import FieldInfo

from jobspecs.base import Section
from jobspecs.errors import SpecError
from jobspecs.fields import is_list, kinds
from jobspecs.load import load, loads
from tests.jobspecs.conftest import EXAMPLE, FULL, faults_in
from tests.jobspecs.test_schema import FREE, replaced, section_at

HERE = "⟦"
"""Stands before the place of the fault; it is taken out of the text."""
ENVIRONMENT = {"STEPS": "400", "LOTS": "lots", "DATA_ROOT": "/data", "DSN": "postgres://me:secret@host/db"}


def placed(text: str) -> tuple[str, int, int]:
    """The text without its mark; line and column of the mark."""
    before, mark, after = text.partition(HERE)
    assert mark
    assert HERE not in after
    return before + after, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


# --- generated: every field of every section ----------------------------------------------------------


def written(spec: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The sections that a spec writes down, each with its path."""
    if isinstance(spec, dict):
        yield path, spec
    if not (path and path[-1] in FREE):
        for key, child in spec.items() if isinstance(spec, dict) else enumerate(spec) if isinstance(spec, list) else ():
            yield from written(child, (*path, key))


def generated() -> Iterator[tuple[str, str]]:
    """What is wrong, and a spec that has it, with its marks: an unknown key in each section, an unknown kind, and a
    value of another type in each of its other fields."""
    done: set[str] = set()
    for overrides in FULL.values():
        job = loads(EXAMPLE, overrides=overrides)
        spec = job.model_dump(mode="json", exclude_unset=True)
        for path, content in written(spec):
            section = section_at(job, path)
            if not isinstance(section, Section) or (name := type(section).__name__) in done:
                continue
            done.add(name)
            fields = type(section).model_fields
            others = {field: f"MARK{wrong(field, fields[field])}" for field in fields if field != "kind"}
            yield f"{name}: unknown key", as_text(replaced(spec, path, {**content, "MARKzzz": 1}))
            if others:
                yield f"{name}: wrong types", as_text(replaced(spec, path, {**content, **others}))
            if kinds(type(section)):
                yield f"{name}: unknown kind", as_text(replaced(spec, path, {**content, "kind": "MARKzzz"}))


def wrong(name: str, field: FieldInfo) -> str:
    """What the field can't be."""
    return "{}" if is_list(field.annotation) else "[]" if name in FREE else "[[]]"


def as_text(spec: Any) -> str:
    text = yaml.safe_dump(spec, sort_keys=False, width=1000)
    return re.sub(r"'?MARK([^'\n:]+)'?", rf"{HERE}\1", text)


def test_every_field_that_is_wrong_is_found_to_the_column() -> None:
    specs, places = dict(generated()), 0
    for what, marked in specs.items():
        lines = marked.replace(HERE, "").splitlines()
        expected = {(n, line.index(HERE) + 1) for n, line in enumerate(marked.splitlines(), 1) if HERE in line}
        faults = faults_in("\n".join(lines))
        assert {(fault.place.line, fault.place.column) for fault in faults} == expected, what
        assert len(faults) == len(expected), what
        for place in (fault.place for fault in faults):
            line, caret = place.shown().splitlines()
            assert line == f"{place.line} | {lines[place.line - 1]}"
            assert caret.endswith(f"| {' ' * (place.column - 1)}^"), what
        places += len(expected)
    assert len(specs) > 150
    assert places > 400


# --- hand-made ----------------------------------------------------------------------------------------

FAULTY = {
    # YAML
    "a tab": "apiVersion: tandem/v1\na:\n⟦\tb: 1\n",
    "two colons": "a: b⟦: c\n",
    "an open bracket": "a: [1,\n⟦",
    "an alias without its anchor": "a: ⟦*x\n",
    "a second document": "a: 1\n⟦---\nb: 1\n",
    "a tag": "a: ⟦!!set {b}\n",
    "a key that is a list": "⟦[a]: 1\n",
    "not a mapping": "⟦- a\n- b\n",
    "a control character": "a: ⟦\0\n",
    # keys
    "a key twice": EXAMPLE.replace("seed: 0\n", "seed: 0\n⟦seed: 0\n"),
    "a key twice in flow style": EXAMPLE.replace("{workers: 2}", "{workers: 2, ⟦workers: 3}"),
    "an unknown key at the end of a line": EXAMPLE.replace("patch: 8}", "patch: 8, ⟦pacth: 8}"),
    "an unknown key of wide characters": EXAMPLE.replace("{workers: 2}", "{workers: 2, ⟦ワーカー: 1}"),
    "a section in the wrong place": EXAMPLE.replace("  steps: 400\n", "  steps: 400\n  ⟦checkpoint: {}\n"),
    "a missing key in a flow mapping": EXAMPLE.replace("  text: {kind: transformer, width: 96, layers: 3,",
        "  ⟦text: {kind: transformer, width: 96,"),
    "a missing kind": EXAMPLE.replace("  loss: {kind: infonce}", "  ⟦loss: {}"),
    "a missing key of an item": EXAMPLE.replace("- kind: zero_shot\n    name: held-out-digits\n",
        "- ⟦kind: zero_shot\n"),
    # values
    "text for a number": EXAMPLE.replace("global_batch: 128", "global_batch: ⟦lots"),
    "a number behind blanks": EXAMPLE.replace("global_batch: 128", "global_batch:     ⟦1"),
    "a value below its key": EXAMPLE.replace("  global_batch: 128", "  ⟦global_batch:\n    lots"),
    "no value": EXAMPLE.replace("  global_batch: 128", "  ⟦global_batch:"),
    "a value with a comment": EXAMPLE.replace("seed: 0", "seed: ⟦-1  # no"),
    "quotes": EXAMPLE.replace("seed: 0", "seed: ⟦'0'"),
    "an item of a flow list": EXAMPLE.replace("[0.7, 1.0]", "[0.7, ⟦x]"),
    "an item of a block list": EXAMPLE.replace(
        'urls: ["data/digits/train/{00000..00003}.tar"]', "urls:\n        - a.tar\n        - ⟦5"
    ),
    "an unknown word": EXAMPLE.replace("precision: fp32", "precision: ⟦f32"),
    "an unknown kind": EXAMPLE.replace("kind: cosine", "kind: ⟦linear"),
    "a word for a section": EXAMPLE.replace("{kind: cosine, warmup_steps: 40}", "⟦cosine"),
    "an alias": EXAMPLE.replace("seed: 0", "seed: &x 0\n").replace("cluster: {workers: 2}", "cluster: {⟦workers: *x}"),
    "behind an anchor": EXAMPLE.replace("seed: 0", "seed: ⟦&x -1"),
    # units
    "a count that is not whole": EXAMPLE.replace("steps: 400", "steps: ⟦1.0005k"),
    "a count of another unit": EXAMPLE.replace("steps: 400", "steps: ⟦12G"),
    "a negative count": EXAMPLE.replace("steps: 400", "steps: ⟦-5k"),
    "a time of another unit": EXAMPLE + "retry: {hang_after_seconds: ⟦5 minutes}\n",
    "a time that is too short": EXAMPLE + "retry: {hang_after_seconds: ⟦900ms}\n",
    "a time for whole seconds": EXAMPLE + "storage: {s3: {timeout_seconds: ⟦0s}}\n",
    "a size of another unit": EXAMPLE.replace("  text: {col",
        "  loader: {cache: {folder: /a, max_size: ⟦64MB}}\n  text: {col"),
    # rules
    "two lengths": EXAMPLE.replace("training:\n", "⟦training:\n  passes: 3\n"),
    "no length": EXAMPLE.replace("training:\n", "⟦training:\n").replace("  steps: 400\n", ""),
    "a patch that does not divide": EXAMPLE.replace("size: 32", "size: ⟦30"),
    "lanes that do not divide": EXAMPLE.replace("global_batch: 128", "global_batch: ⟦128").replace(
        "model:\n", "  lanes: 7\n\nmodel:\n", 1
    ),
    # the environment
    "a variable that is not set": EXAMPLE.replace("steps: 400", "steps: ⟦${STEPZ}"),
    "a variable in the middle of a text": EXAMPLE + "storage:\n  root: s3://⟦${BUCKET}/runs\n",
    "a variable of the wrong type": EXAMPLE.replace("steps: 400", "steps: ⟦${LOTS}"),
    "a credential by its name": EXAMPLE + "storage: {root: s3://b, s3: {region: '⟦${AWS_SECRET_ACCESS_KEY}'}}\n",
    "a credential by its value": EXAMPLE + "storage: {root: '⟦${DSN}'}\n",
    "a variable for a key": EXAMPLE + "storage:\n  ⟦${LOTS}: a\n",
    "half a reference": EXAMPLE + "storage:\n  root: a/⟦${DATA_ROOT\n",
    "a reference in a reference": EXAMPLE + "storage:\n  root: ⟦${A:-${DATA_ROOT}}\n",
    # versions
    "a newer version": EXAMPLE.replace("tandem/v1", "⟦tandem/v2"),
    "no version": EXAMPLE.replace("tandem/v1", "⟦v1"),
    # extends
    "extends a list": "extends: ⟦[a.yaml]\n" + EXAMPLE,
    "extends nothing that is there": "extends: ⟦nowhere.yaml\n" + EXAMPLE,
    "extends by a variable that is not set": "extends: ⟦${BASE}\n" + EXAMPLE,
}  # fmt: skip


def faults_of(text: str, *overrides: str) -> tuple[Any, ...]:
    with pytest.raises(SpecError) as caught:
        loads(text, "job.yaml", overrides, environment=ENVIRONMENT)
    assert "secret" not in str(caught.value)
    return caught.value.faults


@pytest.mark.parametrize("what", FAULTY)
def test_a_hand_made_fault_is_found_to_the_column(what: str) -> None:
    text, line, column = placed(FAULTY[what])
    (fault,) = faults_of(text)
    shown = [str(fault.place), fault.place.text]
    assert shown == [f"job.yaml:{line}:{column}", text.split("\n")[line - 1]], fault
    assert fault.message


@pytest.mark.parametrize(
    ("marked", "path"),
    [
        ("training.steps=⟦lots", "training.steps"),
        ("training.stepz=⟦1", "training.stepz"),
        ("data.image={size: 32, flip: ⟦2}", "data.image.flip"),
        ("evaluations+={⟦kind: knn, name: a, data: {urls: [a.tar]}}", "evaluations.1.train"),
        ("data.sources.0.urls+=⟦5", "data.sources.0.urls.1"),
        ("data.sources.0.urls+=[a.tar, ⟦5]", "data.sources.0.urls.2"),
        ("training.steps=⟦${NOT_SET}", "training.steps"),
        ("training.steps+=⟦1", ""),
        ("deepspeed+=⟦1", ""),
    ],
)
def test_a_fault_in_an_override_is_shown_in_it(marked: str, path: str) -> None:
    override, _, column = placed(marked)
    (fault,) = faults_of(EXAMPLE, override)
    assert (fault.path, fault.place.text, fault.place.line) == (path, override, 0)
    if path not in ("training.stepz", "evaluations.1.train"):  # of these the entry, not the value
        assert fault.place.column == column
    assert str(fault).splitlines()[1] == f"    --set | {override}"


def test_a_fault_is_found_in_the_file_that_it_stands_in(tmp_path: Path) -> None:
    (tmp_path / "grand.yaml").write_text(EXAMPLE.replace("layers: 4", "layers: no").replace("seed: 0", "sed: 0"))
    (tmp_path / "base.yaml").write_text("extends: grand.yaml\ntraining:\n  global_batch: lots\n  zero_stage: 7\n")
    (tmp_path / "job.yaml").write_text("extends: base.yaml\ntraining:\n  zero_stage: 2\n  optimizer: {kind: sgd}\n")
    with pytest.raises(SpecError) as caught:
        load(tmp_path / "job.yaml", ("cluster.workers=x",))
    found = [str(fault.place).replace(f"{tmp_path}/", "") for fault in caught.value.faults]
    assert sorted(found) == [
        "--set cluster.workers",
        "base.yaml:3:17",
        "grand.yaml:19:49",
        "grand.yaml:4:1",
        "job.yaml:4:21",
    ]


def test_rules_between_sections_are_told_at_once() -> None:
    text = EXAMPLE.replace("size: 32", "size: 30") + "retry: {hang_after_seconds: 700}\nmining: {model: bm25}\n"
    text = text.replace("  - kind: zero_shot\n", "  - kind: zero_shot\n    main: acc@5000\n")
    assert [fault.path for fault in faults_of(text)] == ["cluster.collective_timeout_seconds", "mining.model"]
    text = text.replace("700", "70").replace("mining: {model: bm25}\n", "")
    assert [fault.path for fault in faults_of(text)] == ["data.image.size", "evaluations.0.main"]


def test_a_line_is_shown_without_what_a_terminal_would_obey() -> None:
    (fault,) = faults_of(EXAMPLE.replace("seed: 0", f"seed: -1  # {'x' * 300}"))
    line, caret = fault.place.shown().splitlines()
    assert len(line) < 120
    assert line.index("-1") == caret.index("^")
    (fault,) = faults_of(EXAMPLE.replace("name: digits-clip", "name: ワ\N{RIGHT-TO-LEFT OVERRIDE}, seed: -1"))
    assert "\N{RIGHT-TO-LEFT OVERRIDE}" not in fault.place.shown()


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False))
def test_a_spec_that_was_mangled_is_read_or_refused(chance: random.Random) -> None:
    """Lines and words left out, doubled and swapped: nothing but a SpecError comes out, and it can be printed."""
    words = EXAMPLE.replace("\n", " \n ").split(" ")
    for _ in range(chance.randrange(1, 6)):
        at, other = chance.randrange(len(words)), chance.randrange(len(words))
        words[at : at + chance.randrange(3)] = [words[other]] * chance.randrange(3)
    for fault in faults_in(" ".join(words).replace(" \n ", "\n")):
        assert fault.place.line
        assert str(fault)


@pytest.mark.parametrize(
    ("text", "override", "words"),
    [
        ("checkpoint: {every_steps: 100}", "checkpoint.warmup_steps=1", "There is training.schedule.warmup_steps."),
        ("cluster: {workers: 2}", "training.learning_rate=1", "It is a field of training.optimizer."),
        ("seed: 0", "storage.root='${DATA_ROT}'", "Did you mean DATA_ROOT? Set it, or write ${DATA_ROT:-default}."),
    ],
)
def test_what_was_meant(text: str, override: str, words: str) -> None:
    assert text in EXAMPLE
    (fault,) = faults_of(EXAMPLE, override)
    assert fault.remedy.startswith(words)
