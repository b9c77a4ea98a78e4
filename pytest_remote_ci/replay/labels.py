"""The sessions of several jobs told as one: which job a test is of stands before its path.

A test's node id begins with its job's label as if that was a folder: ``tests (python=3.12)/tests/test_a.py::test_x``.
So the same test in two cells of a matrix is two tests for every reporter, and each still says which file it is in.
Events are rewritten before they are played; paths and lines stay those of the files here.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_remote_ci.replay.feed import Event

#: Events whose `id` is a test or a collector.
_WITH_ID = frozenset({"started", "finished", "exception", "warning", "junit_attribute"})
#: Characters that mean something in a node id.
_MEANING = str.maketrans({"/": "_", "\\": "_", "[": "(", "]": ")", "\n": " ", "\t": " "})


def labels_of(names: Iterable[str]) -> dict[str, str]:
    """Job's name → its label, which has nothing that means something in a node id; no two are the same."""
    found: dict[str, str] = {}
    for name in names:
        plain = name.translate(_MEANING).replace("::", ":").strip()
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
        #: Its rootdir, as seen from the one here.
        self._folder = ""
        #: From where the session runs to where this one does, as far as paths here; "": the same.
        self._way = ""

    def settle(self, root: Path, cwd: Path, here: Path, started: Path) -> None:
        """Where its rootdir and working directory are here; `here` and `started` are those of this session."""
        self._folder = _way(here, root)
        self._way = _way(started, cwd)

    def nodeid(self, nodeid: str) -> str:
        """The node id here."""
        return self.label if nodeid in ("", ".") else self.prefix + nodeid

    def plain(self, nodeid: str) -> str | None:
        """The node id there, relative to the rootdir here; None: it is of another job."""
        if not nodeid.startswith(self.prefix):
            return None
        return self._located(nodeid[len(self.prefix) :])

    def words(self, text: str, nodeids: Iterable[str]) -> str:
        """A text that names one of these tests: so that it does it as here."""
        for nodeid in nodeids:
            text = text.replace(f"running {nodeid.removeprefix(self.prefix)}", f"running {nodeid}")
        return text

    def event(self, event: Event) -> Event:
        """The event as it is played."""
        kind = event.get("t")
        changed: dict[str, Any] = {}
        if kind in _WITH_ID and event.get("id"):
            changed["id"] = self.nodeid(str(event["id"]))
        if kind in ("started", "finished") and event.get("location"):
            changed["location"] = self._location(event["location"])
        elif kind == "warning" and event.get("location"):
            path, *rest = event["location"]
            changed["location"] = [self._located(str(path)), *rest]
        if isinstance(event.get("d"), Mapping):
            changed["d"] = self._report(event["d"], is_test=kind == "report")
        if event.get("nodes"):
            changed["nodes"] = [[*node[:3], self.nodeid(str(node[3])), *node[4:]] for node in event["nodes"]]
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
        if self._way and isinstance(longrepr, (Mapping, list)):
            report["longrepr"] = self._seen_from_here(longrepr)
        return report

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
        if not self._folder or not path:
            return path
        file, colons, names = path.partition("::")
        return posixpath.normpath(f"{self._folder}/{file}") + colons + names

    def _seen_from_here(self, value: Any) -> Any:
        """A representation of an error: its places are relative to where pytest was started."""
        if isinstance(value, Mapping):
            changed = {key: self._seen_from_here(item) for key, item in value.items()}
            place = changed.get("reprfileloc")
            if isinstance(place, dict) and isinstance(place.get("path"), str):
                path = place["path"]
                if not path.startswith(("/", "<")):
                    changed["reprfileloc"] = {**place, "path": posixpath.normpath(f"{self._way}/{path}")}
            return changed
        if isinstance(value, (list, tuple)):
            return [self._seen_from_here(item) for item in value]
        return value


def _way(start: Path, end: Path) -> str:
    """From one folder to another, in POSIX form; "": they are one, or there is no way."""
    try:
        way = os.path.relpath(end, start).replace(os.sep, "/")
    except ValueError:  # on another drive
        return ""
    return "" if way == "." else way
