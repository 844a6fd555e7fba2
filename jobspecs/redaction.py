"""Secrets in texts: found, so that no spec holds one, and blacked out, so that no message shows one. Pure.

What counts as one: the user's part of a URL, what signs a URL, keys and tokens by their looks, and the values of
environment variables by whose names they are secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

BLACK = "***"

_KINDS = {
    "a user or password in a URL": re.compile(r"(?<=://)[^\s/?#@'\"]+(?=@)"),
    "a signed URL": re.compile(
        r"(?<=[?&])((?:X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|Signature|AWSAccessKeyId|sig|token|"
        r"access_token|api_key|key|password)=)[^&\s'\"#]+",
        re.IGNORECASE,
    ),
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a token": re.compile(r"\b(?:gh[pousr]|github_pat|hf|sk|xox[abp]|glpat)[_-]\w{16,}"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
}
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


def black_out(error: BaseException) -> None:
    """Blacks out secrets in what an exception says, and in those that it came from: others, too, log it."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.args = tuple(redacted(each) if isinstance(each, str) else each for each in one.args)
            left += [one.__cause__, one.__context__]
