"""Parse TOML into a tree. Its values have no positions, because `tomllib` gives none."""

from __future__ import annotations

import re
import sys
from typing import Final

from ci_runner.dependencies.bounded_toml import MOST_PARTS, line_of_long_key
from ci_runner.pipelines.source.tree import (
    DEEPEST,
    LONGEST_FILE,
    NOWHERE,
    Entry,
    Items,
    Node,
    Place,
    Scalar,
    Table,
    Unreadable,
    below,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_AT: Final = re.compile(r" \(at line (\d+), column (\d+)\)\Z| \(at end of document\)\Z")
#: Python refuses to write longer numbers in decimal.
_LONGEST_NUMBER: Final = 1_000


class _Float(float):
    """A float that keeps its spelling."""

    text: str

    def __new__(cls, text: str) -> _Float:
        made = super().__new__(cls, text)
        made.text = text
        return made


def parse(text: str) -> Table:
    """Return the tree of a TOML document; raises `Unreadable`."""
    if len(text) > LONGEST_FILE:
        raise Unreadable(Place(), f"the file is longer than {LONGEST_FILE} characters")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    line = line_of_long_key(text)
    if line is not None:
        raise Unreadable(Place(line), f"a key of more than {MOST_PARTS} parts")
    try:
        values = tomllib.loads(text, parse_float=_Float)
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(_place_of(text, str(error)), f"not valid TOML: {_AT.sub('', str(error))}") from error
    except RecursionError as error:
        raise Unreadable(NOWHERE, f"nested more than {DEEPEST} levels deep") from error
    except ValueError as error:  # a decimal number of thousands of digits
        raise Unreadable(NOWHERE, f"not valid TOML: {error}"[:200]) from error
    tree = _node(values, "", 0)
    assert isinstance(tree, Table)
    return tree


def _place_of(text: str, message: str) -> Place:
    found = _AT.search(message)
    if found is not None and found[1]:
        return Place(int(found[1]), int(found[2]))
    lines = text.split("\n")
    return Place(len(lines), len(lines[-1]) + 1)


def _node(value: object, path: str, depth: int) -> Node:
    if depth > DEEPEST:
        raise Unreadable(NOWHERE, f"nested more than {DEEPEST} levels deep", path)
    if isinstance(value, dict):
        entries = {
            key: Entry(NOWHERE, _node(content, below(path, key), depth + 1)) for key, content in value.items()
        }
        return Table(entries, NOWHERE)
    if isinstance(value, list):
        items = (_node(item, below(path, index), depth + 1) for index, item in enumerate(value))
        return Items(tuple(items), NOWHERE)
    if isinstance(value, _Float):
        return Scalar(float(value), value.text, NOWHERE)
    return Scalar(value, _written(value), NOWHERE)


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:
        return hex(value)
    return str(value)
