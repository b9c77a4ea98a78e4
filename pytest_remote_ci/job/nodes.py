"""What was collected inside a container, as the `tree` records say it: each node by number, told before its children.

The developer's side of it is `pytest_remote_ci.replay.nodes`. Standard library and pytest only.
"""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest

#: What an argument of a mark may be for ``-m "name(key=value)"``.
_ASKED_FOR = (str, int, bool, type(None))


class Tree:
    """Nodes by number: each is told once, before its first child."""

    def __init__(self, config: Any) -> None:
        self._root = str(config.rootpath)
        self._wants_docs = config.option.collectonly and config.option.verbose >= 1
        self._numbers: dict[int, int] = {}
        self._new: list[Any] = []

    def item(self, item: Any) -> list[Any]:
        """[parent, type, name, node id, location, has parameters, original name, is skipped, documentation, marks]"""
        skipped = any(mark.name == "skip" for mark in item.own_markers)
        return [
            self._number(item.parent), type(item).__name__, item.name, item.nodeid, list(item.location),
            getattr(item, "callspec", None) is not None, getattr(item, "originalname", None), skipped, self._doc(item),
            *_marks(item),
        ]  # fmt: skip

    def take_nodes(self) -> list[Any]:
        """New nodes: [parent, type, name, node id, path, base, documentation, marks]; the session's parent is -1."""
        nodes, self._new = self._new, []
        return nodes

    def _number(self, node: Any) -> int:
        known = self._numbers.get(id(node))
        if known is not None:
            return known
        parent = -1 if node.parent is None else self._number(node.parent)
        self._numbers[id(node)] = number = len(self._numbers)
        self._new.append(
            [
                parent,
                type(node).__name__,
                node.name,
                node.nodeid,
                self._path(node),
                _base(node),
                self._doc(node),
                *_marks(node),
            ]
        )
        return number

    def _path(self, node: Any) -> str:
        try:
            return os.path.relpath(str(node.path), self._root).replace(os.sep, "/")
        except ValueError:
            return str(node.path)

    def _doc(self, node: Any) -> str | None:
        obj = getattr(node, "obj", None) if self._wants_docs else None
        return inspect.getdoc(obj) if obj else None


def _marks(node: Any) -> list[Any]:
    """One list of the node's own marks, or nothing: [name, keyword arguments that ``-m`` can ask for]"""
    marks = [
        [mark.name, {key: value for key, value in mark.kwargs.items() if isinstance(value, _ASKED_FOR)}]
        for mark in node.own_markers
    ]
    return [marks] if marks else []


def _base(node: Any) -> str:
    for kind in (pytest.Class, pytest.Module, pytest.File):
        if isinstance(node, kind):
            return kind.__name__
    return "Dir"
