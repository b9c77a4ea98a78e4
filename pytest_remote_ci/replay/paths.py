"""Map paths of the remote project to local ones.

In the job, paths are always POSIX; locally they can be Windows paths. Only texts of pytest itself are mapped: output
of tests stays as it is. The mapping works on text only and does not depend on reports and events.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath, PurePosixPath

from pytest_remote_ci.wire import records as wire

#: What can follow the root in a text without continuing its name: `/a/proj` is not in `/a/proj-2`.
_ROOT_ENDS = r"(?![\w+@~-]|\.\w)"
#: What must not precede the root: `/a/proj` is not in `/mnt/a/proj`, but it is in `file:///a/proj`.
_ROOT_BEGINS = r"(?<![\w.~-])"
#: The rest of a path, up to a character that surely ends it.
_REST = r"((?:/[^\s\"'<>|:*?,;()\[\]]*)?)"


class PathMapper:
    """Replaces the remote project's root in texts by the local one."""

    def __init__(self, here: PurePath | str) -> None:
        """`here`: the project's folder on this machine."""
        self._here = PurePath(here) if isinstance(here, str) else here
        self._there: PurePosixPath | None = None
        self._pattern: re.Pattern[str] | None = None
        self._separator = "/" if isinstance(self._here, PurePosixPath) else "\\"

    def learn(self, root: str) -> None:
        """Set the project's folder in the job."""
        there = PurePosixPath(root)
        self._there, self._pattern = None, None
        if not there.is_absolute() or there == PurePosixPath("/") or root == str(self._here):
            return
        self._there = there
        self._pattern = re.compile(_ROOT_BEGINS + re.escape(str(there)) + _ROOT_ENDS + _REST)

    def stay(self) -> None:
        """Map nothing, because the project is not on this machine."""
        self._there, self._pattern = None, None

    def path(self, path: str) -> str:
        """Map a path that is absolute in the project, or relative to a folder of it; return others unchanged."""
        if self._there is not None and path.startswith("/"):
            try:
                return str(self._here / PurePosixPath(path).relative_to(self._there))
            except ValueError:
                return path
        if self._separator != "/" and not path.startswith(("/", "<")):
            path = path.replace("/", self._separator)
        return path

    def location(self, location: Sequence[object] | None) -> tuple[str, int | None, str]:
        """Map a test's location: file, line and name."""
        path, line, name = location or ()
        return self.path(str(path)), line if isinstance(line, int) else None, str(name)

    def place(self, at: wire.Place) -> tuple[str, int]:
        """Map file and line; the line is limited to a sensible range."""
        return self.path(at[0]), max(1, min(at[1], 1_000_000))

    def name(self, name: str) -> str:
        """Map the name of the project's folder; return other names unchanged."""
        return self._here.name if self._there is not None and name == self._there.name else name

    def text(self, text: str) -> str:
        """Map the paths in a text that pytest made."""
        if self._pattern is not None and str(self._there) in text:
            text = self._pattern.sub(self._moved, text)
        return text

    def all(self, value: object) -> object:
        """Map every text in lists and mappings; values under the key `path` are mapped as paths."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, (list, tuple)):
            return [self.all(item) for item in value]
        if isinstance(value, dict):
            return {
                key: self.path(item) if key == "path" and isinstance(item, str) else self.all(item)
                for key, item in value.items()
            }
        return value

    def _moved(self, match: re.Match[str]) -> str:
        return str(self._here) + match[1].replace("/", self._separator)
