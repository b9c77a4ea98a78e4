"""Filter for a run's output: colours pass, every other control of the terminal is removed.

Tests can print anything, and terminals act on it: titles, clipboard, links, answers typed into the shell. To a
terminal, only text and ``ESC [ … m`` are written. To files and pipes, which may lead to a terminal too, characters are
written as a direct run would, but no sequences other than colours. For short foreign texts (names, reasons, errors) use
`pytest_remote_ci.wire.control_characters` instead, which removes colours as well.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final, TextIO

#: Everything except plain text, tab and line feed: C0, DEL, C1, bidirectional characters, separators.
SPECIAL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]")
#: The subset that begins a control sequence or is one by itself.
STEERING: Final = re.compile("[\x1b\x80-\x9f]")
_SGR: Final = re.compile(r"\x1b\[[0-9;:]{0,128}m")
#: The characters between ``ESC [`` and the final one. Bounded: anything longer is noise and is read as text.
_CSI_BODY: Final = re.compile(r"[0-?]{0,128}[ -/]{0,16}")
#: ``ESC ( B`` and similar sequences.
_ESCAPE_BODY: Final = re.compile(r"[ -/]{0,16}")
#: End of a string such as a title. Includes line feed, so that an unclosed string does not hide the text after it.
_STRING_END: Final = re.compile("[\x07\x18\x1a\x1b\x9c\n]")
_STRING_OPENERS: Final = frozenset("]PX^_")  # OSC, DCS, SOS, PM, APC
_C1_STRINGS: Final = frozenset("\x9d\x90\x98\x9e\x9f")


class ColourFilter:
    """Filter that keeps text, tabs, line feeds and colours. The result does not depend on how the text is split."""

    def __init__(self, *, for_files: bool = False) -> None:
        """Create a filter; with `for_files`, other characters pass too, unless they begin a sequence."""
        self._special_characters = STEERING if for_files else SPECIAL
        self._rest = ""
        self._in_string = False

    def feed(self, text: str) -> str:
        """Return the text that can be printed now. An unfinished sequence is held back until the next call."""
        if not self._rest and not self._in_string and self._special_characters.search(text) is None:
            return text
        text = self._rest + text
        self._rest = ""
        pieces: list[str] = []
        position = 0
        while position < len(text):
            if self._in_string:
                position = self._skip_string(text, position)
                continue
            match = self._special_characters.search(text, position)
            if match is None:
                pieces.append(text[position:])
                break
            pieces.append(text[position : match.start()])
            after = self._special(text, match.start(), pieces)
            if after is None:
                self._rest = text[match.start() :]
                break
            position = after
        return "".join(pieces)

    def flush(self) -> str:
        """Return text that was held back: a carriage return at the very end becomes a line feed."""
        rest, self._rest, self._in_string = self._rest, "", False
        return "\n" if rest == "\r" else ""

    def _skip_string(self, text: str, position: int) -> int:
        match = _STRING_END.search(text, position)
        if match is None:
            return len(text)
        self._in_string = False
        return match.start() if match[0] in "\x1b\n" else match.end()  # ESC \ is read as a separate escape

    def _special(self, text: str, start: int, pieces: list[str]) -> int | None:
        """Handle the special character at `start`; return the position after it, or None if more text is needed."""
        sort = text[start]
        if sort == "\r":
            return self._carriage_return(text, start, pieces)
        if sort in _C1_STRINGS:
            self._in_string = True
            return start + 1
        if sort == "\x9b":  # CSI in one character
            return self._sequence(text, _CSI_BODY.match(text, start + 1), "@")
        if sort != "\x1b":
            return start + 1
        colour = _SGR.match(text, start)
        if colour is not None:
            pieces.append(colour[0])
            return colour.end()
        if start + 1 == len(text):
            return None
        following = text[start + 1]
        if following == "[":
            return self._sequence(text, _CSI_BODY.match(text, start + 2), "@")
        if following in _STRING_OPENERS:
            self._in_string = True
            return start + 2
        return self._sequence(text, _ESCAPE_BODY.match(text, start + 1), "0")

    @staticmethod
    def _sequence(text: str, body: re.Match[str] | None, first_final: str) -> int | None:
        assert body is not None  # the patterns match the empty text, too
        end = body.end()
        if end == len(text):
            return None
        # A character that cannot end the sequence interrupts it and is parsed again.
        return end + 1 if first_final <= text[end] <= "~" else end

    @staticmethod
    def _carriage_return(text: str, start: int, pieces: list[str]) -> int | None:
        """Turn a lone carriage return into a line feed, because overwriting a line could hide its text."""
        if start + 1 == len(text):
            return None
        if text[start + 1] != "\n":
            pieces.append("\n")
        return start + 1


class Output:
    """A filtered stream of this process, for a run's output."""

    def __init__(self, stream: TextIO, *, is_strict: bool = False) -> None:
        """Wrap `stream`; with `is_strict`, files and pipes get the same text as a terminal."""
        self._stream = stream
        self.is_terminal: Final = is_terminal(stream)
        self._filter = ColourFilter(for_files=not (self.is_terminal or is_strict))

    def write(self, text: str) -> None:
        """Write and flush. Characters that the stream cannot encode are replaced. Raises BrokenPipeError."""
        self._put(self._filter.feed(text))

    def close(self) -> None:
        """Write any text that was held back. The stream stays open."""
        self._put(self._filter.flush())

    def _put(self, text: str) -> None:
        if not text:
            return
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()


def is_terminal(stream: object) -> bool:
    """Return whether `stream` is a terminal; False for a closed or foreign object."""
    isatty = getattr(stream, "isatty", None)
    try:
        return isatty is not None and bool(isatty())
    except (AttributeError, ValueError, OSError):
        return False


def silence_stdout() -> None:
    """Redirect stdout to the null device, so that the interpreter can flush after the reader is gone."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass


def clean(text: str, *, for_files: bool = False) -> str:
    """Return a whole text, filtered for a terminal or, with `for_files`, for a file."""
    filtered = ColourFilter(for_files=for_files)
    return filtered.feed(text) + filtered.flush()


def plain(text: str) -> str:
    """Return a text filtered to one line without colours, for a status line."""
    return _SGR.sub("", clean(text)).replace("\n", " ").replace("\t", " ")
