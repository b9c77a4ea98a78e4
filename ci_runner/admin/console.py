"""Output for the administrator: lines, tables, JSON, and a confirmation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from ci_runner.errors import RequestError
from pytest_remote_ci.wire.control_characters import escaped, escaped_json, escaped_lines


class Console:
    """Writes to the given streams only text that their encoding can show, and nothing that controls a terminal."""

    def __init__(self, out: TextIO, err: TextIO, stdin: TextIO) -> None:
        self._out = out
        self._err = err
        self._in = stdin

    def line(self, text: str = "") -> None:
        """Write a line to standard output."""
        _write(self._out, text + "\n")

    def error(self, text: str) -> None:
        """Write ``Error: …`` to standard error."""
        _write(self._err, f"Error: {text}\n")

    def json(self, value: object) -> None:
        """Write JSON, for programs."""
        self.line(escaped_json(value, indent=2))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table with columns as wide as their contents."""
        rows = [[escaped(cell) for cell in row] for row in rows]
        widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
            for row in (head, *rows)
        ]
        self.line()
        self.line(lines[0].rstrip())
        self.line("-" * len(lines[0]))
        for line in lines[1:]:
            self.line(line.rstrip())
        self.line()

    def confirm(self, question: str) -> None:
        """Ask for confirmation on stderr. Raises `RequestError` unless the answer is yes, or without a terminal."""
        if not self._in.isatty():
            raise RequestError("There is no terminal to confirm on: use --yes")
        _write(self._err, f"{question} [y/N] ")
        self._err.flush()
        if self._in.readline().strip().lower() not in ("y", "yes"):
            raise RequestError("Not confirmed; nothing was changed")


def label(text: str, what: str) -> str:
    """Return `text` without surrounding spaces; refuses empty, overlong and unprintable names."""
    name = text.strip()
    if not name:
        raise RequestError(f"The {what} must not be empty")
    if len(name) > 200 or not name.isprintable():
        raise RequestError(f"The {what} must be at most 200 printable characters")
    return name


def _write(stream: TextIO, text: str) -> None:
    text = escaped_lines(text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding))
