"""Characters that control a terminal or reverse text, and their treatment in names, messages and JSON.

Both sides need the same list: names with such a character are refused, and in foreign texts they are escaped before
printing. Pure text, standard library only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Final

#: C0 (with line feed and tab), DEL, C1; bidirectional marks, embeddings, overrides, isolates and their deprecated
#: variants; the line and paragraph separators; unpaired surrogates, which no encoding accepts.
_CLASSES: Final = (
    r"\x00-\x1f\x7f-\x9f"
    r"\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f"
    r"\u2028\u2029"
    r"\ud800-\udfff"
)
_ANY: Final = re.compile(f"[{_CLASSES}]")
#: The same without line feed and tab.
_IN_LINES: Final = re.compile(rf"(?![\n\t])[{_CLASSES}]")


def holds_any(text: str) -> bool:
    """Return whether `text` holds such a character."""
    return not (text.isascii() and text.isprintable()) and _ANY.search(text) is not None


def name_problem(name: str) -> str | None:
    """Return why no file or folder may have this name, as words that can follow the name; None if it may."""
    match = _ANY.search(name)
    if match is None:
        return None
    char = match[0]
    if char < "\xa0" or char in "\u2028\u2029":
        return f"has a control character in its name ({_escape(match)})"
    if "\ud800" <= char <= "\udfff":
        return "has a name that is not valid Unicode"
    return f"has a character in its name that changes the direction of text ({_escape(match)})"


def escaped(value: object) -> str:
    """Return `value` as one line of text, with such characters as Python escapes: ``\\x1b``, ``\\u202e``."""
    text = value if isinstance(value, str) else str(value)
    return _ANY.sub(_escape, text) if holds_any(text) else text


def escaped_lines(text: str) -> str:
    """Return `text` with the same escapes, but with its line feeds and tabs unchanged."""
    return _IN_LINES.sub(_escape, text) if holds_any(text) else text


def escaped_json(
    value: object, *, indent: int | None = None, default: Callable[[object], object] | None = None
) -> str:
    """Return `value` as JSON in which such characters are escaped and all others are readable."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=default)
    # `json.dumps` has escaped C0 in strings, so a line feed is indentation. The other characters occur only in
    # strings.
    return _IN_LINES.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def escaped_all(value: object) -> object:
    """Return a value from JSON with all its texts `escaped`, including the names of members."""
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
