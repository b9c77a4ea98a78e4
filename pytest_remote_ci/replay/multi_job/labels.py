"""Labels by which the sessions of several jobs become one: each node id begins with its job's label.

The label looks like a folder: ``tests (python=3.12)/tests/test_a.py::test_x``. So the same test in two cells of a
matrix is two tests for every reporter, and both still show their file. Events are rewritten before they are played;
paths and lines stay those of the local files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pytest_remote_ci.wire import records as wire
from pytest_remote_ci.wire.control_characters import escaped

#: Records with the id of a test or collector in `id`.
_WITH_ID = (
    wire.Started,
    wire.Passed,
    wire.LogPiece,
    wire.Finished,
    wire.RaisedException,
    wire.RecordedWarning,
    wire.JunitAttribute,
)
#: Characters with a meaning in node ids, and their replacements.
_MEANING = str.maketrans({"/": "_", "\\": "_", "[": "(", "]": ")", "\n": " ", "\t": " "})


def labels_of(names: Iterable[str]) -> dict[str, str]:
    """Return job's name → label; labels are unique, and none contains characters with a meaning in node ids."""
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
        #: The beginning of node ids; "" without a label.
        self.prefix = f"{label}/" if label else ""
        #: Local path of the job's rootdir and rootdir of this session, if they differ.
        self._roots: tuple[Path, Path] | None = None
        #: Local path of the job's working directory and start folder of this pytest, if they differ.
        self._starts: tuple[Path, Path] | None = None

    def set_paths(self, root: Path, cwd: Path, here: Path, started: Path) -> None:
        """Set local paths of the job's rootdir and working directory; `here` and `started` are this session's."""
        self._roots = None if root == here else (root, here)
        self._starts = None if cwd == started else (cwd, started)

    def nodeid(self, nodeid: str) -> str:
        """Return the local node id of a node id in the job."""
        if nodeid in ("", "."):
            return self.label or nodeid
        return self.prefix + self._located(nodeid)

    def plain(self, nodeid: str) -> str | None:
        """Return the node id without the label; None if it belongs to another job."""
        return nodeid[len(self.prefix) :] if nodeid.startswith(self.prefix) else None

    def words(self, text: str, nodeids: Iterable[str]) -> str:
        """Replace the job's names of these tests in a text by the local ones."""
        for nodeid in nodeids:
            there = nodeid.removeprefix(self.prefix)
            if self._roots is not None:
                file, colons, names = there.partition("::")
                there = _from((self._roots[1], self._roots[0]), file) + colons + names
            text = text.replace(f"running {there}", f"running {nodeid}")
        return text

    def record(self, record: wire.Record) -> wire.Record:
        """Return the record as it is played."""
        changed: dict[str, object] = {}
        if isinstance(record, _WITH_ID) and record.id:
            changed["id"] = self.nodeid(record.id)
        if isinstance(record, (wire.Started, wire.Passed, wire.Finished)) and record.location:
            changed["location"] = self._location(record.location)
        elif isinstance(record, wire.RecordedWarning) and record.location:
            path, line, name = record.location
            changed["location"] = (self._located(path), line, name)
        elif isinstance(record, (wire.Report, wire.CollectReport)):
            changed["d"] = self._report(record.d, is_test=isinstance(record, wire.Report))
        elif isinstance(record, wire.CollectedIds):
            changed["ids"] = [self.nodeid(nodeid) for nodeid in record.ids]
        elif isinstance(record, wire.Tree):
            changed["items"] = [self._item(item) for item in record.items]
        if isinstance(record, (wire.CollectReport, wire.RaisedException)) and record.items:
            changed["items"] = [self._found(item) for item in record.items]
        if isinstance(record, (wire.CollectReport, wire.RaisedException, wire.Tree)) and record.nodes:
            changed["nodes"] = [self._node(node) for node in record.nodes]
        return record.replace(**changed) if changed else record

    def _report(self, data: wire.ReportData, *, is_test: bool) -> wire.ReportData:
        report = {**data, "nodeid": self.nodeid(str(data["nodeid"]))}
        place = data.get("location")
        if is_test and isinstance(place, (list, tuple)) and place:
            path, line, name = place
            report["location"] = list(self._location((str(path), line, name)))
        longrepr = data.get("longrepr")
        if self._starts is not None and isinstance(longrepr, (Mapping, list)):
            report["longrepr"] = self._relative_to_session(longrepr)
        return report

    def _node(self, node: wire.TreeNode) -> wire.TreeNode:
        return node._replace(nodeid=self.nodeid(node.nodeid), path=self._located(node.path))

    def _item(self, item: wire.TreeItem) -> wire.TreeItem:
        return item._replace(nodeid=self.nodeid(item.nodeid), location=self._location(item.location))

    def _found(self, item: wire.FoundItem) -> wire.FoundItem:
        return item._replace(nodeid=self.nodeid(item.nodeid)) if item.nodeid else item

    def _location(self, location: wire.Location) -> wire.Location:
        """Map a test's location; its name, the headline of a failure, gets the label."""
        path, line, name = location
        return self._located(path), line, f"{self.label}: {name}" if self.label else name

    def _located(self, path: str) -> str:
        """Map a path or node id relative to the job's rootdir to one relative to the local rootdir."""
        if self._roots is None or not path:
            return path
        file, colons, names = path.partition("::")
        return _from(self._roots, file) + colons + names

    def _relative_to_session(self, value: object) -> object:
        """Map the locations in an error representation, which are relative to pytest's start folder."""
        if isinstance(value, Mapping):
            changed = {key: self._relative_to_session(item) for key, item in value.items()}
            place = changed.get("reprfileloc")
            if isinstance(place, dict) and self._starts is not None:
                changed["reprfileloc"] = {**place, "path": _from(self._starts, str(place["path"]))}
            return changed
        if isinstance(value, (list, tuple)):
            return [self._relative_to_session(item) for item in value]
        return value


def _from(folders: tuple[Path, Path], path: str) -> str:
    """Make a path relative to the second folder instead of the first, in POSIX form."""
    if path.startswith(("/", "<")):
        return path
    try:
        return os.path.relpath(folders[0] / path, folders[1]).replace(os.sep, "/")
    except ValueError:  # on another drive
        return path
