"""The collection of a recorded session: what was found and what will run, and, of a stored session, what is shown."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_remote_ci.replay.decode import Reports, exception_call
from pytest_remote_ci.replay.events import Event
from pytest_remote_ci.replay.nodes import Tree
from pytest_remote_ci.replay.paths import Places
from pytest_remote_ci.replay.selection import Choice, Unchosen


class Collection:
    """Plays the events of type `collected`; made when the local session begins."""

    def __init__(
        self, session: pytest.Session, reports: Reports, places: Places, tree: Tree | None = None, *,
        is_late: bool = False, choice: Choice | None = None,
    ) -> None:  # fmt: skip
        """`is_late`: another process submitted the job, maybe elsewhere; `choice`: only these tests are shown."""
        self._session = session
        self._hook: Any = session.config.hook
        self._reports = reports
        self._places = places
        self._is_late = is_late
        self._choice = choice
        self._tree = Tree(session) if tree is None else tree
        #: Node ids of collectors that were reported.
        self.collectors: list[str] = []
        #: Node id of a collector → its exceptions, which come before its report.
        self._exceptions: dict[str, list[Event]] = {}
        #: Tests that are not shown.
        self.unchosen = Unchosen()
        #: The session's project does not lie here.
        self.is_elsewhere = False
        #: Lines that belong below "collected … items".
        self.lines: list[str] = []

    @property
    def items(self) -> dict[str, Any]:
        """What runs, by node id."""
        return self._tree.items

    @property
    def expected(self) -> set[str]:
        """Node ids of the tests that are to be shown."""
        return self._tree.items.keys() - self.unchosen.nodeids

    def look_for(self, paths: list[str]) -> None:
        """A session may be joined from anywhere: when none of its files is here, its places stay as they are."""
        root = self._session.config.rootpath
        if self._is_late and paths and not any((root / path).exists() for path in paths):
            self.is_elsewhere = True
            self._places.stay()

    def report(self, event: Event) -> None:
        """Of one collector."""
        report = self._reports.report(event)
        if event.get("found"):
            report.result = self._shown(self._tree.found(event))
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

    def exception(self, event: Event) -> None:
        """Of a collector; its report follows."""
        self._exceptions.setdefault(event["id"], []).append(event)

    def deselected(self, event: Event) -> None:
        """There; what is deselected here follows."""
        items = self._shown(self._tree.deselected(event))
        if items:
            self._hook.pytest_deselected(items=items)

    def grow(self, event: Event) -> None:
        """A portion of what will run."""
        if not self._tree.items:
            self.look_for([str(item[4][0]) for item in event["items"]])
        self._tree.add(event["nodes"], event["items"])

    def complete(self, event: Event) -> None:
        """All of it is known."""
        items = self._shown(self._tree.chosen)
        if self._choice is not None:
            missing = self._choice.missing([*self._tree.items, *self.collectors])
            if missing:
                raise pytest.UsageError(f"not in this job: {', '.join(missing)}")
            self._choice.deselect(self._session, items)
            self.unchosen = Unchosen(self._tree.items.keys() - {item.nodeid for item in items})
        self._settle(items)
        self._remember(items)

    def add_ids(self, event: Event) -> None:
        """All that xdist's workers tell."""
        self._tree.add_ids(event["ids"])
        items = self._shown(self._tree.chosen)
        if self._choice is not None:
            self._choice.deselect(self._session, items)
            self.unchosen = Unchosen(self._tree.items.keys() - {item.nodeid for item in items})
        self._settle(items)

    def _settle(self, items: list[Any]) -> None:
        """These run."""
        self._session.items = items
        self._session.testscollected = len(items)

    def _remember(self, items: list[Any]) -> None:
        """For ``--nf`` of the next run."""
        newest: Any = self._session.config.pluginmanager.get_plugin("nfplugin")
        if hasattr(newest, "cached_nodeids"):
            newest.cached_nodeids.update(getattr(item, "id", item.nodeid) for item in items)

    def take_lines(self, event: Event) -> None:
        """Such as "run-last-failure: …"."""
        self.lines = [self._places.text(line) for line in event["lines"]]

    def _shown(self, nodes: list[Any]) -> list[Any]:
        """Those that lie below what was asked for, or hold it."""
        choice = self._choice
        if choice is None:
            return list(nodes)
        return [
            node
            for node in nodes
            if (choice.has(node.nodeid) if isinstance(node, pytest.Item) else choice.concerns(node.nodeid))
        ]
