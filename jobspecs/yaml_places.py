"""YAML -> plain values, and the place of each: `job.yaml:12:7`.

Goes in: the text of a file, or the value of a `--set`. Comes out: a `Document`. Called by load.py.

The dialect is YAML 1.2's: `no` and `on` are text, `1e-3` is a number, a date or `12:30:00` is text. `010`
and `0x10` are text too, since YAML's versions disagree about them. Anchors and merge keys work; tags for
other types than these, and a key that stands twice, are faults.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from jobspecs.environment import EnvironmentFaultError, is_whole, refers, resolve
from jobspecs.errors import Fault, SpecError
from jobspecs.places import Place

T = TypeVar("T")
KeyPath = tuple[str | int, ...]
"""Keys, and indices of lists, from the root of the document."""

_TAG = "tag:yaml.org,2002:"
_MAX_DEPTH = 50
"""A spec is 5 deep; this bounds anchors that contain themselves."""
_MAX_VALUES = 50_000
_MAX_CHARACTERS = 10_000_000
"""Of all values together: this bounds anchors that repeat each other, of which ten lines make billions."""


@dataclass
class Document:
    """Plain values (dict, list, str, int, float, bool, None) and where each stands."""

    name: str
    value: Any = None
    entries: dict[KeyPath, Place] = field(default_factory=dict)
    """Of each key and item: where it begins."""
    values: dict[KeyPath, Place] = field(default_factory=dict)
    """Of the values that begin in the line of their key."""
    faults: list[Fault] = field(default_factory=list)
    """What YAML lets pass and a spec doesn't: keys that stand twice, variables that are not set."""
    broken: set[KeyPath] = field(default_factory=set)
    """Paths whose fault is told already: what else is wrong there follows from it."""
    texts: dict[KeyPath, str] = field(default_factory=dict)
    """What came from the environment and looked like a number, true or null: a field may want the text."""

    def place(self, path: KeyPath) -> Place:
        """Of the value at `path`; of the nearest entry around it where there is none."""
        return self.values.get(path) or self.entry(path)

    def entry(self, path: KeyPath) -> Place:
        """Of the key or item at `path`, or of the nearest one around it."""
        around = (path[:length] for length in range(len(path), -1, -1))
        return next((self.entries[at] for at in around if at in self.entries), Place(self.name))

    def forget(self, path: KeyPath) -> None:
        """Drops what is known of the places at and below `path`: another value takes their room."""
        for known in (self.entries, self.values, self.texts):
            for at in [at for at in known if at[: len(path)] == path]:
                del known[at]
        self.broken -= {at for at in self.broken if at[: len(path)] == path}

    def forget_one(self, path: KeyPath) -> None:
        """Drops what is known of the place of a text or a number: there is nothing below it."""
        for known in (self.entries, self.values, self.texts):
            known.pop(path, None)
        self.broken.discard(path)

    def take(self, other: Document, path: KeyPath, within: KeyPath) -> None:
        """The value at `within` of `other` stands at `path` from now on: what is known of it, here too."""
        self.forget(path)
        for mine, theirs in ((self.entries, other.entries), (self.values, other.values)):
            mine.update(_moved(theirs, path, within))
        self.texts.update(_moved(other.texts, path, within))
        self.broken.update(_moved(dict.fromkeys(other.broken), path, within))


def _moved(known: Mapping[KeyPath, T], path: KeyPath, within: KeyPath) -> dict[KeyPath, T]:
    """What is known at and below `within`, as that of `path`."""
    return {(*path, *at[len(within) :]): what for at, what in known.items() if at[: len(within)] == within}


def dotted(path: KeyPath) -> str:
    """`training.global_batch`."""
    return ".".join(map(str, path))


def parse(text: str, name: str, environment: Mapping[str, str] = MappingProxyType({})) -> Document:
    """The values in `text`; `name` stands for the file, and `environment` has the variables. Raises SpecError: it is
    not YAML."""
    lines = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text.removeprefix("\ufeff"))

    def place(mark: yaml.Mark | None) -> Place:
        line, column = (mark.line, mark.column) if mark else (0, 0)
        return Place(name, line + 1, column + 1, lines[line] if line < len(lines) else "")

    document = Document(name, entries={(): Place(name, 1, 1, lines[0])})
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None:
            document.value = _Reading(loader, document, place, environment).value(node, ())
    except yaml.MarkedYAMLError as error:
        message = error.problem or "it can't be read"
        if error.context:
            start = f" at line {error.context_mark.line + 1}" if error.context_mark else ""
            message += f" ({error.context}{start})"
        if not isinstance(error, ConstructorError):
            message = f"not YAML: {message}"
        fault = Fault(place(error.problem_mark), message, "Check indentation, colons and quotes there.")
        raise SpecError((fault,)) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position)
        column = error.position - (text.rfind("\n", 0, error.position) + 1)
        message = f"not YAML: the character U+{ord(text[error.position]):04X} can't stand in it"
        here = Place(name, line + 1, column + 1, text.split("\n")[line])
        raise SpecError((Fault(here, message, "Save it as UTF-8 text."),)) from error
    except RecursionError as error:
        raise SpecError((Fault(Place(name), "nested too deeply", "A spec is a few levels deep."),)) from error
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


