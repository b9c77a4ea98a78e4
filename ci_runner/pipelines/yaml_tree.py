"""YAML as a tree with places, made from the parser's events: no objects, no recursion, no bombs.

Scalars are resolved by YAML 1.2's core rules (``on`` and ``yes`` are text). A key that comes twice is an error, aliases
may not add up to more than `MOST_VALUES` values nor contain themselves, and only the core tags are known.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from ci_runner.pipelines.tree import (
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

#: libyaml's parser where it is there: ten times as fast, the same events.
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

_INTEGER: Final = re.compile(r"[-+]?[0-9]{1,30}\Z")
_OTHER_INTEGER: Final = re.compile(r"0o[0-7]{1,30}\Z|0x[0-9a-fA-F]{1,30}\Z")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]{1,40}|[0-9]{1,40}(\.[0-9]{0,40})?)([eE][-+]?[0-9]{1,3})?\Z")
_TAGS: Final = {
    f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "map", "seq")
}


@dataclass
class _Open:
    """A list or table whose end has not come."""

    place: Place
    anchor: str | None
    is_table: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    #: The key whose value comes next.
    key: tuple[str, Place] | None = None
    #: Tables that ``<<`` brings in.
    merged: list[Node] = field(default_factory=list)
    size: int = 1


def parse(text: str, problems: Problems) -> Node | None:
    """The tree of the only document in `text`, None when there is none; raises `Unreadable`."""
    if len(text) > LONGEST_FILE:
        raise Unreadable(Place(), f"the file is longer than {LONGEST_FILE} characters")
    try:
        text.encode()
        return _Composer(problems).compose(yaml.parse(text.removeprefix("\ufeff"), Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(mark.line + 1, mark.column + 1) if mark is not None else Place()
        what = " ".join(str(part) for part in (error.context, error.problem) if part)
        raise Unreadable(place, f"not valid YAML: {what}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unreadable(_place_of(text, error), f"not valid YAML: {first}") from error


def _place_of(text: str, error: Exception) -> Place:
    """Where the reader stumbled over a character that YAML does not allow."""
    position = getattr(error, "position", None)
    if position is None and isinstance(error, UnicodeEncodeError):
        position = error.start
    if not isinstance(position, int):
        return Place()
    before = text[:position]
    return Place(before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1)


class _Composer:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._stack: list[_Open] = []
        #: Anchor → the finished node and how many values it holds; None while it is open.
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._root: Node | None = None

    def compose(self, events: Iterator[Any]) -> Node | None:
        documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise Unreadable(_place(event), "a second document: a file holds one pipeline")
            elif isinstance(event, yaml.ScalarEvent):
                self._finished(self._scalar(event), 1, event.anchor)
            elif isinstance(event, yaml.AliasEvent):
                self._alias(event)
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._open(event)
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                self._close()
        return self._root

    def _open(self, event: Any) -> None:
        _tag(event, "map" if isinstance(event, yaml.MappingStartEvent) else "seq")
        if len(self._stack) >= DEEPEST:
            raise Unreadable(_place(event), f"nested more than {DEEPEST} levels deep")
        top = self._stack[-1] if self._stack else None
        if top is not None and top.is_table and top.key is None:
            raise Unreadable(_place(event), "a key must be text, not a list or a table")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._stack.append(_Open(_place(event), event.anchor, isinstance(event, yaml.MappingStartEvent)))

    def _close(self) -> None:
        done = self._stack.pop()
        if not done.is_table:
            self._finished(Items(tuple(done.items), done.place), done.size, done.anchor)
            return
        entries = dict(done.entries)
        for table in done.merged:
            for part in table.items if isinstance(table, Items) else (table,):
                if not isinstance(part, Table):
                    raise Unreadable(part.place, "'<<' takes a table, or a list of tables")
                for key, entry in part.entries.items():
                    entries.setdefault(key, entry)
        self._finished(Table(entries, done.place), done.size, done.anchor)

    def _alias(self, event: Any) -> None:
        if event.anchor not in self._anchors:
            raise Unreadable(_place(event), f"there is no anchor &{event.anchor} before this")
        target = self._anchors[event.anchor]
        if target is None:
            raise Unreadable(_place(event), f"*{event.anchor} contains itself")
        self._finished(*target, None)

    def _finished(self, node: Node, size: int, anchor: str | None) -> None:
        """`node`, which holds `size` values, is complete: it goes where it belongs."""
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if not self._stack:
            self._root = node
            return
        top = self._stack[-1]
        top.size += size
        if top.size > MOST_VALUES:
            raise Unreadable(
                node.place, f"more than {MOST_VALUES} values (aliases count as what they stand for)"
            )
        if not top.is_table:
            top.items.append(node)
        elif top.key is None:
            top.key = self._key(node), node.place
        else:
            self._entry(top, *top.key, node)
            top.key = None

    def _path(self) -> str:
        """Where the value that comes next belongs."""
        path = ""
        for part in self._stack:
            path = below(path, part.key[0] if part.key is not None else len(part.items))
        return path

    def _key(self, node: Node) -> str:
        if not isinstance(node, Scalar) or node.value is None:
            raise Unreadable(node.place, "a key must be text, not a list or a table or nothing")
        return node.text

    def _entry(self, table: _Open, key: str, place: Place, node: Node) -> None:
        if key == "<<":
            table.merged.append(node)
        elif key in table.entries:
            first = table.entries[key].key
            self._problems.error(
                place, self._path(), f"the key {key!r} is there twice; first in line {first.line}"
            )
        else:
            table.entries[key] = Entry(place, node)

    def _scalar(self, event: Any) -> Scalar:
        tag = _tag(event, None)
        text: str = event.value
        if tag == "str" or (tag is None and event.style not in (None, "")):
            return Scalar(text, text, _place(event))
        return Scalar(resolved(text), text, _place(event))


def resolved(text: str) -> object:
    """The value of a plain scalar by YAML 1.2's core schema."""
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


def _tag(event: Any, container: str | None) -> str | None:
    """The core tag that is written at an event, or None; raises `Unreadable` for others."""
    if event.tag is None:
        return None
    tag = _TAGS.get(event.tag, "!" if event.tag == "!" else None)
    if tag is None or (container is not None and tag not in (container, "!")):
        raise Unreadable(_place(event), f"the tag {event.tag!r} is not supported: write plain values")
    return "str" if tag == "!" else tag


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)
