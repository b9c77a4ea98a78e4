"""Paths of the project over there, as the paths that they are here.

Where tests run paths are always POSIX; here they may be Windows'. Only what pytest itself says is translated: what
tests print stays as they printed it. Pure text; knows nothing of reports and events.
"""

from __future__ import annotations

import re
from pathlib import PurePath, PurePosixPath
from typing import Any

#: What may follow the root in a text without being more of the same name: `/a/proj` is not in `/a/proj-2`.
_ROOT_ENDS = r"(?![\w+@~-]|\.\w)"
#: What must not come before it: `/a/proj` is not in `/mnt/a/proj`, but it is in `file:///a/proj`.
_ROOT_BEGINS = r"(?<![\w.~-])"
#: Characters that surely end a path in a text.
_REST = r"((?:/[^\s\"'<>|:*?,;()\[\]]*)?)"


class Places:
    """The remote project's root in texts, replaced by the one here."""

    def __init__(self, here: PurePath | str) -> None:
        """`here`: the project's folder on this machine."""
        self._here = PurePath(here) if isinstance(here, str) else here
        self._there: PurePosixPath | None = None
        self._pattern: re.Pattern[str] | None = None
        self._separator = "/" if isinstance(self._here, PurePosixPath) else "\\"

    def learn(self, root: str) -> None:
        """Where the project is over there."""
        there = PurePosixPath(root)
        self._there, self._pattern = None, None
        if not there.is_absolute() or there == PurePosixPath("/") or root == str(self._here):
            return
        self._there = there
        self._pattern = re.compile(_ROOT_BEGINS + re.escape(str(there)) + _ROOT_ENDS + _REST)

    def stay(self) -> None:
        """The project is not here: show its places as they are."""
        self._there, self._pattern = None, None

    def path(self, path: str) -> str:
        """One path: absolute in the project, or relative to a folder of it; others are returned as they are."""
        if self._there is not None and path.startswith("/"):
            try:
                return str(self._here / PurePosixPath(path).relative_to(self._there))
            except ValueError:
                return path
        if self._separator != "/" and not path.startswith(("/", "<")):
            path = path.replace("/", self._separator)
        return path

    def location(self, location: Any) -> tuple[str, int | None, str]:
        """Of a test: file, line and name."""
        return self.path(str(location[0])), location[1], str(location[2])

    def place(self, at: Any) -> tuple[str, int]:
        """File and line here, of those over there; the line within reason."""
        return self.path(str(at[0])), max(1, min(int(at[1]), 1_000_000))

    def name(self, name: str) -> str:
        """The name of the project's folder, where it is one."""
        return self._here.name if self._there is not None and name == self._there.name else name

    def text(self, text: str) -> str:
        """A text that pytest made, with paths in it."""
        if self._pattern is not None and str(self._there) in text:
            text = self._pattern.sub(self._moved, text)
        return text

    def all(self, value: Any) -> Any:
        """Every text in lists and mappings; what is there under the name `path` is a path."""
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
