"""Stand-ins for collected nodes: they have what reporters and editors read from an item, but no test code."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from pytest_remote_ci.replay.pytest_internals import EMPTY_OF_ITEM, make_mark
from pytest_remote_ci.wire import records as wire
from pytest_remote_ci.wire.records import Location

_N = TypeVar("_N", bound="pytest.Item | pytest.Collector")


class _StandIn:
    """Common base: `type(node).__name__` and the repr are those of the remote node."""

    obj: Any = None  # pytest's nodes declare different types
    name: str
    remote_type = "Item"

    def __repr__(self) -> str:
        return f"<{self.remote_type} {self.name}>"

    def collect(self) -> list[pytest.Item | pytest.Collector]:
        """Return nothing: the children come from the records."""
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
    """A test that runs in the job."""

    remote_location: Location = ("", None, "")
    originalname: str | None = None
    callspec: SimpleNamespace

    def __getattr__(self, name: str) -> object:
        """Make an attribute that `forget_what_is_empty` removed, when it is first used."""
        make = EMPTY_OF_ITEM.get(name)
        if make is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        value = make(self)
        setattr(self, name, value)
        return value

    def forget_what_is_empty(self, known: list[str]) -> None:
        """Remove empty attributes that are rarely read; they are half of the memory of an item.

        `known`: names of these attributes in this version of pytest; filled by the first item.
        """
        if not known:
            known += [name for name in EMPTY_OF_ITEM if name in vars(self) or hasattr(type(self), name)]
        for name in known:
            delattr(self, name)

    @property
    def location(self) -> Location:
        """File, line from 0, and name, as in the remote pytest."""
        return self.remote_location

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return the same with the local path."""
        return self.path, self.remote_location[1], self.remote_location[2]

    def runtest(self) -> None:
        """Refuse to run, for plugins that run items themselves."""
        raise RuntimeError(f"{self.nodeid} runs on the runner, not here")


_BASES: Mapping[str, type[pytest.Collector]] = {
    "Class": _Class,
    "Module": _Module,
    "File": _File,
    "Dir": _Directory,
}


class Tree:
    """Makes the nodes of one session from `tree` events, in the order of those."""

    def __init__(self, session: pytest.Session, prefix: str = "") -> None:
        """`prefix`: the beginning of every node id, before the path."""
        self._session = session
        self._root = session.config.rootpath
        self._prefix = prefix
        self._nodes: list[pytest.Collector] = []
        self._types: dict[tuple[type[object], str], type] = {}
        #: Items that will run, in order; the same by node id.
        self.chosen: list[RemoteItem] = []
        self.items: dict[str, RemoteItem] = {}
        #: Items that were found, in the order of their numbers; by node id those not yet known to run.
        self._found: list[RemoteItem] = []
        self._undecided: dict[str, RemoteItem] = {}
        #: Names of attributes that new items have and few need.
        self._empty: list[str] = []
        #: Path → the same string, shared between the tests of a file.
        self._paths: dict[str, str] = {}

    def found(
        self, record: wire.CollectReport | wire.RaisedException
    ) -> list[pytest.Item | pytest.Collector]:
        """Return the nodes that a collector found."""
        self._add_nodes(record.nodes or ())
        for parent, kind, name, line, nodeid in record.items or ():
            above = self._nodes[parent]
            item = self._make_item(kind, parent, name, nodeid or f"{above.nodeid}::{name}")
            item.remote_location = (self._path(item.nodeid), line, name)
            self._found.append(item)
            self._undecided[item.nodeid] = item
        numbers = record.found or ()
        return [self._nodes[number] if number >= 0 else self._found[-1 - number] for number in numbers]

    def deselected(self, record: wire.Deselected) -> list[RemoteItem]:
        """Return the deselected items, or as many placeholders if they are not known."""
        if record.found is not None:
            return [self._found[-1 - number] for number in record.found]
        some = next(iter(self._undecided.values()), None)
        if some is None:
            some = self._typed(RemoteItem, "Function").from_parent(
                self._session, name="deselected", nodeid="deselected"
            )
        return [some] * record.count

    def _add_nodes(self, nodes: Iterable[wire.TreeNode]) -> None:
        for parent, kind, name, nodeid, path, base, doc in nodes:
            if parent < 0:
                self._nodes.append(self._session)
                continue
            if path == ".":  # the project's folder can have another name in the job
                name = self._root.name
            more = {} if base == "Class" else {"path": self._root / path}
            node = self._make(_BASES[base], kind, parent, name=name, nodeid=nodeid, **more)
            _document(node, doc)
            self._nodes.append(node)

    def add(self, record: wire.Tree) -> None:
        """Add a portion of the items that will run."""
        self._add_nodes(record.nodes)
        for (
            parent,
            kind,
            name,
            nodeid,
            location,
            has_parameters,
            original,
            is_skipped,
            doc,
            marks,
        ) in record.items:
            item = self._undecided.pop(nodeid, None)
            if item is None or type(item).__name__ != kind:
                item = self._make_item(kind, parent, name, nodeid)
            path, line, domain = location[0].replace("/", os.sep), location[1], location[2]
            name = item.name  # share the string if the names are equal
            item.remote_location = (self._same(path), line, name if domain == name else domain)
            item.originalname = name if original == name else original
            _document(item, doc)
            if has_parameters:
                item.callspec = SimpleNamespace(id=name[name.find("[") + 1 : -1], params={})
            if is_skipped:
                item.own_markers.append(pytest.mark.skip.mark)
            for mark, kwargs in marks:
                if not (is_skipped and mark == "skip"):
                    item.own_markers.append(make_mark(mark, kwargs))
            self._choose(item)

    def add_ids(self, ids: list[str]) -> None:
        """Add tests of xdist's workers, of which only the node ids are known."""
        files: dict[str, _Module] = {}
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

    def _make_item(self, kind: str, parent: int, name: str, nodeid: str) -> RemoteItem:
        # Without a node id pytest derives it from the parent's, and both share text. With "[" or "::" it would split
        # the id differently.
        is_plain = "[" not in nodeid and "::" not in name
        item = self._make(RemoteItem, kind, parent, name=name) if is_plain else None
        if item is None or item.nodeid != nodeid:  # named by a plugin
            item = self._make(RemoteItem, kind, parent, name=name, nodeid=nodeid)
        item.forget_what_is_empty(self._empty)
        return item

    def _choose(self, item: RemoteItem) -> None:
        self.chosen.append(item)
        self.items[item.nodeid] = item

    def _make(self, base: type[_N], kind: str, parent: int, **fields: object) -> _N:
        typed: Any = self._typed(base, kind)  # the parameters of `from_parent` differ
        made: _N = typed.from_parent(self._nodes[parent], **fields)
        return made

    def _typed(self, base: type[_N], kind: str) -> type[_N]:
        known: type[_N] | None = self._types.get((base, kind))
        if known is None:
            members = {"remote_type": kind, "__module__": base.__module__}
            known = self._types[base, kind] = type(kind, (base,), members)
        return known


def _document(node: pytest.Item | pytest.Collector, text: str | None) -> None:
    if text:
        node.__dict__["obj"] = type("Documented", (), {"__doc__": text})
