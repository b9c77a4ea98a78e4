"""What a run's output may do to the developer's terminal: colours, and nothing else.

Tests print whatever they like, and terminals obey: titles, clipboard, links, answers typed into the shell. On a
terminal only text and ``ESC [ … m`` survive. Files and pipes, behind which there may be a terminal all the same, get
characters as a direct run would write them, but no sequence other than colours. Short texts of others (names, reasons,
errors) are shown by `pytest_remote_ci.wire.control_characters` instead, which lets not even colours through.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final, TextIO

#: Everything that is not plain text, a tab or a line feed: C0, DEL, C1, bidirectional characters, separators.
SPECIAL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f]")
#: Of these: what begins a sequence, or is one by itself.
STEERING: Final = re.compile("[\x1b\x80-\x9f]")
_SGR: Final = re.compile(r"\x1b\[[0-9;:]{0,128}m")
#: What may come between ``ESC [`` and the final character. Bounded: what is longer is noise, and is read as text.
_CSI_BODY: Final = re.compile(r"[0-?]{0,128}[ -/]{0,16}")
#: ``ESC ( B`` and the like.
_ESCAPE_BODY: Final = re.compile(r"[ -/]{0,16}")
#: Ends a string such as a title. Line feed, too: a string that was never closed must not hide what follows.
_STRING_END: Final = re.compile("[\x07\x18\x1a\x1b\x9c\n]")
_STRING_OPENERS: Final = frozenset("]PX^_")  # OSC, DCS, SOS, PM, APC
_C1_STRINGS: Final = frozenset("\x9d\x90\x98\x9e\x9f")


class ColourFilter:
    """Keeps text, tabs, line feeds and colour sequences; the result does not depend on how the text was cut."""

    def __init__(self, *, for_files: bool = False) -> None:
        """`for_files`: keep other characters, too, unless they begin a sequence."""
        self._special_characters = STEERING if for_files else SPECIAL
        self._rest = ""
        self._in_string = False

    def feed(self, text: str) -> str:
        """What may be printed now; an unfinished sequence waits for the next call."""
        if not self._rest and not self._in_string and self._special_characters.search(text) is None:
            return text
        text = self._rest + text
        self._rest = ""
        kept: list[str] = []
        position = 0
        while position < len(text):
            if self._in_string:
                position = self._skip_string(text, position)
                continue
            match = self._special_characters.search(text, position)
            if match is None:
                kept.append(text[position:])
                break
            kept.append(text[position : match.start()])
            after = self._special(text, match.start(), kept)
            if after is None:
                self._rest = text[match.start() :]
                break
            position = after
        return "".join(kept)

    def flush(self) -> str:
        """What was held back and is text after all: a carriage return at the very end."""
        rest, self._rest, self._in_string = self._rest, "", False
        return "\n" if rest == "\r" else ""

    def _skip_string(self, text: str, position: int) -> int:
        match = _STRING_END.search(text, position)
        if match is None:
            return len(text)
        self._in_string = False
        return match.start() if match[0] in "\x1b\n" else match.end()  # ESC \ is read as an escape of its own

    def _special(self, text: str, start: int, kept: list[str]) -> int | None:
        """Handle the special character at `start`; the position after it, or None when more text is needed."""
        sort = text[start]
        if sort == "\r":
            return self._carriage_return(text, start, kept)
        if sort in _C1_STRINGS:
            self._in_string = True
            return start + 1
        if sort == "\x9b":  # CSI in one character
            return self._sequence(text, _CSI_BODY.match(text, start + 1), "@")
        if sort != "\x1b":
            return start + 1
        colour = _SGR.match(text, start)
        if colour is not None:
            kept.append(colour[0])
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
        assert body is not None  # the patterns match the empty text
        end = body.end()
        if end == len(text):
            return None
        # A character that cannot end the sequence breaks it off and is read anew.
        return end + 1 if first_final <= text[end] <= "~" else end

    @staticmethod
    def _carriage_return(text: str, start: int, kept: list[str]) -> int | None:
        """Overwriting a line can hide what it said: a lone carriage return becomes a line end."""
        if start + 1 == len(text):
            return None
        if text[start + 1] != "\n":
            kept.append("\n")
        return start + 1


class Output:
    """One of the process's own streams, as the place where a run's output goes."""

    def __init__(self, stream: TextIO, *, is_strict: bool = False) -> None:
        """`is_strict`: write into files what a terminal would get."""
        self._stream = stream
        self.is_terminal: Final = is_terminal(stream)
        self._filter = ColourFilter(for_files=not (self.is_terminal or is_strict))

    def write(self, text: str) -> None:
        """Write and flush; text that the stream cannot encode is replaced, never lost. Raises BrokenPipeError."""
        self._put(self._filter.feed(text))

    def close(self) -> None:
        """Write what was held back. The stream stays open."""
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
    """Whether `stream` is a terminal; a closed or foreign object is none."""
    try:
        return bool(stream.isatty())  # type: ignore[attr-defined]
    except (AttributeError, ValueError, OSError):
        return False


def silence_stdout() -> None:
    """Let the interpreter flush into nothing: the reader of stdout is gone."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):
        pass


def clean(text: str, *, for_files: bool = False) -> str:
    """A whole text as it may reach a terminal, or a file."""
    filtered = ColourFilter(for_files=for_files)
    return filtered.feed(text) + filtered.flush()


def plain(text: str) -> str:
    """The same in one line and without colours, for what is shown dim for a moment."""
    return _SGR.sub("", clean(text)).replace("\n", " ").replace("\t", " ")
