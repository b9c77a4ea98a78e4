"""The sessions of several jobs told as one: which job a test is of stands before its path.

A test's node id begins with its job's label as if that was a folder: ``tests (python=3.12)/tests/test_a.py::test_x``.
So the same test in two cells of a matrix is two tests for every reporter, and each still says which file it is in.
Events are rewritten before they are played; paths and lines stay those of the files here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_remote_ci.replay.events import Event
from pytest_remote_ci.wire.control_characters import escaped

#: Events whose `id` is a test or a collector.
_WITH_ID = frozenset({"started", "passed", "logs", "finished", "exception", "warning", "junit_attribute"})
#: Characters that mean something in a node id.
_MEANING = str.maketrans({"/": "_", "\\": "_", "[": "(", "]": ")", "\n": " ", "\t": " "})


def labels_of(names: Iterable[str]) -> dict[str, str]:
    """Job's name → its label, which has nothing that means something in a node id; no two are the same."""
    found: dict[str, str] = {}
    for name in names:
        plain = escaped(name.translate(_MEANING)).replace("::", ":").strip()
        label, number = plain, 1
        while label in found.values():
            number += 1
            label = f"{plain} #{number}"
        found[name] = label
    return found


class Labelling:
    """Rewrites the events of one job's session."""

    def __init__(self, label: str) -> None:
        self.label = label
        #: What node ids begin with.
        self.prefix = f"{label}/"
        #: Its rootdir and the one of this session, where they differ.
        self._roots: tuple[Path, Path] | None = None
        #: Its working directory and where this pytest was started, where they differ.
        self._starts: tuple[Path, Path] | None = None

    def settle(self, root: Path, cwd: Path, here: Path, started: Path) -> None:
        """Where its rootdir and working directory are here; `here` and `started` are those of this session."""
        self._roots = None if root == here else (root, here)
        self._starts = None if cwd == started else (cwd, started)

    def nodeid(self, nodeid: str) -> str:
        """The node id here."""
        return self.label if nodeid in ("", ".") else self.prefix + self._located(nodeid)

    def plain(self, nodeid: str) -> str | None:
        """What a session of this project here calls the same; None: it is of another job."""
        return nodeid[len(self.prefix) :] if nodeid.startswith(self.prefix) else None

    def words(self, text: str, nodeids: Iterable[str]) -> str:
        """A text that names one of these tests: so that it does it as here."""
        for nodeid in nodeids:
            there = nodeid.removeprefix(self.prefix)
            if self._roots is not None:
                file, colons, names = there.partition("::")
                there = _from((self._roots[1], self._roots[0]), file) + colons + names
            text = text.replace(f"running {there}", f"running {nodeid}")
        return text

    def event(self, event: Event) -> Event:
        """The event as it is played."""
        kind = event.get("t")
        changed: dict[str, Any] = {}
        if kind in _WITH_ID and event.get("id"):
            changed["id"] = self.nodeid(str(event["id"]))
        if kind in ("started", "passed", "finished") and event.get("location"):
            changed["location"] = self._location(event["location"])
        elif kind == "warning" and event.get("location"):
            path, *rest = event["location"]
            changed["location"] = [self._located(str(path)), *rest]
        if isinstance(event.get("d"), Mapping):
            changed["d"] = self._report(event["d"], is_test=kind == "report")
        if event.get("nodes"):
            changed["nodes"] = [self._node(entry) for entry in event["nodes"]]
        if event.get("items"):
            item = self._item if kind == "tree" else self._found
            changed["items"] = [item(entry) for entry in event["items"]]
        if event.get("ids"):
            changed["ids"] = [self.nodeid(str(nodeid)) for nodeid in event["ids"]]
        return {**event, **changed} if changed else event

    def _report(self, data: Mapping[str, Any], *, is_test: bool) -> dict[str, Any]:
        report = {**data, "nodeid": self.nodeid(str(data["nodeid"]))}
        if is_test and data.get("location"):
            report["location"] = self._location(data["location"])
        longrepr = data.get("longrepr")
        if self._starts is not None and isinstance(longrepr, (Mapping, list)):
            report["longrepr"] = self._seen_from_here(longrepr)
        return report

    def _node(self, entry: list[Any]) -> list[Any]:
        return [*entry[:3], self.nodeid(str(entry[3])), self._located(str(entry[4])), *entry[5:]]

    def _item(self, entry: list[Any]) -> list[Any]:
        return [*entry[:3], self.nodeid(str(entry[3])), self._location(entry[4]), *entry[5:]]

    def _found(self, entry: list[Any]) -> list[Any]:
        return [*entry[:4], self.nodeid(str(entry[4])) if entry[4] else entry[4], *entry[5:]]

    def _location(self, location: Any) -> list[Any]:
        """Of a test; its name, which is the headline of a failure, says the job, too."""
        path, line, name = location
        return [self._located(str(path)), line, f"{self.label}: {name}"]

    def _located(self, path: str) -> str:
        """A path, or a node id, relative to the rootdir there: to the one here."""
        if self._roots is None or not path:
            return path
        file, colons, names = path.partition("::")
        return _from(self._roots, file) + colons + names

    def _seen_from_here(self, value: Any) -> Any:
        """A representation of an error: its places are relative to where pytest was started."""
        if isinstance(value, Mapping):
            changed = {key: self._seen_from_here(item) for key, item in value.items()}
            place = changed.get("reprfileloc")
            if isinstance(place, dict) and self._starts is not None:
                changed["reprfileloc"] = {**place, "path": _from(self._starts, str(place["path"]))}
            return changed
        if isinstance(value, (list, tuple)):
            return [self._seen_from_here(item) for item in value]
        return value


def _from(folders: tuple[Path, Path], path: str) -> str:
    """A path relative to the first folder, relative to the second, in POSIX form."""
    if path.startswith(("/", "<")):
        return path
    try:
        return os.path.relpath(folders[0] / path, folders[1]).replace(os.sep, "/")
    except ValueError:  # on another drive
        return path
