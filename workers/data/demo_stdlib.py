"""`stdlib`: Python's own standard library as pairs of texts: a signature, and the docstring that belongs to it.

In: a seed. Out: a `Demo` whose test modules are absent from training, read from the source files of the Python
that runs; nothing is imported, run or downloaded. Query `textwrap.shorten(text, width, **kwargs)`, document
"Collapse and truncate the given text to fit in the given width. …"; hard negatives are docstrings of the same
module. With seed 0 and Python 3.11.7:
5,056 training pairs of 146 top-level modules and 1,025 test pairs of 25 others (asyncio, lib2to3, _pydecimal, _pyio,
pathlib, …) with 1,006 documents, 3 + 1 shards.

What would make it trivial is taken out: a first line that repeats the signature, and examples (`>>> …`), which
call the function by its name. Held out are whole top-level modules (all of `asyncio`), drawn by a hash of their
names, and a docstring that is among theirs is taken out of training. Within a split equal docstrings stay: they
are documents with several queries.
"""

from __future__ import annotations

import ast
import inspect
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobspecs.errors import DataError
from workers.data.demo_tar import Demo, Split, TextPair
from workers.data.keyed import hash64, permutation

NOT_LIBRARY = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "turtledemo", "__pycache__"})
"""Folders below the library's that are other packages, tests or demos."""
HELD_OUT = 8
"""One of so many top-level modules is held out."""
MOST_NEGATIVES = 16
FEWEST_WORDS = 3
"""A docstring with fewer says too little to be found by."""
SHARD_SAMPLES = 2_000

_EXAMPLE = re.compile(r"^[ \t]*>>> .*(\n[ \t]*\S.*)*", re.MULTILINE)
"""A doctest: from its prompt to the next empty line."""


@dataclass(frozen=True)
class Definition:
    """A function, method or class with a docstring."""

    module: str
    name: str
    """Qualified within the module: `Formatter.vformat`."""
    signature: str
    """`(text, width, **kwargs)`; empty for a class without a constructor of its own."""
    document: str

    @property
    def query(self) -> str:
        """The text that is searched with."""
        return f"{self.module}.{self.name}{self.signature}"


def stdlib(seed: int, *, folder: Path | None = None) -> Demo:
    """The library in `folder`, by default that of the running Python, split by top-level modules with `seed`.

    Raises DataError where the library has no source files with docstrings.
    """
    folder = Path(sysconfig.get_path("stdlib")) if folder is None else folder
    found = list(definitions(folder))
    held_out = [each for each in found if is_held_out(each.module, seed)]
    unseen = {each.document for each in held_out}
    seen = [each for each in found if not is_held_out(each.module, seed) and each.document not in unseen]
    if not seen or not held_out:
        raise DataError(
            f"the demo 'stdlib' is made of the source files of Python's standard library, and {folder} has "
            f"{len(found)} docstrings in {len({each.module for each in found})} modules: too few to train and to test "
            "with. Run it with a Python that was installed with its .py files"
        )
    return Demo((_split("train", seen, seed), _split("test", held_out, seed)))


def is_held_out(module: str, seed: int) -> bool:
    """By the name alone: a module stays in its split from one version of Python to the next."""
    return hash64("stdlib", seed, module.partition(".")[0]) % HELD_OUT == 0


def _split(name: str, found: list[Definition], seed: int) -> Split:
    documents: defaultdict[str, set[str]] = defaultdict(set)
    for each in found:
        documents[each.module].add(each.document)
    pairs = []
    for number in permutation(len(found), "stdlib", seed, name):
        each = found[number]
        others = sorted(documents[each.module] - {each.document})
        chosen = permutation(len(others), "stdlib", seed, each.module, each.name)[:MOST_NEGATIVES]
        facts = {"module": each.module, "name": each.name}
        pairs.append(TextPair(each.query, each.document, tuple(others[i] for i in chosen), facts))
    return Split(name, tuple(pairs), shards=-(-len(pairs) // SHARD_SAMPLES))


def definitions(folder: Path) -> Iterator[Definition]:
    """All public functions, methods and classes with a docstring, modules by name and each in its file's order.

    Of several definitions of one name (for several platforms, or overloads) the first with a docstring counts.
    """
    paths = (path for path in folder.rglob("*.py") if not NOT_LIBRARY & {*path.relative_to(folder).parts[:-1]})
    for module, path in sorted((_module(path.relative_to(folder)), path) for path in paths):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and test data that only look like modules
            continue
        met = set()
        for name, node in _walk(tree, ""):
            document = clean(ast.get_docstring(node, clean=False) or "", node.name)
            if name not in met and len(document.split()) >= FEWEST_WORDS:
                met.add(name)
                yield Definition(module, name, _signature(node), document)


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


_Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _walk(parent: ast.AST, prefix: str) -> Iterator[tuple[str, _Node]]:
    """Public definitions of a module or class, those below `if` and `try` too; not those inside of functions."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, _Node):
            if node.name.startswith("_"):
                continue
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _walk(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _walk(node, prefix)


def _signature(node: _Node) -> str:
    if isinstance(node, ast.ClassDef):
        own = (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__")
        constructor = next(own, None)
        return "" if constructor is None else _signature(constructor)
    given = node.args
    names = [each.arg for each in (*given.posonlyargs, *given.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    if given.vararg is not None:
        names.append(f"*{given.vararg.arg}")
    elif given.kwonlyargs:
        names.append("*")
    names += [each.arg for each in given.kwonlyargs]
    if given.kwarg is not None:
        names.append(f"**{given.kwarg.arg}")
    return f"({', '.join(names)})"


def clean(docstring: str, name: str) -> str:
    """A docstring without its indentation, its examples, and a first line that repeats the signature of `name`.

    clean("shorten(text, width) -> str\n\n    Collapse the text.\n\n    >>> shorten('a  b', 9)\n    'a b'", "shorten")
    gives "Collapse the text."
    """
    text = inspect.cleandoc(docstring)
    text = re.sub(rf"\A(\w+\.)*{re.escape(name)}\([^)\n]*\)[ \t]*(->[ \t]*[^\s.:]+)?[ \t]*[-:.]*\s*", "", text)
    text = re.sub(rf"\A(\w+\.)*{re.escape(name)}[ \t]*(:|--?)\s+", "", text)
    text = _EXAMPLE.sub("", text)
    return re.sub(r"\n\s*\n", "\n\n", text).strip()
