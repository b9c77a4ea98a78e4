"""The tree for all file formats: scalars, lists and tables, with known positions, and the file's problems.

`source.yaml` and `source.toml` make such trees; `pipelines.parsing.values` converts them into typed values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

#: Maximum characters of one file, so that parsing an untrusted file is fast; no real pipeline is longer.
LONGEST_FILE: Final = 256 * 1024
#: Maximum nesting, and maximum number of values after aliases are followed.
DEEPEST: Final = 60
MOST_VALUES: Final = 50_000

#: Maximum number of problems reported per file, and of those with hints.
MOST_PROBLEMS: Final = 200
HINTED_PROBLEMS: Final = 50

Severity = Literal["error", "warning"]


@dataclass(frozen=True, order=True)
class Place:
    """A position; line and column count characters from 1."""

    line: int = 1
    column: int = 1

    @property
    def is_known(self) -> bool:
        """Whether the position is known."""
        return self != NOWHERE


#: The position of all values in a TOML file, as its parser gives none. Problems name the path of the key.
NOWHERE: Final = Place(0, 0)


@dataclass(frozen=True)
class Scalar:
    """Text, number, flag, null or a date."""

    value: object
    #: As written, without quotes: 3.10 and 3.1 are the same number, but not the same Python.
    text: str
    place: Place


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True)
class Entry:
    """A key of a table with its value."""

    key: Place
    node: Node
    #: The key of the inner table from which it was merged into this one, if any.
    within: str = ""


@dataclass(frozen=True)
class Table:
    """A mapping with text keys, in the order of the file."""

    entries: Mapping[str, Entry]
    place: Place


Node = Scalar | Items | Table


@dataclass(frozen=True)
class Problem:
    """An error or warning about a file, for its author."""

    file: str
    place: Place
    #: Exact path of the key, as ``jobs[2].needs[0]``; "" for the file as a whole.
    path: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        warning = "warning: " if self.severity == "warning" else ""
        path = f"{self.path}: " if self.path else ""
        place = f":{self.place.line}:{self.place.column}" if self.place.is_known else ""
        return f"{self.file}{place}: {warning}{path}{self.message}"


@dataclass
class Problems:
    """All problems of one file, collected while it is read."""

    file: str
    found: list[Problem] = field(default_factory=list)

    def error(self, place: Place, path: str, message: str) -> None:
        """Report an error, which must be fixed."""
        self._add(Problem(self.file, place, path, message))

    def warn(self, place: Place, path: str, message: str) -> None:
        """Report something that is probably a mistake."""
        self._add(Problem(self.file, place, path, message, "warning"))

    def _add(self, problem: Problem) -> None:
        if (
            len(self.found) < MOST_PROBLEMS and problem not in self.found
        ):  # report a problem repeated by an alias once
            self.found.append(problem)

    @property
    def are_many(self) -> bool:
        """Whether hints would cost more than they help."""
        return len(self.found) >= HINTED_PROBLEMS

    def sorted(self) -> list[Problem]:
        """Return the problems in the order of the file; those without a position stay as found."""

        def order(problem: Problem) -> tuple[Place, str, str]:
            known = problem.place.is_known
            return (problem.place, problem.severity, problem.path) if known else (NOWHERE, "", "")

        return sorted(self.found, key=order)


class Unreadable(Exception):
    """The text is not valid YAML or TOML: nothing after `place` can be parsed."""

    def __init__(self, place: Place, message: str, path: str = "") -> None:
        super().__init__(message)
        self.place = place
        self.path = path
        self.message = message


def below(path: str, part: str | int) -> str:
    """Return the path of `part` in `path`."""
    if isinstance(part, int):
        return f"{path}[{part}]"
    bare = part.replace("-", "").replace("_", "").isalnum()
    word = part if bare else f'"{part}"'
    return f"{path}.{word}" if path else word


def kind_of(node: Node) -> str:
    """Return the kind of a node in words, for a message."""
    if isinstance(node, Table):
        return "a table"
    if isinstance(node, Items):
        return "a list"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", type(None): "nothing"}
    return names.get(type(node.value), "a date")
