"""Lines of results and remarks, written to stdout and stderr with control characters escaped."""

from __future__ import annotations

import sys
from typing import TextIO

from pytest_remote_ci.terminal.ansi import clean
from pytest_remote_ci.wire.control_characters import escaped_lines


def print_line(text: str) -> None:
    """Print a line of the result. Control characters in it are escaped."""
    write(sys.stdout, escaped_lines(text) + "\n")


def print_log(text: str) -> None:
    """Print a job's output: text and colours."""
    write(sys.stdout, clean(text))


def say(text: str) -> None:
    """Print a line about the result on stderr. Control characters in it are escaped."""
    write(sys.stderr, escaped_lines(text) + "\n")


def write(stream: TextIO, text: str) -> None:
    """Write filtered text. Characters that the stream cannot encode are replaced."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()
