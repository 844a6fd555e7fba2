"""YAML -> plain values, and the place of each: `job.yaml:12`.

Goes in: the text of a file, or the value of a `--set`. Comes out: a `Document`. Called by load.py.

The dialect is YAML 1.2's: `no` and `on` are text, `1e-3` is a number, a date or `12:30:00` is text. `010`
and `0x10` are text too, since YAML's versions disagree about them. Anchors and merge keys work; tags for
other types than these, and a key that stands twice, are faults.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from jobspecs.errors import Fault, SpecError

KeyPath = tuple[str | int, ...]
"""Keys, and indices of lists, from the root of the document."""

_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH = 50
"""A spec is 5 deep; this bounds anchors that contain themselves."""


@dataclass
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and where each stands."""

    name: str
    value: Any = None
    places: dict[KeyPath, str] = field(default_factory=dict)
    """`job.yaml:12` for each key and item, or the `--set` that gave it."""
    faults: list[Fault] = field(default_factory=list)
    """What YAML lets pass and a spec doesn't: keys that stand twice."""

    def place(self, path: KeyPath) -> str:
        """Place of the value at `path`, or of the nearest one around it."""
        around = (path[:length] for length in range(len(path), -1, -1))
        return next((self.places[at] for at in around if at in self.places), self.name)

    def forget(self, path: KeyPath) -> None:
        """Drops the places at and below `path`: another value takes their room."""
        for at in [at for at in self.places if at[: len(path)] == path]:
            del self.places[at]


def dotted(path: KeyPath) -> str:
    """`training.global_batch`."""
    return ".".join(map(str, path))


def parse(text: str, name: str) -> Document:
    """The values in `text`; `name` stands for the file. Raises SpecError: it is not YAML."""
    document = Document(name, places={(): f"{name}:1"})
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.value = _value(loader, node, (), document)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        message = error.problem or "it can't be read"
        if error.context:
            start = f" at line {error.context_mark.line + 1}" if error.context_mark else ""
            message += f" ({error.context}{start})"
        if not isinstance(error, ConstructorError):
            message = f"not YAML: {message}"
        fault = Fault(f"{name}:{line}", message, "Check indentation, colons and quotes there.")
        raise SpecError((fault,)) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"not YAML: the character U+{ord(text[error.position]):04X} can't stand in it"
        raise SpecError((Fault(f"{name}:{line}", message, "Save it as UTF-8 text."),)) from error
    except RecursionError as error:
        raise SpecError((Fault(name, "nested too deeply", "A spec is a few levels deep."),)) from error
    return document


class _Loader(yaml.SafeLoader):
    """Safe YAML whose untagged values are text, true/false, null and decimal numbers."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (f"{_TAG}null", f"{_TAG}merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _type, _pattern, _first in (
    ("bool", r"true|false", "tf"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?((0|[1-9][0-9_]*)(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_type}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _value(loader: _Loader, node: yaml.Node, path: KeyPath, document: Document, depth: int = 0) -> Any:
    if depth > _MAX_DEPTH:
        raise _refused(node, "nested too deeply, or an anchor that contains itself")
    document.places.setdefault(path, f"{document.name}:{node.start_mark.line + 1}")
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(loader, node, path, document, depth)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_value(loader, child, (*path, number), document, depth + 1) for number, child in enumerate(node.value)]
    return _scalar(loader, node)


def _mapping(loader: _Loader, node: yaml.MappingNode, path: KeyPath, document: Document, depth: int) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for source in _merged(node):
        if depth > _MAX_DEPTH:
            raise _refused(node, "an anchor that is merged into itself")
        mapping |= _mapping(loader, source, path, document, depth + 1)
    own: set[str] = set()
    for key_node, value_node in node.value:
        if key_node.tag == f"{_TAG}merge":
            continue
        if not isinstance(key_node, yaml.ScalarNode):
            raise _refused(key_node, "a key is a word, not a list or a mapping")
        key = key_node.value
        at, place = (*path, key), f"{document.name}:{key_node.start_mark.line + 1}"
        if key in own:
            document.faults.append(Fault(f"{place} ({dotted(at)})", "the key stands here twice", "Keep one."))
        own.add(key)
        document.forget(at)
        document.places[at] = place
        mapping[key] = _value(loader, value_node, at, document, depth + 1)
    return mapping


def _merged(node: yaml.MappingNode) -> list[yaml.MappingNode]:
    """What `<<:` merges into the mapping. Later ones win, and the mapping's own keys over all of them."""
    sources: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == f"{_TAG}merge":
            sources += reversed(value.value) if isinstance(value, yaml.SequenceNode) else [value]
    mappings = [source for source in sources if isinstance(source, yaml.MappingNode)]
    if len(mappings) < len(sources):
        raise _refused(node, "`<<` merges mappings only")
    return mappings


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    kind = node.tag.removeprefix(_TAG)
    if not isinstance(node, yaml.ScalarNode) or kind not in ("str", "int", "float", "bool", "null"):
        raise _refused(node, f"the tag {node.tag.replace(_TAG, '!!')} has no meaning in a spec")
    try:
        value = loader.construct_object(node)
        str(value).encode()
    except (ValueError, KeyError) as error:
        raise _refused(node, f"{node.value[:40]!a} can't be read as {kind}") from error
    return value


def _refused(node: yaml.Node, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)
