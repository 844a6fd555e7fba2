"""The YAML dialect, the place of each value, and what is refused before a spec is looked at."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobspecs.errors import SpecError
from jobspecs.yaml_places import parse
from tests.jobspecs.conftest import in_words


def value(text: str) -> object:
    document = parse(text, "f")
    assert not document.faults
    return document.value


def refusal(text: str) -> str:
    with pytest.raises(SpecError) as caught:
        parse(text, "f")
    (fault,) = caught.value.faults
    return in_words(fault)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e-3", 1e-3),
        ("1E+3", 1e3),
        (".5", 0.5),
        ("5.", 5.0),
        ("1_000.5", 1000.5),
        ("-1_000", -1000),
        ("+7", 7),
        ("0", 0),
        ("0.10", 0.1),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("# a comment only", None),
        ("1e999", math.inf),
        ("\ufeff12", 12),
        # Text, whatever YAML 1.1 takes it for.
        ("no", "no"),
        ("on", "on"),
        ("True", "True"),
        ("12:30:00", "12:30:00"),
        ("2024-01-31", "2024-01-31"),
        ("2024-01-31T10:00:00Z", "2024-01-31T10:00:00Z"),
        ("0x10", "0x10"),
        ("0o17", "0o17"),
        ("010", "010"),
        ("007.5", "007.5"),
        ("1.2.3", "1.2.3"),
        (".nan", ".nan"),
        ("-.inf", "-.inf"),
        ("=", "="),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("!!int '12'", 12),
        ("{12: a, true: b, ~: c}", {"12": "a", "true": "b", "~": "c"}),
        ("a: {'<<': 1}", {"a": {"<<": 1}}),
    ],
)
def test_the_dialect(text: str, expected: object) -> None:
    got = value(text)
    assert got == expected
    assert type(got) is type(expected)


def test_places() -> None:
    document = parse(
        """\
a:
  b: [1,
      2]
  c: {d: 1,
      e: 2, f:
        3}
g:
  -
    h: 1
  - |
    text
""",
        "f",
    )
    assert {path: str(place) for path, place in document.entries.items()} == {
        (): "f:1:1",
        ("a",): "f:1:1",
        ("a", "b"): "f:2:3",
        ("a", "b", 0): "f:2:7",
        ("a", "b", 1): "f:3:7",
        ("a", "c"): "f:4:3",
        ("a", "c", "d"): "f:4:7",
        ("a", "c", "e"): "f:5:7",
        ("a", "c", "f"): "f:5:13",
        ("g",): "f:7:1",
        ("g", 0): "f:9:5",
        ("g", 0, "h"): "f:9:5",
        ("g", 1): "f:10:5",
    }
    assert {path: str(place) for path, place in document.values.items()} == {
        ("a", "b"): "f:2:6",
        ("a", "c"): "f:4:6",
        ("a", "c", "d"): "f:4:10",
        ("a", "c", "e"): "f:5:10",
        ("g", 0, "h"): "f:9:8",
    }, "those in the line of their key"


def test_the_place_of_what_is_absent_is_that_around_it() -> None:
    document = parse("a:\n  b:\n    c: 1\n", "f")
    assert document.place(("a", "b", "d", "e")).line == 2
    assert document.place(("x",)).line == 1


def test_anchors_and_merge_keys() -> None:
    document = parse(
        """\
one: &one
  width: 1
  deep: {x: 1,
         y: 2}
two: &two {width: 2, layers: 2}
both:
  <<: [*one, *two]
  heads: 3
own:
  deep: {x: 5}
  <<: *one
