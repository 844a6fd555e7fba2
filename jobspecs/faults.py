"""Pydantic's errors -> faults in the user's words: the place, what is wrong, what to do.

Goes in: a `ValidationError` of a `JobSpec` and the document that it was read from. Called by load.py.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from jobspecs.descriptions import description
from jobspecs.errors import Fault
from jobspecs.fields import is_section, kinds, members, paths_of
from jobspecs.job import JobSpec
from jobspecs.spots import Spot, spot_of
from jobspecs.yaml_places import Document, KeyPath, dotted

_WORDS = {
    "model_type": "should be a mapping, `key: value`",
    "dict_type": "should be a mapping, `key: value`",
    "model_attributes_type": "should be a mapping, `key: value`",
    "list_type": "should be a list",
    "bool_type": "should be true or false",
    "too_short": "should have at least {min_length} items",
    "too_long": "should have at most {max_length} items",
}
"""Where pydantic's words are those of Python or JSON: ours, by type of error."""


def faults_of(error: ValidationError, document: Document) -> list[Fault]:
    """All faults in `error`, in the order of the spec's fields.

    A value that fits no member of a plain union is one fault: "should be a valid integer or 'auto'".
    """
    grouped: dict[tuple[KeyPath, int], list[tuple[Spot, ErrorDetails]]] = {}
    for number, detail in enumerate(_each(error)):
        spot = spot_of(detail["loc"])
        grouped.setdefault((spot.path, -1 if spot.in_union else number), []).append((spot, detail))
    faults = [(group[0][0].path, _fault(document, group)) for group in grouped.values()]
    return [fault for path, fault in faults if path not in document.broken]


def _each(error: ValidationError) -> Iterator[ErrorDetails]:
    """Its errors, those of rules between sections one by one."""
    for detail in error.errors():
        if detail["type"] == "rules":
            for rule in detail["ctx"]["rules"]:
                yield {**detail, "type": "rule", "ctx": rule}
        else:
            yield detail


def wants_text(error: ValidationError) -> list[KeyPath]:
    """Paths of the fields that want a text, and have none."""
    return [spot_of(detail["loc"]).path for detail in error.errors() if detail["type"] == "string_type"]


def _fault(document: Document, group: list[tuple[Spot, ErrorDetails]]) -> Fault:
    spot, detail = group[0]
    if len(group) == 1 and detail["type"] in _WITHOUT_A_VALUE:
        path, message, remedy = _WITHOUT_A_VALUE[detail["type"]](spot, detail)
    else:
        path = spot.path
        wanted = [_wanted(each) for _, each in group]
        wanted[1:] = [each.removeprefix("should be ") for each in wanted[1:]]
        message = f"{_either(wanted)}, given: {_short(detail['input'])}"
        remedy = next(filter(None, (_remedy(spot, each, alone=len(group) == 1) for _, each in group)), "")
    is_of_key = len(group) == 1 and detail["type"] == "extra_forbidden"
    return Fault(document.entry(path) if is_of_key else document.place(path), message, remedy, dotted(path))


def _wanted(detail: ErrorDetails) -> str:
    """What the value should be, in words."""
    context = detail.get("ctx", {})
    if detail["type"] in _WORDS:
        words = _WORDS[detail["type"]].format(**context)
        return words.removesuffix("s") if words.endswith(" 1 items") else words
    return re.sub(r"^(Input|String) should", "should", detail["msg"])


def _remedy(spot: Spot, detail: ErrorDetails, alone: bool) -> str:
    """What to do about the value; `alone`, where it fits one type only."""
    kind, given = detail["type"], detail["input"]
    if spot.kinds and isinstance(given, str):
        return _as_mapping(spot, given)
    if kind == "literal_error" and isinstance(given, str):
        return _did_you_mean(given, re.findall(r"'([^']+)'", detail["ctx"]["expected"]))
    if alone and kind == "string_type" and isinstance(given, int | float):
        return "Quotes make it text."
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return f"Write {given:.0f}."
    if kind in ("int_type", "float_type") and isinstance(given, str) and re.fullmatch(r"[-+.eE\d]+", given):
        return "A number has no quotes, and no 0 before its digits."
    return ""


