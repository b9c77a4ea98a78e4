"""Where each key and value of a TOML document stands: `tomllib` does not say.

`find` walks a text that `tomllib` has taken already, so it looks only for where things end, never for whether they are
right.
"""

from __future__ import annotations

import re
import sys
from typing import Final

from ci_runner.pipelines.tree import Place

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Path = tuple["str | int", ...]

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_BASIC: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_LITERAL: Final = re.compile(r"'[^']*'")
_LONG_BASIC: Final = re.compile(r'"""(?:[^"\\]|\\.|"{1,2}(?!"))*"{3,5}', re.DOTALL)
_LONG_LITERAL: Final = re.compile(r"'''(?:[^']|'{1,2}(?!'))*'{3,5}", re.DOTALL)
_PLAIN: Final = re.compile(r"\d{4}-\d\d-\d\d[ ]\d\d:[^\s,\]}#]+|[^\s,\]}#]+")
_SPACE: Final = re.compile(r"[ \t]*")
_BLANK: Final = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")


class Places:
    """Path → where its key and its value begin, and how a plain value is written."""

    def __init__(self) -> None:
        self.keys: dict[Path, Place] = {}
        self.values: dict[Path, Place] = {}
        self.texts: dict[Path, str] = {}


def find(text: str) -> Places:
    """The places of everything in `text`, a valid TOML document."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.places


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._lines = [0, *(found.end() for found in re.finditer("\n", text))]
        self._line = 0
        self.places = Places()
        #: Array of tables → index of its newest.
        self._newest: dict[Path, int] = {}

    def document(self) -> None:
        prefix: Path = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            if self._text[self._at] == "[":
                prefix = self._header()
            else:
                self._pair(prefix)

    def _header(self) -> Path:
        start = self._at
        is_array = self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        parts = self._dotted()
        self._at += 2 if is_array else 1
        path: Path = ()
        for index, (part, offset) in enumerate(parts):
            path = (*path, part)
            is_last = index == len(parts) - 1
            self._mark(path, offset, start)
            if is_last and is_array:
                self._newest[path] = self._newest.get(path, -1) + 1
            if path in self._newest:
                path = (*path, self._newest[path])
                self._mark(path, start, start)
        return path

    def _pair(self, prefix: Path) -> None:
        path = prefix
        parts = self._dotted()
        for part, offset in parts:
            path = (*path, part)
            self._mark(path, offset, offset)
        self._at += 1  # the equals sign
        self._skip(_SPACE)
        self._value(path)

    def _dotted(self) -> list[tuple[str, int]]:
        """The parts of a dotted key with their offsets; stops behind it."""
        parts = []
        while True:
            self._skip(_SPACE)
            start = self._at
            parts.append((self._key(), start))
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _key(self) -> str:
        start = self._at
        first = self._text[start : start + 1]
        self._skip({'"': _BASIC, "'": _LITERAL}.get(first, _BARE_KEY))
        written = self._text[start : self._at]
        if first == '"':
            return str(tomllib.loads(f"k = {written}")["k"])
        return written[1:-1] if first == "'" else written

    def _value(self, path: Path) -> None:
        start = self._at
        self.places.values[path] = self._place(start)
        rest = self._text
        if rest.startswith("[", start):
            self._array(path)
        elif rest.startswith("{", start):
            self._inline(path)
        elif rest.startswith('"""', start):
            self._skip(_LONG_BASIC)
        elif rest.startswith("'''", start):
            self._skip(_LONG_LITERAL)
        elif rest.startswith('"', start):
            self._skip(_BASIC)
        elif rest.startswith("'", start):
            self._skip(_LITERAL)
        else:
            self._skip(_PLAIN)
            self.places.texts[path] = self._text[start : self._at]
        if self._at == start:
            raise IndexError  # no value: this is no TOML, or not as this module knows it

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while True:
            self._skip(_BLANK)
            if self._text.startswith(",", self._at):
                self._at += 1
            elif self._text.startswith("]", self._at):
                self._at += 1
                return
            else:
                self._value((*path, index))
                index += 1

    def _inline(self, path: Path) -> None:
        self._at += 1
        while True:
            self._skip(_BLANK)
            if self._text.startswith(",", self._at):
                self._at += 1
            elif self._text.startswith("}", self._at):
                self._at += 1
                return
            else:
                self._pair(path)

    def _mark(self, path: Path, key: int, value: int) -> None:
        self.places.keys.setdefault(path, self._place(key))
        self.places.values.setdefault(path, self._place(value))

    def _skip(self, pattern: re.Pattern[str]) -> None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()

    def _place(self, offset: int) -> Place:
        """Offsets only grow but for the start of a line, so the lines are walked once."""
        while self._line + 1 < len(self._lines) and self._lines[self._line + 1] <= offset:
            self._line += 1
        line = self._line
        while self._lines[line] > offset:
            line -= 1
        return Place(line + 1, offset - self._lines[line] + 1)
