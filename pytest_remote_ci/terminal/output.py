"""Lines of results and remarks, written to stdout and stderr with control characters escaped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final, TextIO

from pytest_remote_ci.terminal.ansi import clean
from pytest_remote_ci.wire.control_characters import escaped, escaped_json, escaped_lines


def print_line(text: str) -> None:
    """Print a line of the result. Control characters in it are escaped."""
    write(sys.stdout, escaped_lines(text) + "\n")


def print_json(value: object) -> None:
    """Print the result as JSON, with all control characters escaped."""
    print_line(escaped_json(value, indent=2))


def print_log(text: str, stream: TextIO | None = None) -> None:
    """Print a job's output, text and colours, on stdout or `stream`."""
    write(stream or sys.stdout, clean(text))


def is_grouping() -> bool:
    """Return whether output is folded into groups: the log of GitHub Actions is."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def group_line(title: str) -> str:
    """Return the line that begins a group in the log of GitHub Actions."""
    return f"::group::{escaped(title).replace('%', '%25')}"


#: The line that ends a group.
END_OF_GROUP: Final = "::endgroup::"


def print_titled_log(title: str, text: str, stream: TextIO | None = None) -> None:
    """Print a job's output below a title: a line on stderr, or a group where output is folded."""
    if not is_grouping():
        print_message(f"--- {title}")
        print_log(text, stream)
        return
    write(stream or sys.stdout, group_line(title) + "\n")
    print_log(text if text.endswith("\n") or not text else f"{text}\n", stream)
    write(stream or sys.stdout, END_OF_GROUP + "\n")


def print_message(text: str) -> None:
    """Print a line about the result on stderr. Control characters in it are escaped."""
    write(sys.stderr, escaped_lines(text) + "\n")


class Shown:
    """The status line that is on the terminal now, which must be cleared before any other line."""

    clear: Callable[[], None] | None = None


def write(stream: TextIO, text: str) -> None:
    """Write filtered text, after clearing the status line. Characters that the stream cannot encode are replaced."""
    clear, Shown.clear = Shown.clear, None
    if clear is not None:
        clear()
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()