def _as_mapping(spot: Spot, given: str) -> str:
    """The word `infonce`, where a section is wanted: "Write {kind: infonce}."."""
    near = difflib.get_close_matches(given, spot.kinds, n=1, cutoff=0.6)
    if not near:
        return f"Its kind is {_one_of(spot.kinds)}."
    section = next(member for member in spot.members if near[0] in kinds(member))
    others = [name for name, field in section.model_fields.items() if field.is_required() and name != "kind"]
    return f"Write {{{', '.join([f'kind: {near[0]}', *(f'{name}: …' for name in others)])}}}."


# --- errors that are not about a value ----------------------------------------------------------------


def _rule(spot: Spot, detail: ErrorDetails) -> tuple[KeyPath, str, str]:
    context = detail["ctx"]
    parts = (int(part) if part.isdigit() else part for part in context["path"].split("."))
    return (*spot.path, *parts), context["message"], context["remedy"]


def _value_error(spot: Spot, detail: ErrorDetails) -> tuple[KeyPath, str, str]:
    return spot.path, str(detail["ctx"]["error"]), ""


def _unknown_key(spot: Spot, detail: ErrorDetails) -> tuple[KeyPath, str, str]:
    key, allowed = str(spot.path[-1]), list(spot.section.model_fields)
    near = _owner(key, spot) or _elsewhere(key, spot) or _did_you_mean(key, allowed)
    return spot.path, f"unknown key {key!r}", f"{near} Allowed here: {', '.join(allowed)}.".strip()


def _owner(key: str, spot: Spot) -> str:
    """Who has the field `key`: a section of another kind, or one a level below."""
    theirs = [repr(kind) for sibling in spot.siblings if key in sibling.model_fields for kind in kinds(sibling)]
    if theirs:
        return f"It is a field of kind {_either(theirs)}."
    below = [
        dotted((*spot.path[:-1], name))
        for name, field in spot.section.model_fields.items()
        if any(is_section(member) and key in member.model_fields for member in members(field.annotation))
    ]
    return f"It is a field of {_either(below)}." if below else ""


def _elsewhere(key: str, spot: Spot) -> str:
    """Where else the language has the field `key`, if that is one place."""
    here = dotted(tuple(part for part in spot.path if isinstance(part, str)))
    paths = paths_of(JobSpec, key)
    return f"There is {paths[0]}." if len(paths) == 1 and paths != [here] else ""


def _missing(spot: Spot, detail: ErrorDetails) -> tuple[KeyPath, str, str]:
    key = str(spot.path[-1])
    if key == "kind":  # of a section that is no union's member
        return spot.path, "'kind' is missing", f"It is {_one_of(kinds(spot.section))}."
    return spot.path, f"{key!r} is missing", description(spot.section, key)


def _no_kind(spot: Spot, detail: ErrorDetails) -> tuple[KeyPath, str, str]:
    return (*spot.path, "kind"), "'kind' is missing", f"It is {_one_of(spot.kinds)}."


def _unknown_kind(spot: Spot, detail: ErrorDetails) -> tuple[KeyPath, str, str]:
    given = detail["input"]["kind"]
    message = f"should be {_either([*map(repr, spot.kinds)])}, given: {_short(given)}"
    return (*spot.path, "kind"), message, _did_you_mean(str(given), list(spot.kinds))


_WITHOUT_A_VALUE = {
    "rule": _rule,
    "value_error": _value_error,
    "extra_forbidden": _unknown_key,
    "missing": _missing,
    "union_tag_not_found": _no_kind,
    "union_tag_invalid": _unknown_kind,
}


def _one_of(kinds: tuple[str, ...]) -> str:
    """`one of 'a', 'b'`, and of a single one: `'a'`."""
    return f"{'one of ' if len(kinds) > 1 else ''}{', '.join(map(repr, kinds))}"


def _either(words: list[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _did_you_mean(given: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(given, allowed, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