again: *one
""",
        "f",
    )
    assert not document.faults, "a merged key may be overridden"
    assert document.value["both"] == {"width": 1, "deep": {"x": 1, "y": 2}, "layers": 2, "heads": 3}
    assert document.value["own"] == {"width": 1, "deep": {"x": 5}}
    assert document.value["again"] == document.value["one"]
    assert document.place(("both", "layers")).line == 5
    assert document.place(("both", "heads")).line == 8
    assert document.place(("own", "deep", "x")).line == 10
    assert document.place(("own", "deep", "y")).line == 10, "not that of the value that was overridden"


def test_keys_that_stand_twice() -> None:
    document = parse("a:\n  b: 1\n  c: 2\n  b: 3\na: 4\n", "f")
    assert [in_words(fault) for fault in document.faults] == [
        "f:4 (a.b): the key stands here twice\n    Keep one.",
        "f:5 (a): the key stands here twice\n    Keep one.",
    ]


SYNTAX = "\n    Check indentation, colons and quotes there."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a:\n\tb: 1",
            "f:2: not YAML: found character '\\t' that cannot start any token"
            " (while scanning for the next token)",
        ),
        (
            "a:\n  {b: 1,\n  c: 2\n",
            "f:4: not YAML: expected ',' or '}', but got '<stream end>'"
            " (while parsing a flow mapping at line 2)",
        ),
        ("a: b: c", "f:1: not YAML: mapping values are not allowed here"),
        ("a: *x", "f:1: not YAML: found undefined alias 'x'"),
        (
            "a: 1\n---\nb: 1",
            "f:2: not YAML: but found another document (expected a single document in the stream at line 1)",
        ),
        ("a: !thing 1", "f:1: the tag !thing has no meaning in a spec"),
        ("a:\n  !!set {b}", "f:2: the tag !!set has no meaning in a spec"),
        ("a: !!timestamp 2024-01-31", "f:1: the tag !!timestamp has no meaning in a spec"),
        ("a: !!binary aGk=", "f:1: the tag !!binary has no meaning in a spec"),
        ("!!python/name:os.sep []", "f:1: the tag !!python/name:os.sep has no meaning in a spec"),
        ("a: !!int x", "f:1: 'x' can't be read as int"),
        ("a: !!bool maybe", "f:1: 'maybe' can't be read as bool"),
        ('a: "\\ud800"', "f:1: '\\ud800' can't be read as str"),
        ("root: {{root}}", "f:1: a key is a word, not a list or a mapping"),
        ("a: 1\n<<: 5", "f:1: `<<` merges mappings only"),
        ("a: &a\n  - *a", "f:1: nested too deeply, or an anchor that contains itself"),
        ("a: &a\n  <<: *a", "f:1: an anchor that is merged into itself"),
    ],
)  # fmt: skip
def test_refusals(text: str, message: str) -> None:
    assert refusal(text) == message + SYNTAX


def test_a_character_that_yaml_lacks() -> None:
    assert refusal("a: 1\nb: \0\n") == (
        "f:2: not YAML: the character U+0000 can't stand in it\n    Save it as UTF-8 text."
    )


def test_nested_beyond_the_parser() -> None:
    assert refusal("[" * 1000) == "f: nested too deeply\n    A spec is a few levels deep."


BOMBS = {
    "lists": "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)),
    "merges": "a0: &a0 {}\n"
    + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)),
    "long text": f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 200)}]\n",
    "the same keys again": (
        f"a: &a {{{', '.join(f'k{n}: {{}}' for n in range(1000))}}}\nb: {{<<: [{', '.join(['*a'] * 100)}]}}\n"
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_anchors_that_repeat_each_other(bomb: str) -> None:
    """A few lines that would be billions of values."""
    assert "more than 50,000 values or 10,000,000 characters in a spec" in refusal(BOMBS[bomb])


PIECES = st.sampled_from([*"{}[]:,-?|>&*!#%@`'\"\t\n .~=\0é", "a", "1", "a: ", "\n- ", "\n  ", "&a ", "*a", "<<: *a"])


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but a SpecError gets out, and what is read can be written as JSON."""
    try:
        document = parse(text, "f")
    except SpecError:
        assert refusal(text).startswith("f:")
    else:
        json.dumps(document.value)
        assert all(place.name == "f" for place in document.entries.values())
