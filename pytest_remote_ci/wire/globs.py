"""Patterns for the files that a run leaves behind, with one meaning on both sides.

A pattern is relative to the project. `*`, `?` and `[…]` match within one name, also one that begins with a dot. `**`
matches any number of folders. A pattern that matches a folder includes everything below it. Names are matched part by
part on the way down, so a tree is walked only where something can match. This is not the language of `.gitignore`,
where a name without a slash matches in every folder. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import translate
from typing import Final

from pytest_remote_ci.wire import control_characters

MAX_LENGTH: Final = 1024
#: Most wildcards in one part of a pattern. Each name is compared with all of them, and real patterns need fewer.
_MAX_STARS: Final = 16
_WILD: Final = re.compile(r"[*?\[]")
_DRIVE: Final = re.compile(r"[A-Za-z]:")

#: Positions in patterns at which real ones are at the same time, at most.
_USUAL: Final = 32

#: A part's match function; None for `**`, any number of folders.
_Part = Callable[[str], object] | None
#: (index of a pattern, index of its next part).
_Place = tuple[int, int]


def problem(pattern: str) -> str | None:
    """Return why `pattern` is invalid, as words that can follow it; None if it is valid."""
    if not pattern.strip("/. \t"):
        return None if pattern == "." else "names nothing"
    if len(pattern) > MAX_LENGTH:
        return f"is longer than {MAX_LENGTH} characters"
    if control_characters.holds_any(pattern):
        return "contains a control character"
    if "\\" in pattern:
        return "contains a backslash: write / between folders"
    parts = pattern.split("/")
    if pattern.startswith("/") or _DRIVE.match(pattern) or ".." in parts:
        return "must match paths inside the project, without '..'"
    if any(part.count("*") > _MAX_STARS for part in parts):
        return f"has more than {_MAX_STARS} '*' in one name"
    return None


def below(folder: str, pattern: str) -> str:
    """Return the pattern that matches below `folder` what `pattern` matches; "" is no folder."""
    if not folder:
        return pattern
    escaped = re.sub(r"([*?\[])", r"[\1]", folder)
    return escaped if pattern == "." else f"{escaped}/{pattern}"


@dataclass(frozen=True)
class Step:
    """A file or folder on the way down."""

    _globs: Globs
    _places: frozenset[_Place]
    #: Indexes of the patterns that match it, or a folder above it.
    hits: frozenset[int]

    @property
    def cost(self) -> int:
        """How much the comparison of one name with the patterns costs; 1 for as many as real projects have."""
        return 1 + len(self._places) // _USUAL

    def down(self, name: str) -> Step | None:
        """Return the step for `name` in this folder; None if neither it nor anything below it can match."""
        places = self._globs.after(self._places, name)
        if not places and not self.hits:
            return None
        return Step(self._globs, places, self.hits | self._globs.complete(places))


class Globs:
    """A list of valid patterns; `problem` has returned None for each."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        self._parts = [_parts(pattern) for pattern in self.patterns]

    def root(self) -> Step:
        """Return the step for the project's folder."""
        places = self._closed((number, 0) for number in range(len(self._parts)))
        return Step(self, places, self.complete(places))

    def match(self, path: str) -> frozenset[int]:
        """Return the indexes of the patterns that match `path`, or a folder that contains it."""
        step: Step | None = self.root()
        for name in path.split("/"):
            step = step.down(name) if step is not None else None
        return step.hits if step is not None else frozenset()

    def after(self, places: frozenset[_Place], name: str) -> frozenset[_Place]:
        """Return the positions in the patterns after one more name (for `Step`)."""
        found = []
        for number, index in places:
            parts = self._parts[number]
            if index == len(parts):
                continue
            part = parts[index]
            if part is None:
                found.append((number, index))
            elif part(name):
                found.append((number, index + 1))
        return self._closed(found)

    def complete(self, places: frozenset[_Place]) -> frozenset[int]:
        """Return the indexes of the patterns that are matched to their end (for `Step`)."""
        return frozenset(number for number, index in places if index == len(self._parts[number]))

    def _closed(self, places: Iterable[_Place]) -> frozenset[_Place]:
        """Return `places` and those behind each `**`, because `**` may match no folder at all."""
        found = set()
        for number, start in places:
            index = start
            found.add((number, index))
            while index < len(self._parts[number]) and self._parts[number][index] is None:
                index += 1
                found.add((number, index))
        return frozenset(found)


def _parts(pattern: str) -> list[_Part]:
    names = [part for part in pattern.split("/") if part not in ("", ".")]
    parts = [None if name == "**" else _part(name) for name in names]
    # Several `**` in a row mean what one means, and would cost their square for each name.
    return [
        part for number, part in enumerate(parts) if part is not None or parts[number - 1 : number] != [None]
    ]


def _part(name: str) -> _Part:
    if not _WILD.search(name):
        return name.__eq__
    return re.compile(translate(re.sub(r"\*+", "*", name))).match
