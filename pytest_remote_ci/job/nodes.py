"""Encode the collection as records: each node has a number and is sent before its children.

The counterpart on the developer's machine is `pytest_remote_ci.replay.nodes`. Standard library and pytest only.
"""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING, Iterable, NamedTuple

import pytest

from ..wire.records import FoundItem, MarkData, TreeItem, TreeNode

if TYPE_CHECKING:
    from .pytest_internals import Node

#: Types of mark arguments that ``-m "name(key=value)"`` can match.
_ASKED_FOR = (str, int, bool, type(None))


class Found(NamedTuple):
    """What a collector found."""

    #: New nodes, new items, and the numbers of all of them.
    nodes: list[TreeNode]
    items: list[FoundItem]
    numbers: list[int]


class Tree:
    """Collectors and items by number; each is sent once, before its first child."""

    def __init__(self, config: pytest.Config) -> None:
        self._root = str(config.rootpath)
        self._wants_docs = config.option.collectonly and config.option.verbose >= 1
        self._numbers: dict[int, int] = {}
        self._items: dict[int, int] = {}
        #: Keeps numbered nodes alive, so that no other object gets the same id().
        self._nodes: list[object] = []
        self._new: list[TreeNode] = []
        #: id(collector) -> its marks, with those of its parents.
        self._marks_of: dict[int, list[MarkData]] = {}

    def found(self, result: Iterable[pytest.Item | pytest.Collector]) -> Found:
        """Return what a collector found."""
        items: list[FoundItem] = []
        numbers = []
        for node in result:
            if not isinstance(node, pytest.Item):
                numbers.append(self._number(node))
                continue
            if id(node) not in self._items:
                self._items[id(node)] = -len(self._items) - 1
                self._nodes.append(node)
                items.append(self._new_item(node))
            numbers.append(self._items[id(node)])
        return Found(self.pop_new_nodes(), items, numbers)

    def numbers(self, items: Iterable[pytest.Item]) -> list[int] | None:
        """Return the numbers of found items; None if one of them was not found by a collector."""
        numbers = [self._items.get(id(item), 0) for item in items]
        return None if 0 in numbers else numbers

    def item(self, item: pytest.Item) -> TreeItem:
        """Return an item that will run, with the marks of its parents."""
        return TreeItem(
            self._number(item.parent),
            type(item).__name__,
            item.name,
            item.nodeid,
            item.location,
            getattr(item, "callspec", None) is not None,
            getattr(item, "originalname", None),
            _is_skipped(item),
            self._doc(item),
            tuple(_own_marks(item) + self._marks_above(item.parent)),
        )

    def pop_new_nodes(self) -> list[TreeNode]:
        """Return the nodes that are new."""
        nodes, self._new = self._new, []
        return nodes

    def _new_item(self, item: pytest.Item) -> FoundItem:
        parent = item.parent
        above = "" if parent is None else parent.nodeid
        nodeid = None if item.nodeid == f"{above}::{item.name}" else item.nodeid
        try:
            line = item.location[1]
        except Exception:  # a plugin's item; running it will show the error
            line = None
        return FoundItem(self._number(parent), type(item).__name__, item.name, line, nodeid)

    def _marks_above(self, node: Node | None) -> list[MarkData]:
        """Return the marks of the parents, nearest first."""
        if node is None:
            return []
        known = self._marks_of.get(id(node))
        if known is None:
            known = self._marks_of[id(node)] = _own_marks(node) + self._marks_above(node.parent)
        return known

    def _number(self, node: Node | None) -> int:
        if node is None:
            raise ValueError("a test outside of the session")
        known = self._numbers.get(id(node))
        if known is not None:
            return known
        parent = -1 if node.parent is None else self._number(node.parent)
        self._numbers[id(node)] = number = len(self._numbers)
        self._nodes.append(node)
        self._new.append(
            TreeNode(
                parent,
                type(node).__name__,
                node.name,
                node.nodeid,
                self._path(node),
                _base(node),
                self._doc(node),
            )
        )
        return number

    def _path(self, node: Node) -> str:
        try:
            return os.path.relpath(str(node.path), self._root).replace(os.sep, "/")
        except ValueError:
            return str(node.path)

    def _doc(self, node: Node) -> str | None:
        obj = getattr(node, "obj", None) if self._wants_docs else None
        return inspect.getdoc(obj) if obj else None


def _own_marks(node: Node) -> list[MarkData]:
    return [
        (mark.name, {key: value for key, value in mark.kwargs.items() if isinstance(value, _ASKED_FOR)})
        for mark in node.own_markers
    ]


def _base(node: object) -> str:
    for kind in (pytest.Class, pytest.Module, pytest.File):
        if isinstance(node, kind):
            return kind.__name__
    return "Dir"


def _is_skipped(item: pytest.Item) -> bool:
    """Whether editors show the item as skipped: they check the marks of the item and its classes."""
    node: Node | None = item
    while node is not None and (node is item or isinstance(node, pytest.Class)):
        for mark in node.own_markers:
            if mark.name == "skip" or (mark.name == "skipif" and _any(mark.args)):
                return True
        node = node.parent
    return False


def _any(values: Iterable[object]) -> bool:
    try:
        return any(values)
    except Exception:  # a condition that has no truth value
        return False
