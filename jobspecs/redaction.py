"""Secrets in texts: found, so that no spec holds one, and blacked out, so that no message shows one. Pure.

What counts as one: the user's part of a URL, what signs a URL, keys and tokens by their looks, and the values of
environment variables by whose names they are secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

BLACK = "***"
_KEY_BEGINS, _KEY_ENDS = (rf"-----{side} [A-Z ]*PRIVATE KEY-----" for side in ("BEGIN", "END"))

_KINDS = {
    "a user or password in a URL": re.compile(r"(?<=://)[^\s/?#@'\"]+(?=@)"),
    "a signed URL": re.compile(
        r"(?<=[?&])((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|sig|token|"
        r"access_token|api_key|key|password)=)[^&\s'\"#]+",
        re.IGNORECASE,
    ),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token": re.compile(
        r"\b(?:(?:gh[pousr]|hf|sk)[_-][A-Za-z0-9]{16,}"  # no word of letters and digits in a name is so long
        r"|github_pat_\w{16,}|sk_(?:live|test)_\w{16,}|(?:sk-(?:proj|ant|svcacct)|xox[abp]|glpat)-[\w-]{16,})"
    ),
    "a private key": re.compile(rf"{_KEY_BEGINS}(?s:.*?)(?:{_KEY_ENDS}|\Z)"),
}
_OPEN_KEY = re.compile(rf"{_KEY_BEGINS}(?!(?s:.*){_KEY_ENDS})")
_SECRET_NAME = re.compile(
    r"SECRET|PASSW|PASSPHRASE|TOKEN(?!S|I)|CREDENTIAL|(API|ACCESS|PRIVATE|ENCRYPTION|SIGNING|AUTH|SSH)_?KEY|_PWD?$|_AUTH$",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(r"_(PATH|FILE|URI|URL|DIR)$", re.I)
"""Such a variable says where the secret is."""
_LEAST_LENGTH = 8
"""Shorter values stand in other words too."""


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of that name holds a secret, or says where one is."""
    return _SECRET_NAME.search(name) is not None


def secret_in(text: str) -> str | None:
    """What kind of secret there is in a text, by its looks; None without one."""
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(text)), None)


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with all secrets blacked out, those of the environment (this process's by default) too."""
    for name, value in (os.environ if environment is None else environment).items():
        if len(value) >= _LEAST_LENGTH and is_secret_name(name) and not _ELSEWHERE.search(name):
            text = text.replace(value, BLACK)
    for pattern in _KINDS.values():
        text = pattern.sub(lambda match: f"{match[1] if match.re.groups else ''}{BLACK}", text)
    return text


def before_open_key(text: str) -> int:
    """How long the text is before a private key whose end is still to come; all of it, without one. Where a text comes
    in pieces, what is behind has to wait for it."""
    found = _OPEN_KEY.search(text)
    return len(text) if found is None else found.start()


def behind_cut_key(text: str) -> int:
    """Where a private key ends that began before the text; 0 where none did."""
    end = re.search(_KEY_ENDS, text)
    return 0 if end is None or re.search(_KEY_BEGINS, text[: end.start()]) else end.end()


def black_out(error: BaseException) -> None:
    """Blacks out secrets in what an exception says, and in those that it came from or holds: others, too, log it.

    Its arguments, attributes and notes; what Python keeps read-only, as the message of a group, stays.
    """
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            args = tuple(_without_secrets(each, left) for each in one.args)
            if args != one.args:
                one.args = args
            if isinstance(one, OSError):  # it says these, not its arguments
                for name in ("strerror", "filename", "filename2"):
                    if isinstance(value := getattr(one, name), str | bytes):
                        setattr(one, name, _without_secrets(value, left))
            held = vars(one)  # its notes are among them
            held.update({name: _without_secrets(value, left) for name, value in held.items()})
            left += [one.__cause__, one.__context__, *(one.exceptions if isinstance(one, BaseExceptionGroup) else ())]


_DEPTH = 4
"""Containers in containers that are looked into; below them their text is."""


def _without_secrets(value: Any, exceptions: list[BaseException | None], depth: int = 0) -> Any:
    """What an exception holds, with its secrets blacked out. Exceptions in it are added to `exceptions`."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, BaseException):
        exceptions.append(value)
        return value
    if depth < _DEPTH and type(value) in (list, tuple):
        return type(value)(_without_secrets(each, exceptions, depth + 1) for each in value)
    if depth < _DEPTH and type(value) is dict:
        return {key: _without_secrets(each, exceptions, depth + 1) for key, each in value.items()}
    if isinstance(value, bytes | list | tuple | dict):
        text = repr(value)
        return value if (blackened := redacted(text)) == text else blackened
    return value
