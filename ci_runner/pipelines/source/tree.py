"""What a file says, whatever its language: scalars, lists and tables, with places where these are known; its mistakes.

`yaml_tree` and `toml_tree` make such trees, `reading` takes typed values out of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

#: Most characters of one file: no pipeline is longer, and a stranger's must not take long.
LONGEST_FILE: Final = 256 * 1024
#: Deepest nesting, and most values after aliases are followed.
DEEPEST: Final = 60
MOST_VALUES: Final = 50_000

#: Most problems that are kept of one file; hints are looked for only at the first.
MOST_PROBLEMS: Final = 200
HINTED_PROBLEMS: Final = 50

Severity = Literal["error", "warning"]


@dataclass(frozen=True, order=True)
class Place:
    """Where something begins; both count characters from 1."""

    line: int = 1
    column: int = 1

    @property
    def is_known(self) -> bool:
        """Whether this is a place at all."""
        return self != NOWHERE


#: The place of all values of a TOML file: its parser does not give any. Mistakes name the path of the key.
NOWHERE: Final = Place(0, 0)


@dataclass(frozen=True)
class Scalar:
    """Text, number, flag, null or a date."""

    value: object
    #: As it was written, without quotes: 3.10 and 3.1 are one number, but not one Python.
    text: str
    place: Place


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True)
class Entry:
    """A key of a table and what it holds."""

    key: Place
    node: Node
    #: The table that it was taken from into this one, where there is one between.
    within: str = ""


@dataclass(frozen=True)
class Table:
    """A mapping whose keys are text, in the order of the file."""

    entries: Mapping[str, Entry]
    place: Place


Node = Scalar | Items | Table


@dataclass(frozen=True)
class Problem:
    """Something that is wrong or odd in a file, for its author."""

    file: str
    place: Place
    #: Exact path of the key, as ``jobs[2].needs[0]``; "" is the file as a whole.
    path: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        warning = "warning: " if self.severity == "warning" else ""
        path = f"{self.path}: " if self.path else ""
        place = f":{self.place.line}:{self.place.column}" if self.place.is_known else ""
        return f"{self.file}{place}: {warning}{path}{self.message}"

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return {
            "file": self.file,
            "line": self.place.line or None,
            "column": self.place.column or None,
            "path": self.path,
            "message": self.message,
            "severity": self.severity,
        }


@dataclass
class Problems:
    """All problems of one file, while it is read."""

    file: str
    found: list[Problem] = field(default_factory=list)

    def error(self, place: Place, path: str, message: str) -> None:
        """Something that must be changed."""
        self._add(Problem(self.file, place, path, message))

    def warn(self, place: Place, path: str, message: str) -> None:
        """Something that is probably not meant."""
        self._add(Problem(self.file, place, path, message, "warning"))

    def _add(self, problem: Problem) -> None:
        if (
            len(self.found) < MOST_PROBLEMS and problem not in self.found
        ):  # what an alias repeats is one mistake
            self.found.append(problem)

    @property
    def are_many(self) -> bool:
        """Whether hints would cost more than they help."""
        return len(self.found) >= HINTED_PROBLEMS

    def sorted(self) -> list[Problem]:
        """Return them in the order of the file; those without a place as they were found."""

        def order(problem: Problem) -> tuple[Place, str, str]:
            known = problem.place.is_known
            return (problem.place, problem.severity, problem.path) if known else (NOWHERE, "", "")

        return sorted(self.found, key=order)


class Unreadable(Exception):
    """The text is not of its language at all: nothing after `place` can be understood."""

    def __init__(self, place: Place, message: str, path: str = "") -> None:
        super().__init__(message)
        self.place = place
        self.path = path
        self.message = message


def below(path: str, part: str | int) -> str:
    """The path of what `part` names in `path`."""
    if isinstance(part, int):
        return f"{path}[{part}]"
    bare = part.replace("-", "").replace("_", "").isalnum()
    word = part if bare else f'"{part}"'
    return f"{path}.{word}" if path else word


def kind_of(node: Node) -> str:
    """What a node is, in words for a message."""
    if isinstance(node, Table):
        return "a table"
    if isinstance(node, Items):
        return "a list"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", type(None): "nothing"}
    return names.get(type(node.value), "a date")
