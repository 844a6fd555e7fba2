"""Where something of a spec stands, and the line shown with a caret under it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

_WIDTH = 100
"""Of a line that is shown; a longer one is cut around the caret."""


@dataclass(frozen=True)
class Place:
    """`job.yaml:12:7`, or `--set training.steps` for an override."""

    name: str
    """The file, as it was given, or the override up to its `=`."""
    line: int = 0
    """From 1; 0 for an override, and for a file that can't be read."""
    column: int = 0
    """From 1, in characters; 0 where the place is no more precise than `name`."""
    text: str = ""
    """The line, or the override as it was given."""

    def __str__(self) -> str:
        return f"{self.name}:{self.line}:{self.column}" if self.line else self.name

    def shown(self) -> str:
        """The line, and below it a caret; "" where there is none to show.

        12 |   global_batch: lots
           |                 ^
        """
        if not self.text:
            return ""
        start = max(0, self.column - 1 - _WIDTH * 2 // 3) if len(self.text) > _WIDTH else 0
        text = "".join(map(_visible, self.text[start : start + _WIDTH])).rstrip()
        before = "".join(_blank(character) for character in self.text[start : self.column - 1])
        number = str(self.line) if self.line else "--set"
        return f"{number} | {text}\n{' ' * len(number)} | {before}^"


def _visible(character: str) -> str:
    """No character that would move the cursor or change colours."""
    return character if character == "\t" or character.isprintable() else "\N{REPLACEMENT CHARACTER}"


def _blank(character: str) -> str:
    """As many blanks as the character is wide on a terminal."""
    if character == "\t":
        return "\t"
    if unicodedata.combining(character):
        return ""
    return "  " if unicodedata.east_asian_width(character) in "WF" else " "