@dataclass
class _Reading:
    """Nodes -> values, whose places go into `document`."""

    loader: _Loader
    document: Document
    place: Callable[[yaml.Mark], Place]
    environment: Mapping[str, str]
    values: int = 0
    """That were made so far."""
    characters: int = 0
    """In them."""

    def value(self, node: yaml.Node, path: KeyPath, depth: int = 0) -> Any:
        """The value of `node`, which stands at `path`."""
        if depth > _MAX_DEPTH:
            raise _refused(node, "nested too deeply, or an anchor that contains itself")
        self._count(node)
        self.document.entries.setdefault(path, self.place(node.start_mark))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value(child, (*path, number), depth + 1) for number, child in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for source in _merged(node):
            if depth > _MAX_DEPTH:
                raise _refused(node, "an anchor that is merged into itself")
            self._count(source)
            mapping |= self._mapping(source, path, depth + 1)
        own: set[str] = set()
        for key_node, value_node in node.value:
            if key_node.tag == f"{_TAG}merge":
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _refused(key_node, "a key is a word, not a list or a mapping")
            key = key_node.value
            at, place = (*path, key), self.place(key_node.start_mark)
            if key in own:
                self._fault(place, at, "the key stands here twice", "Keep one.")
            own.add(key)
            if isinstance(mapping.get(key), dict | list):  # merged in, or the key stands here twice
                self.document.forget(at)
            elif key in mapping:
                self.document.forget_one(at)
            if refers(key):
                self._fault(place, at, "a key can't come from the environment", "Write the key out; values can.")
                self.document.broken.add(at)
            self.document.entries[at] = place
            if _beside(key_node, value_node):
                self.document.values[at] = self.place(value_node.start_mark)
            mapping[key] = self.value(value_node, at, depth + 1)
        return mapping

    def _scalar(self, node: yaml.Node, path: KeyPath) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if not isinstance(node, yaml.ScalarNode) or kind not in ("str", "int", "float", "bool", "null"):
            raise _refused(node, f"the tag {node.tag.replace(_TAG, '!!')} has no meaning in a spec")
        if refers(node.value):
            node = self._resolved(node, path)
        try:
            value = self.loader.construct_object(node)
            str(value).encode()
        except (ValueError, KeyError) as error:
            raise _refused(node, f"{node.value[:40]!a} can't be read as {kind}") from error
        return value

    def _resolved(self, node: yaml.ScalarNode, path: KeyPath) -> yaml.ScalarNode:
        """The scalar with the environment's values in it: read anew where it is not quoted, or is nothing else."""
        try:
            text = resolve(node.value, self.environment)
        except EnvironmentFaultError as error:
            begin = node.start_mark
            place = self.place(begin)
            if node.value in place.text[begin.column :]:  # else it stands over several lines
                place = replace(place, column=place.text.index(node.value, begin.column) + 1 + error.at)
            self._fault(place, path, error.message, error.remedy)
            self.document.broken.add(path)
            return node
        tag = f"{_TAG}str"
        if text and (node.style is None or is_whole(node.value)):
            tag = self.loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        if tag != f"{_TAG}str":
            self.document.texts[path] = text
        return yaml.ScalarNode(tag, text, node.start_mark, node.end_mark)

    def _count(self, node: yaml.Node) -> None:
        """Counts what is made of `node`. Raises ConstructorError where it comes to too much."""
        self.values += 1
        self.characters += len(node.value) if isinstance(node, yaml.ScalarNode) else 0
        if self.values > _MAX_VALUES or self.characters > _MAX_CHARACTERS:
            raise _refused(node, f"more than {_MAX_VALUES:,} values or {_MAX_CHARACTERS:,} characters in a spec")

    def _fault(self, place: Place, path: KeyPath, message: str, remedy: str) -> None:
        self.document.faults.append(Fault(place, message, remedy, dotted(path)))


def _beside(key: yaml.Node, value: yaml.Node) -> bool:
    """Whether there is a value in the line of its key: it is neither below it, nor empty, nor an alias."""
    begin, after = value.start_mark, key.end_mark
    return bool(begin.line == after.line and begin.column >= after.column and begin.index != value.end_mark.index)


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


def _refused(node: yaml.Node, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)
