"""Patterns in the syntax of `.gitignore`: the one language of ignore files, `include` and `exclude`.

In git work trees, git itself applies ignore files. This module is for folders without git and for the configured
lists. The semantics are those of gitignore(5): the last matching pattern decides, a pattern with a slash before its
end is anchored, ``**`` crosses folders, and a match of a folder includes everything in it. Case is significant on
every platform. The library `pathspec` (1.1) is not used because it disagrees with git in 7 of the 65 cases that the
tests compare with git (classes such as ``[[:digit:]]``, ``data/`` before ``!data/keep.txt``; ``[z-a]`` raises an
error), and takes 1.4 times as long to walk a tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

_POSIX_CLASSES: Final = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "blank": " \t",
    "digit": "0-9",
    "lower": "a-z",
    "punct": "!-/:-@\\[-`{-~",
    "space": " \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9A-Fa-f",
}


@dataclass(frozen=True)
class Pattern:
    """One line of an ignore file."""

    #: The line as it was written.
    text: str
    #: Matches a whole path relative to the pattern's location, or only the path's last part; see `anchored`.
    regex: str
    #: Starts with ``!``: includes again what an earlier pattern matched.
    negated: bool
    #: Ends with ``/``: matches folders only.
    only_folders: bool
    #: Compared with the whole path, instead of only its last part.
    anchored: bool

    @property
    def prefix(self) -> str:
        """The folders that the pattern names literally, such as ``a/b`` for ``/a/b/*.c``; "" if there are none."""
        if not self.anchored:
            return ""
        parts = self.text.lstrip("!/").rstrip("/").split("/")[:-1]
        plain = next((index for index, part in enumerate(parts) if re.search(r"[*?\[\\]", part)), len(parts))
        return "/".join(parts[:plain])

    @property
    def names_files(self) -> bool:
        """Whether the pattern can match files and its last part is more than wildcards, as in ``keys/*.pem``."""
        return not self.only_folders and not self.negated and bool(self.text.rsplit("/", 1)[-1].strip("*?"))


def parse(line: str) -> Pattern | None:
    """Return the pattern of one line; None for blank lines, comments and lines that cannot match anything."""
    text = line.rstrip("\r\n")
    stripped = text.rstrip(" ")
    trailing = len(stripped) - len(stripped.rstrip("\\"))
    if trailing % 2 and len(stripped) < len(text):
        stripped += " "  # a space that is escaped by a backslash
    elif trailing % 2:
        return None  # as in git: a pattern that ends with a backslash never matches
    body = stripped
    if not body or body.startswith("#"):
        return None
    negated = body.startswith("!")
    body = body[1:] if negated else body
    only_folders = body.endswith("/")
    body = body[:-1] if only_folders else body
    anchored = "/" in body
    body = body.removeprefix("/")
    if not body:
        return None
    return Pattern(stripped, _translate(body), negated, only_folders, anchored)


def _translate(body: str) -> str:
    """Return the regular expression for a pattern without its ``!``, its leading and its trailing slash."""
    parts = body.split("/")
    result = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            if last:
                result += ".+" if index else ".*"
            else:
                result += "(?:.*/)?"
            continue
        result += _translate_part(part) + ("" if last else "/")
    return result


def _translate_part(part: str) -> str:
    result = ""
    at = 0
    while at < len(part):
        char = part[at]
        at += 1
        if char == "*":
            while at < len(part) and part[at] == "*":
                at += 1
            result += "[^/]*"
        elif char == "?":
            result += "[^/]"
        elif char == "\\" and at < len(part):
            result += re.escape(part[at])
            at += 1
        elif char == "[" and (end := _class_end(part, at)) is not None:
            result += _translate_class(part[at:end])
            at = end + 1
        elif char == "[":
            return "(?!)"  # as in git: an unclosed class never matches
        else:
            result += re.escape(char)
    return result


def _class_end(part: str, at: int) -> int | None:
    """Return the index of the ``]`` that ends the character class with content from index `at`; None if unclosed."""
    start = at + 1 if part[at : at + 1] in ("!", "^") else at
    index = start
    while index < len(part):
        if part[index] == "]" and index > start:
            return index
        if part.startswith("[:", index):
            index = part.find(":]", index) + 1 or len(part)
        elif part[index] == "\\":
            index += 1
        index += 1
    return None


def _translate_class(content: str) -> str:
    negated = content[0] in "!^"
    content = content[1:] if negated else content
    result = ""
    at = 0
    while at < len(content):
        named = re.compile(r"\[:([a-z]+):\]").match(content, at)
        if named:
            if named[1] not in _POSIX_CLASSES:
                return "(?!)"
            result += _POSIX_CLASSES[named[1]]
            at = named.end()
            continue
        if content[at] == "\\" and at + 1 < len(content):
            at += 1
            result += "\\" + content[at] if not content[at].isalnum() else content[at]
        elif content[at] == "-" and 0 < at < len(content) - 1:
            result += "-"
        else:
            result += re.escape(content[at])
        at += 1
    expression = f"(?!/)[{'^' if negated else ''}{result}]"
    try:
        re.compile(expression)
    except re.error:  # a range such as [z-a]
        return "(?!)"
    return expression


@dataclass
class PatternList:
    """An ordered list of patterns; the last one that matches decides.

    Build it with `PatternList.of`. Paths are relative to the location of the patterns, in POSIX form.
    """

    patterns: tuple[Pattern, ...]
    _folders: dict[str, bool | None] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Most paths match no pattern. One alternation per kind rejects these quickly.
        named = [pattern.regex for pattern in self.patterns if not pattern.anchored]
        anchored = [pattern.regex for pattern in self.patterns if pattern.anchored]
        self._any_name = _alternation(named)
        self._any_path = _alternation(anchored)
        self._compiled = [
            (pattern, re.compile(pattern.regex, re.DOTALL)) for pattern in reversed(self.patterns)
        ]

    @classmethod
    def of(cls, lines: Iterable[str]) -> PatternList:
        """Return the patterns of some lines. ``./`` at the beginning of a line is dropped."""
        parsed = (parse(line.removeprefix("./") if line.startswith("./") else line) for line in lines)
        return cls(tuple(pattern for pattern in parsed if pattern is not None))

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def decide(self, path: str, is_folder: bool) -> bool | None:
        """Return True if the last match is a plain pattern, False if it is a ``!`` pattern, None if nothing matches.

        Only `path` itself is matched, not its parent folders.
        """
        found = self.deciding(path, is_folder)
        return None if found is None else not found.negated

    def deciding(self, path: str, is_folder: bool) -> Pattern | None:
        """Return the last pattern that matches `path` itself, or None."""
        name = path.rsplit("/", 1)[-1]
        if not (
            (self._any_name is not None and self._any_name.fullmatch(name))
            or (self._any_path is not None and self._any_path.fullmatch(path))
        ):
            return None
        for pattern, regex in self._compiled:
            if pattern.only_folders and not is_folder:
                continue
            if regex.fullmatch(path if pattern.anchored else name):
                return pattern
        return None

    def covers(self, path: str, is_folder: bool = False) -> bool:
        """Return whether `path` or a folder that contains it is matched. As in git, a matched folder is final."""
        head, slash, _ = path.rpartition("/")
        if slash and self._covers_folder(head):
            return True
        return self.decide(path, is_folder) is True

    def _covers_folder(self, path: str) -> bool:
        known = self._folders.get(path)
        if known is None:
            known = self._folders[path] = self.covers(path, is_folder=True)
        return known


def _alternation(expressions: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(f"(?:{text})" for text in expressions), re.DOTALL) if expressions else None
