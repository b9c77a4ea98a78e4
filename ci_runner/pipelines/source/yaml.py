"""Parse YAML into a tree with lines and columns, without making objects.

PyYAML's `compose` makes the nodes. It follows nesting by recursion, in C, so `_guard` checks the parser's events
first. Scalars are resolved by YAML 1.2's core schema (``on`` and ``yes`` are text), only the core tags are known, and
aliases must not expand to more than `MOST_VALUES` values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Protocol, TypeAlias

import yaml

from ci_runner.pipelines.source.tree import (
    DEEPEST,
    LONGEST_FILE,
    MOST_VALUES,
    Entry,
    Items,
    Node,
    Place,
    Problems,
    Scalar,
    Table,
    Unreadable,
    below,
)

_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,30}\Z")
_OTHER_INTEGER: Final = re.compile(r"0o[0-7]{1,30}\Z|0x[0-9a-fA-F]{1,30}\Z")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,3})?\Z")
_CORE: Final = "tag:yaml.org,2002:"
_SCALAR_TAGS: Final = frozenset(_CORE + name for name in ("str", "int", "float", "bool", "null"))
#: The tag of nodes without one in the file.
_UNTAGGED: Final = ""


#: PyYAML's loaders, and those of libyaml.
_Loader: TypeAlias = "yaml.SafeLoader | yaml.CSafeLoader"


class _Mark(Protocol):
    """A position, of PyYAML's parser or of libyaml's."""

    @property
    def line(self) -> int: ...

    @property
    def column(self) -> int: ...


class _Untagged:
    """Keeps PyYAML from resolving scalars by YAML 1.1."""

    def resolve(self, kind: object, value: object, implicit: object) -> str:
        """Return the tag for a node without one in the file."""
        return _UNTAGGED


def loader(base: type[_Loader]) -> type[_Loader]:
    """Return a loader class of PyYAML that does not resolve plain scalars."""
    made: type[_Loader] = type("_Loader", (_Untagged, base), {})
    return made


#: libyaml's parser if available: ten times as fast, with the same nodes.
_LOADER: Final = loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def parse(text: str, problems: Problems, loader: type[_Loader] = _LOADER) -> Node | None:
    """Return the tree of the only document in `text`, None if it is empty; raises `Unreadable`."""
    if len(text) > LONGEST_FILE:
        raise Unreadable(Place(), f"the file is longer than {LONGEST_FILE} characters")
    try:
        text.encode()
        content = text.removeprefix("\ufeff")
        _guard(yaml.parse(content, Loader=loader))
        root = yaml.compose(content, Loader=loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise Unreadable(_place(mark), f"not valid YAML: {what}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreadable(_place_of(text, error), f"not valid YAML: {first}") from error
    return None if root is None else _Converter(problems).convert(root, "")[0]


def _place_of(text: str, error: Exception) -> Place:
    """Return the position of a character that YAML does not allow."""
    position = getattr(error, "position", None)
    if position is None and isinstance(error, UnicodeEncodeError):
        position = error.start
    if not isinstance(position, int):
        return Place()
    before = text[:position]
    return Place(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


def _guard(events: Iterable[yaml.Event]) -> None:
    """Refuse nesting that would overflow the stack in `compose`, with better messages than PyYAML's."""
    depth = documents = 0
    anchors: dict[str, int] = {}
    for event in events:
        place = _place(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise Unreadable(place, "a second document: a file defines one pipeline")
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise Unreadable(place, f"there is no anchor &{event.anchor} before this")
        elif isinstance(event, yaml.NodeEvent):
            if event.anchor in anchors:
                first = anchors[event.anchor]
                raise Unreadable(place, f"the anchor &{event.anchor} occurs twice; first in line {first}")
            if event.anchor is not None:
                anchors[event.anchor] = place.line
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > DEEPEST:
                raise Unreadable(place, f"nested more than {DEEPEST} levels deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


class _Converter:
    """Converts PyYAML's nodes to ours, each once, even if several aliases refer to it."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        #: PyYAML's node → ours and its number of values; None while it is being converted.
        self._done: dict[yaml.Node, tuple[Node, int] | None] = {}

    def convert(self, node: yaml.Node, path: str) -> tuple[Node, int]:
        """Return our node and its number of values, including those of aliases."""
        found = self._done.get(node)
        if found is None:
            if node in self._done:
                raise Unreadable(_place(node.start_mark), "contains itself by an alias")
            self._done[node] = None
            if isinstance(node, yaml.MappingNode):
                found = self._table(node, path)
            elif isinstance(node, yaml.SequenceNode):
                found = self._items(node, path)
            else:
                assert isinstance(node, yaml.ScalarNode)
                found = _scalar(node), 1
            self._done[node] = found
        return found

    def _items(self, node: yaml.SequenceNode, path: str) -> tuple[Items, int]:
        _require_tag(node, _CORE + "seq")
        size, items = 1, []
        for index, item in enumerate(node.value):
            content, more = self.convert(item, below(path, index))
            size = _sum(size, more, content)
            items.append(content)
        return Items(tuple(items), _place(node.start_mark)), size

    def _table(self, node: yaml.MappingNode, path: str) -> tuple[Table, int]:
        _require_tag(node, _CORE + "map")
        size, entries, merged = 1, dict[str, Entry](), list[Node]()
        for key_node, value_node in node.value:
            key, place = _key(key_node), _place(key_node.start_mark)
            content, more = self.convert(value_node, below(path, key))
            size = _sum(size, more + 1, content)
            if key == "<<":
                merged += content.items if isinstance(content, Items) else (content,)
            elif key in entries:
                first = entries[key].key.line
                message = f"the key {key!r} occurs twice; first in line {first}"
                self._problems.error(place, below(path, key), message)
            else:
                entries[key] = Entry(place, content)
        for part in merged:
            if not isinstance(part, Table):
                raise Unreadable(part.place, "'<<' needs a table or a list of tables")
            for key, entry in part.entries.items():
                entries.setdefault(key, entry)
        return Table(entries, _place(node.start_mark)), size


def _sum(size: int, more: int, node: Node) -> int:
    if size + more > MOST_VALUES:
        message = f"more than {MOST_VALUES} values (aliases count as what they stand for)"
        raise Unreadable(node.place, message)
    return size + more


def _key(node: yaml.Node) -> str:
    key = _scalar(node) if isinstance(node, yaml.ScalarNode) else None
    if key is None or key.value is None:
        raise Unreadable(_place(node.start_mark), "a key must be text, not a list or a table or nothing")
    return key.text


def _scalar(node: yaml.ScalarNode) -> Scalar:
    _require_tag(node, *_SCALAR_TAGS)
    text, place = str(node.value), _place(node.start_mark)
    is_plain = node.tag != _CORE + "str" if node.tag != _UNTAGGED else node.style in (None, "")
    return Scalar(resolved(text) if is_plain else text, text, place)


def _require_tag(node: yaml.Node, *known: str) -> None:
    """Raise `Unreadable` unless the node has one of these tags, or none."""
    if node.tag != _UNTAGGED and node.tag not in known:
        raise Unreadable(
            _place(node.start_mark), f"the tag {node.tag!r} is not supported: write plain values"
        )


def resolved(text: str) -> object:
    """Return the value of a plain scalar by YAML 1.2's core schema."""
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INTEGER.match(text):
        return int(text)
    if _OTHER_INTEGER.match(text):
        return int(text, 0)
    if _FLOAT.match(text):
        return float(text)
    return text


def _place(mark: _Mark | None) -> Place:
    return Place() if mark is None else Place(mark.line + 1, mark.column + 1)
