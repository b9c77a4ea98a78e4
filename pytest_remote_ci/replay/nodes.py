"""Stand-ins for the collected nodes: what reporters and editors ask of an item, and no code behind it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from _pytest.mark.structures import Mark, NodeKeywords

Location = tuple[str, "int | None", str]


class _StandIn:
    """Common to all: `type(node).__name__` and the representation are those of the remote node."""

    obj: Any = None
    name: str
    remote_type = "Item"

    def __repr__(self) -> str:
        return f"<{self.remote_type} {self.name}>"

    def collect(self) -> list[Any]:
        """Nothing: it has been collected elsewhere."""
        return []


class _Directory(_StandIn, pytest.Collector):
    pass


class _File(_StandIn, pytest.File):
    pass


class _Module(_StandIn, pytest.Module):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pytest.File.__init__(self, *args, **kwargs)


class _Class(_StandIn, pytest.Class):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pytest.Collector.__init__(self, *args, **kwargs)


class RemoteItem(_StandIn, pytest.Item):
    """A test that runs elsewhere."""

    remote_location: Location = ("", None, "")
    originalname: str | None = None

    def __getattr__(self, name: str) -> Any:
        """What `forget_what_is_empty` took away, as soon as somebody asks for it."""
        make = _EMPTY.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = make(self)
        setattr(self, name, value)
        return value

    def forget_what_is_empty(self, known: list[str]) -> None:
        """Nobody asks most items for most of what pytest gives to each; it is half of the memory that an item takes.

        `known`: the names of it in this version of pytest; filled by the first item.
        """
        if not known:
            known += [name for name in _EMPTY if name in vars(self) or hasattr(type(self), name)]
        for name in known:
            delattr(self, name)

    @property
    def location(self) -> Location:
        """File, line from 0, and name, as the remote pytest has them."""
        return self.remote_location

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """The same, with the path here."""
        return self.path, self.remote_location[1], self.remote_location[2]

    def runtest(self) -> None:
        """For plugins that run items themselves."""
        raise RuntimeError(f"{self.nodeid} runs on the runner, not here")


#: Attributes of an item that has just been made, in which there is nothing, → what makes them.
_EMPTY: Mapping[str, Callable[[Any], Any]] = {
    "keywords": NodeKeywords,
    "own_markers": lambda item: [],
    "extra_keyword_matches": lambda item: set(),
    "stash": lambda item: pytest.Stash(),
    "_store": lambda item: item.stash,  # its name in pytest 6, kept by later ones
    "_report_sections": lambda item: [],
    "user_properties": lambda item: [],
}

_BASES: Mapping[str, type[Any]] = {"Class": _Class, "Module": _Module, "File": _File, "Dir": _Directory}


class Tree:
    """Makes the nodes of one session from the `tree` events, in their order."""

    def __init__(self, session: pytest.Session, prefix: str = "") -> None:
        """`prefix`: what every node id begins with before its path."""
        self._session = session
        self._root = session.config.rootpath
        self._prefix = prefix
        self._nodes: list[Any] = []
        self._types: dict[tuple[type[Any], str], type[Any]] = {}
        #: What will run, in this order; the same by node id.
        self.chosen: list[RemoteItem] = []
        self.items: dict[str, RemoteItem] = {}
        #: What was found, in the order of its numbers; the same by node id, until it is known whether it will run.
        self._found: list[RemoteItem] = []
        self._undecided: dict[str, RemoteItem] = {}
        #: Names of attributes that new items have and few need.
        self._empty: list[str] = []
        #: Many tests lie in one file: its path, once.
        self._paths: dict[str, str] = {}

    def found(self, event: dict[str, Any]) -> list[Any]:
        """What a collector found."""
        self._add_nodes(event["nodes"])
        for parent, kind, name, line, nodeid in event["items"]:
            above = self._nodes[parent]
            item = self._make_item(kind, parent, name, nodeid or f"{above.nodeid}::{name}")
            item.remote_location = (self._path(item.nodeid), line, name)
            self._found.append(item)
            self._undecided[item.nodeid] = item
        return [self._nodes[number] if number >= 0 else self._found[-1 - number] for number in event["found"]]

    def deselected(self, event: dict[str, Any]) -> list[Any]:
        """Items that will not run; as many others where they are not known."""
        if event.get("found") is not None:
            return [self._found[-1 - number] for number in event["found"]]
        some = next(iter(self._undecided.values()), None)
        if some is None:
            some = self._typed(RemoteItem, "Function").from_parent(
                self._session, name="deselected", nodeid="deselected"
            )
        return [some] * int(event["count"])

    def _add_nodes(self, nodes: list[Any]) -> None:
        for parent, kind, name, nodeid, path, base, doc in nodes:
            if parent < 0:
                self._nodes.append(self._session)
                continue
            if path == ".":  # the project's folder may have another name over there
                name = self._root.name
            more = {} if base == "Class" else {"path": self._root / path}
            node = self._make(_BASES[base], kind, parent, name=name, nodeid=nodeid, **more)
            _document(node, doc)
            self._nodes.append(node)

    def add(self, nodes: list[Any], items: list[Any]) -> None:
        """A portion of what will run."""
        self._add_nodes(nodes)
        for parent, kind, name, nodeid, location, has_parameters, original, is_skipped, doc, *marks in items:
            item: Any = self._undecided.pop(nodeid, None)
            if item is None or type(item).__name__ != kind:
                item = self._make_item(kind, parent, name, nodeid)
            path, line, domain = str(location[0]).replace("/", os.sep), location[1], location[2]
            name = item.name  # the same string, where it is the same name
            item.remote_location = (self._same(path), line, name if domain == name else domain)
            item.originalname = name if original == name else original
            _document(item, doc)
            if has_parameters:
                item.callspec = SimpleNamespace(id=name[name.find("[") + 1 : -1], params={})
            if is_skipped:
                item.own_markers.append(pytest.mark.skip.mark)
            for mark, kwargs in marks[0] if marks else ():
                if not (is_skipped and mark == "skip"):
                    item.own_markers.append(Mark(str(mark), (), dict(kwargs), _ispytest=True))
            self._choose(item)

    def add_ids(self, ids: list[str]) -> None:
        """All that is known of tests which xdist's workers collected."""
        files: dict[str, Any] = {}
        for nodeid in ids:
            file, _, rest = nodeid.partition("::")
            path = self._path(nodeid)
            if path not in files:
                files[path] = self._typed(_Module, "Module").from_parent(
                    self._session, name=path, nodeid=file, path=self._root / path
                )
            name = rest if "[" in rest else rest.rpartition("::")[2]
            item = self._typed(RemoteItem, "Function").from_parent(files[path], name=name, nodeid=nodeid)
            item.forget_what_is_empty(self._empty)
            item.remote_location = (path, None, rest)
            self._choose(item)

    def _path(self, nodeid: str) -> str:
        return self._same(nodeid.partition("::")[0].removeprefix(self._prefix))

    def _same(self, path: str) -> str:
        return self._paths.setdefault(path, path)

    def _make_item(self, kind: str, parent: int, name: str, nodeid: str) -> Any:
        # What pytest makes of its parent's id shares text with that; of these it would make other parts of an id.
        is_plain = "[" not in nodeid and "::" not in name
        item = self._make(RemoteItem, kind, parent, name=name) if is_plain else None
        if item is None or item.nodeid != nodeid:  # as plugins name tests
            item = self._make(RemoteItem, kind, parent, name=name, nodeid=nodeid)
        item.forget_what_is_empty(self._empty)
        return item

    def _choose(self, item: Any) -> None:
        self.chosen.append(item)
        self.items[item.nodeid] = item

    def _make(self, base: type[Any], kind: str, parent: int, **fields: Any) -> Any:
        return self._typed(base, kind).from_parent(self._nodes[parent], **fields)

    def _typed(self, base: type[Any], kind: str) -> type[Any]:
        known = self._types.get((base, kind))
        if known is None:
            members = {"remote_type": kind, "__module__": base.__module__}
            known = self._types[base, kind] = type(kind, (base,), members)
        return known


def _document(node: Any, text: str | None) -> None:
    if text:
        node.obj = type("Documented", (), {"__doc__": text})
