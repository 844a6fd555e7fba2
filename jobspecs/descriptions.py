"""The attribute docstrings of a section: the descriptions of its fields.

Pydantic can read them too (`use_attribute_docstrings`), at import, with the tokenizer, class by class: a third of the
time that `tandem validate` takes. Here a module is parsed once, when somebody asks: for a schema, a page, a remedy.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache


@cache
def descriptions(section: type) -> dict[str, str]:
    """Description by field, those that `section` inherits too; lines are joined."""
    found: dict[str, str] = {}
    for parent in reversed(section.__mro__):
        if parent.__module__ in sys.modules:
            found |= _of_module(parent.__module__).get(parent.__qualname__, {})
    return found


def description(section: type, field: str) -> str:
    """What `field` of `section` is; "" where nothing is said."""
    return descriptions(section).get(field, "")


@cache
def _of_module(name: str) -> dict[str, dict[str, str]]:
    """The docstrings below the annotated names of each class of a module."""
    try:
        tree = ast.parse(inspect.getsource(sys.modules[name]))
    except (OSError, TypeError):  # built in, or without its source
        return {}
    return {node.name: _of_class(node) for node in tree.body if isinstance(node, ast.ClassDef)}


def _of_class(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for statement, following in zip(node.body, node.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=field)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[field] = " ".join(text.split())
    return found
