"""HTML that is escaped by construction: what is not made by `tag` is text, and stays text.

    tag("p", "1 < 2", tag("b", name), class_="note")   ->   <p class="note">1 &lt; 2<b>…</b></p>

Captions, spec, causes of failures: all of it comes from outside, and none of it can become markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TypeAlias

Attribute = str | int | float | bool | None

_VOID = frozenset({"img", "meta"})
"""Elements without an end tag."""


class Html(str):
    """Markup. Only `tag`, `join` and `verbatim` make it."""

    __slots__ = ()


Content: TypeAlias = "str | Iterable[Content] | None"
"""What stands in an element: text or markup, nothing, or several of them."""


def tag(name: str, /, *content: Content, **attributes: Attribute) -> Html:
    """An element. Of attributes, `class_` stands for class, `_` for `-`; True has no value, None and False leave one
    out."""
    start = "".join(
        _attribute(key, value) for key, value in attributes.items() if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{start}>")
    return Html(f"<{name}{start}>{join(content)}</{name}>")


def join(content: Content) -> Html:
    """Contents one after the other."""
    if content is None:
        return Html("")
    if isinstance(content, Html):
        return content
    if isinstance(content, str):
        return Html(escape(_printable(content)))
    return Html("".join(join(part) for part in content))


def verbatim(markup: str) -> Html:
    """Our own style and script, which are no text. Raises AssertionError where they would end their element."""
    assert "</" not in markup, "it would end its element"
    return Html(markup)


def _attribute(key: str, value: Attribute) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {name}"
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {name}="{escape(_printable(shown))}"'


def _printable(text: str) -> str:
    """Without what HTML can't hold: control characters, and halves of surrogate pairs."""
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(letter: str) -> str:
    code = ord(letter)
    held = letter in "\n\t" or (code >= 32 and not 0xD800 <= code < 0xE000)
    return letter if held else "\N{REPLACEMENT CHARACTER}"
