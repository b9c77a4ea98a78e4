"""The collection of a recorded session: found tests, tests that will run and, in a replay, tests that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pytest

from pytest_remote_ci.replay.decode import Reports, exception_call
from pytest_remote_ci.replay.nodes import RemoteItem, Tree
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.replay.selection import Choice, Unchosen
from pytest_remote_ci.wire import records as wire

_N = TypeVar("_N", bound="pytest.Item | pytest.Collector")


class Collection:
    """Plays the records of the collection; made when the local session begins."""

    def __init__(
        self,
        session: pytest.Session,
        reports: Reports,
        places: PathMapper,
        tree: Tree | None = None,
        *,
        is_late: bool = False,
        choice: Choice | None = None,
    ) -> None:
        """`is_late`: another process submitted the job, maybe elsewhere; `choice`: only these tests are shown."""
        self._session = session
        self._hook = session.config.hook
        self._reports = reports
        self._places = places
        self._is_late = is_late
        self._choice = choice
        self._tree = Tree(session) if tree is None else tree
        #: Node ids of reported collectors.
        self.collectors: list[str] = []
        #: Node id of a collector → its exceptions, which precede its report.
        self._exceptions: dict[str, list[wire.RaisedException]] = {}
        #: Tests that are not shown.
        self.unchosen = Unchosen()
        #: Whether the session's project is not in the local folder.
        self.is_elsewhere = False
        #: Lines to show below "collected … items".
        self.lines: list[str] = []

    @property
    def items(self) -> dict[str, RemoteItem]:
        """Items that will run, by node id."""
        return self._tree.items

    @property
    def expected(self) -> set[str]:
        """Node ids of the tests to show."""
        return self._tree.items.keys() - self.unchosen.nodeids

    def check_paths(self, paths: list[str]) -> None:
        """Leave remote paths unmapped if no file exists locally: a session can be joined from any folder."""
        root = self._session.config.rootpath
        if self._is_late and paths and not any((root / path).exists() for path in paths):
            self.is_elsewhere = True
            self._places.stay()

    def report(self, record: wire.CollectReport) -> None:
        """Play the report of one collector."""
        report = self._reports.report(record)
        if record.found:
            report.__dict__["result"] = self._shown(self._tree.found(record))
        self.collectors.append(report.nodeid)
        exceptions = [
            (self._tree.found(exception)[0], exception_call(exception, report, self._places))
            for exception in self._exceptions.pop(report.nodeid, ())
        ]
        if self._choice is not None and not self._choice.concerns(report.nodeid):
            return
        for node, call in exceptions:
            self._hook.pytest_exception_interact(node=node, call=call, report=report)
        self._hook.pytest_collectreport(report=report)

    def exception(self, record: wire.RaisedException) -> None:
        """Store a collector's exception until its report."""
        self._exceptions.setdefault(record.id, []).append(record)

    def deselected(self, record: wire.Deselected) -> None:
        """Report tests deselected in the job; those deselected locally follow."""
        items = self._shown(self._tree.deselected(record))
        if items:
            self._hook.pytest_deselected(items=items)

    def grow(self, record: wire.Tree) -> None:
        """Add a portion of the items that will run."""
        if not self._tree.items:
            self.check_paths([item.location[0] for item in record.items])
        self._tree.add(record)

    def complete(self) -> None:
        """Finish the collection, once all items are known. Raises `pytest.UsageError` for an unmatched argument."""
        items: list[pytest.Item] = [*self._shown(self._tree.chosen)]
        if self._choice is not None:
            missing = self._choice.missing([*self._tree.items, *self.collectors])
            if missing:
                raise pytest.UsageError(f"not in this job: {', '.join(missing)}")
            self._choice.deselect(self._session, items)
            self.unchosen = Unchosen(self._tree.items.keys() - {item.nodeid for item in items})
        self._set_items(items)
        self._remember(items)

    def add_ids(self, record: wire.CollectedIds) -> None:
        """Add the tests of xdist's workers, all of them at once."""
        self._tree.add_ids(record.ids)
        items: list[pytest.Item] = [*self._shown(self._tree.chosen)]
        if self._choice is not None:
            self._choice.deselect(self._session, items)
            self.unchosen = Unchosen(self._tree.items.keys() - {item.nodeid for item in items})
        self._set_items(items)

    def _set_items(self, items: list[pytest.Item]) -> None:
        """Set the session's items."""
        self._session.items = items
        self._session.testscollected = len(items)

    def _remember(self, items: list[pytest.Item]) -> None:
        """Remember the items for ``--nf`` of the next session."""
        newest = self._session.config.pluginmanager.get_plugin("nfplugin")
        known = getattr(newest, "cached_nodeids", None)
        if known is not None:
            known.update(getattr(item, "id", item.nodeid) for item in items)

    def store_lines(self, record: wire.CollectionLines) -> None:
        """Store lines such as "run-last-failure: …"."""
        self.lines = [self._places.text(line) for line in record.lines]

    def _shown(self, nodes: Sequence[_N]) -> list[_N]:
        """Return the nodes that are, contain, or are in the selected ones."""
        choice = self._choice
        if choice is None:
            return list(nodes)
        return [
            node
            for node in nodes
            if (choice.has(node.nodeid) if isinstance(node, pytest.Item) else choice.concerns(node.nodeid))
        ]
