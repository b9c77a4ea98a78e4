"""Select the tests of a stored session to show: pytest's own ``-k``, ``-m`` and ``--deselect``, paths and node ids.

pytest itself evaluates the expressions, on stand-ins with the names and marks of the real items.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from pytest_remote_ci.wire.events import Event

#: pytest's own plugins that deselect: ``-k`` and ``-m``; ``--deselect``.
_DESELECTING = ("mark", "main")


class Choice:
    """The selection by a replay's arguments."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        given = getattr(config.option, "file_or_dir", None) or ()
        #: Argument → node id, "" for everything.
        self._wanted = {str(text): _nodeid(str(text), config) for text in given}

    def has(self, nodeid: str) -> bool:
        """Whether a given path or node id contains this test; without arguments True."""
        return not self._wanted or any(_is_below(nodeid, wanted) for wanted in self._wanted.values())

    def concerns(self, nodeid: str) -> bool:
        """Whether this collector is, contains, or is in a given path or node id."""
        return (
            nodeid == "."
            or self.has(nodeid)
            or any(_is_below(wanted, nodeid) for wanted in self._wanted.values())
        )

    def missing(self, nodeids: Sequence[str]) -> list[str]:
        """Return the arguments that match none of these tests and collectors."""
        return [
            text
            for text, wanted in self._wanted.items()
            if not any(_is_below(nodeid, wanted) for nodeid in nodeids)
        ]

    @property
    def has_paths(self) -> bool:
        """Whether paths or node ids were given."""
        return bool(self._wanted)

    def deselect(self, session: pytest.Session, items: list[pytest.Item]) -> None:
        """Remove deselected tests from `items`, and report them as pytest does. Raises `pytest.UsageError`."""
        manager = self._config.pluginmanager
        asked = [manager.get_plugin(name) for name in _DESELECTING]
        others = [plugin for plugin in manager.get_plugins() if plugin not in asked]
        hook = manager.subset_hook_caller("pytest_collection_modifyitems", others)
        hook(session=session, config=self._config, items=items)


def _nodeid(text: str, config: pytest.Config) -> str:
    """Return the node id of an argument; a path that does not exist locally is taken as a node id."""
    name, colons, rest = text.partition("::")
    path = Path(os.path.normpath(Path(config.invocation_params.dir) / name))
    if not path.exists() or not path.is_relative_to(config.rootpath):
        return text.rstrip("/")
    inside = path.relative_to(config.rootpath).as_posix()
    return ("" if inside == "." else inside) + colons + rest


def _is_below(nodeid: str, wanted: str) -> bool:
    return wanted in ("", nodeid) or nodeid.startswith((f"{wanted}/", f"{wanted}::", f"{wanted}["))


class Unchosen:
    """The tests of a stored session that are not shown."""

    def __init__(self, nodeids: Iterable[str] = ()) -> None:
        self.nodeids = frozenset(nodeids)
        self._running: set[str] = set()

    def covers(self, event: Event, *, others_run: bool) -> bool:
        """Whether this event is hidden; `others_run`: a shown test has begun and not ended."""
        if not self.nodeids:
            return False
        kind, nodeid = event.kind, event.nodeid
        if nodeid is not None and nodeid in self.nodeids:
            if kind == "started":
                self._running.add(nodeid)
            elif kind == "finished":
                self._running.discard(nodeid)
            return True
        is_output = kind == "terminal" or (event.type == "log" and event.stream != "runner")
        return is_output and bool(self._running) and not others_run
