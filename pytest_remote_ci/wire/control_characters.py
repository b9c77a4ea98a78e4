"""Characters that steer a terminal or turn text around, and what becomes of them in names, messages and JSON.

Both sides need the same list: names that hold one of these are refused, and texts of others are printed without them.
Pure text, standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Final

#: C0 (with line feed and tab), DEL, C1; bidirectional marks, embeddings, overrides, isolates and their deprecated
#: kin; the line and paragraph separators; halves of surrogate pairs, which no encoding takes.
_CLASSES: Final = (
    r"\x00-\x1f\x7f-\x9f"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
    r"\u2028\u2029"
    r"\ud800-\udfff"
)
_ANY: Final = re.compile(f"[{_CLASSES}]")
#: The same without what ends a line or moves on in it.
_IN_LINES: Final = re.compile(rf"(?![\n\t])[{_CLASSES}]")


def holds_any(text: str) -> bool:
    """Return whether `text` holds such a character."""
    return not (text.isascii() and text.isprintable()) and _ANY.search(text) is not None


def name_problem(name: str) -> str | None:
    """Say, in words that follow it, why no file or folder may have this name; None when it may."""
    match = _ANY.search(name)
    if match is None:
        return None
    char = match[0]
    if char < "\xa0" or char in "\u2028\u2029":
        return f"has a control character in its name ({_escape(match)})"
    if "\ud800" <= char <= "\udfff":
        return "has a name that is not valid Unicode"
    return f"has a character in its name that turns text around ({_escape(match)})"


def escaped(value: object) -> str:
    """Return the text of `value` in one line, with such characters as Python writes them: ``\\x1b``, ``\\u202e``."""
    text = value if isinstance(value, str) else str(value)
    return _ANY.sub(_escape, text) if holds_any(text) else text


def escaped_lines(text: str) -> str:
    """Return `text` with the same escapes, but with its line feeds and tabs."""
    return _IN_LINES.sub(_escape, text) if holds_any(text) else text


def escaped_json(
    value: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None
) -> str:
    """Return `value` as JSON in which such characters are escaped and all others readable."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=default)
    # What is left of them can only be in strings, but for the line feeds of an indentation.
    return _IN_LINES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def escaped_all(value: Any) -> Any:
    """Return what was read from JSON with every text in it, names of members too, `escaped`."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, list):
        return [escaped_all(item) for item in value]
    if isinstance(value, dict):
        return {escaped(name): escaped_all(item) for name, item in value.items()}
    return value


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    short = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    if short is not None:
        return short
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\u{ord(char):04x}"
