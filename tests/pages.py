r"""What the pages of the repository show: their fenced blocks, and the commands in those.

```bash      commands, one a line; `\` goes on with it, `#` begins a comment
```console   commands behind `$ `, and what they print
```yaml      a spec, or sections of one
```python, ```text, ```mermaid
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_SOURCES = ("deploy", "jobspecs", "orchestrator", "tests", "workers")
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob("*.md"), *(path for folder in _SOURCES for path in (ROOT / folder).rglob("*.md"))]
)
"""Every page, by its path."""
_SEPARATORS = frozenset({"|", "||", "&", "&&", ";"})


@dataclass(frozen=True)
class Block:
    """A fenced block; `place` is its page and the line of its fence."""

    place: str
    language: str
    text: str

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Place and words of each command; those of a pipe are several."""
        text = self.text.replace("\\\n", " ")
        lines = [line.strip() for line in text.splitlines()]
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        for line in lines:
            for words in _words(line):
                yield f"{self.place}: {line}", words


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    assert 2 * len(found) == len(re.findall(r"^\s*```", text, re.MULTILINE)), f"{page}: a fence that is no block"
    return [Block(f"{page}:{text.count(chr(10), 0, each.start()) + 1}", each[1], each[2]) for each in found]


def header_of(example: Path) -> Block:
    """The commands in the comment at the top of an example: lines that begin with `tandem`, and those that go on."""
    lines = re.findall(r"^#   (tandem .*|    --.*)$", example.read_text(encoding="utf-8"), re.MULTILINE)
    text = "\n".join(lines).replace("\n    --", " --")
    return Block(str(example.relative_to(ROOT)), "bash", text)


def spans_of(page: str) -> list[str]:
    """Code within the text of a page, such as `tandem plan`."""
    prose = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def _words(line: str) -> Iterator[list[str]]:
    """`A=1 x y | z` -> [x, y], [z]."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    command: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _SEPARATORS:
            command.append(word)
            continue
        while command and re.match(r"[A-Z_0-9]+=", command[0]):
            del command[0]
        if command:
            yield command
        command = []
