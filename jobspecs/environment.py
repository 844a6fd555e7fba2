"""`${NAME}` and `${NAME:-default}` in the values of a spec.

    root: s3://${BUCKET}/runs          a part of a text
    steps: ${STEPS:-400}               the whole: read as YAML would read it, so that this is a number
    templates: ["costs $${price}"]     `$${` stands for `${`

Keys are never taken from the environment: what a spec says is to be seen in it. Nor are credentials: a run records its
spec with the values that it had, and whoever may read the run would read them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from jobspecs.redaction import is_secret_name, secret_in

_REFERENCE = re.compile(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^{}]*))?\})?")
_WHOLE = re.compile(r"\$\{[^{}]*\}")


class EnvironmentFaultError(Exception):
    """A reference that can't be resolved: what is wrong, what to do, and where in the text it begins."""

    def __init__(self, message: str, remedy: str, at: int) -> None:
        super().__init__(message, remedy, at)
        self.message, self.remedy, self.at = message, remedy, at


def refers(text: str) -> bool:
    """Whether there is anything in `text` to resolve."""
    return "${" in text


def is_whole(text: str) -> bool:
    """Whether `text` is one reference and nothing beside it."""
    return _WHOLE.fullmatch(text) is not None


def resolve(text: str, environment: Mapping[str, str]) -> str:
    """`text` with each reference replaced by its value. Raises EnvironmentFaultError."""
    return _REFERENCE.sub(lambda match: _value(match, environment), text)


def escape(text: str) -> str:
    """`text` such that `resolve` gives it back."""
    return text.replace("${", "$${")


def _value(match: re.Match[str], environment: Mapping[str, str]) -> str:
    name, default = match["name"], match["default"]
    if match[0] == "$${":
        return "${"
    if name is None:
        raise EnvironmentFaultError(
            "`${` begins a reference that is none",
            "It is ${NAME} or ${NAME:-default}, without braces in it; write $${ for the characters themselves.",
            match.start(),
        )
    if is_secret_name(name):
        raise EnvironmentFaultError(
            f"{name} looks like a credential, and a run records its spec with the values that it had",
            "Leave it in the environment: storage takes AWS's own variables, and other services theirs.",
            match.start(),
        )
    value = environment.get(name) or default
    if value is None:
        if name in environment:
            return ""
        close = difflib.get_close_matches(name, environment, n=1, cutoff=0.8)
        hint = f"Did you mean {close[0]}? " if close else ""
        raise EnvironmentFaultError(
            f"the environment variable {name} is not set",
            f"{hint}Set it, or write ${{{name}:-default}}.",
            match.start(),
        )
    if secret_in(value):
        raise EnvironmentFaultError(
            f"the value of {name} looks like a credential, and a run records its spec",
            "Leave it in the environment: storage takes AWS's own variables, and other services theirs.",
            match.start(),
        )
    return value
