"""TOML as a tree with places: the values are `tomllib`'s, the places `toml_places` finds."""

from __future__ import annotations

import re
import sys
from typing import Any, Final

from ci_runner.pipelines import toml_places
from ci_runner.pipelines.toml_places import Path, Places
from ci_runner.pipelines.tree import (
    DEEPEST,
    LONGEST_FILE,
    Entry,
    Items,
    Node,
    Place,
    Scalar,
    Table,
    Unreadable,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: A key of more parts than may be nested: `tomllib` takes quadratic time for such.
_ENDLESS_KEY: Final = re.compile(
    r"""(?<![\w-])(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){"""
    rf"{DEEPEST},}}"
)
_AT: Final = re.compile(r" \(at line (\d+), column (\d+)\)\Z| \(at end of document\)\Z")


def parse(text: str) -> Table:
    """The tree of a TOML document; raises `Unreadable`."""
    if len(text) > LONGEST_FILE:
        raise Unreadable(Place(), f"the file is longer than {LONGEST_FILE} characters")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    endless = _ENDLESS_KEY.search(text)
    if endless is not None:
        line = text.count("\n", 0, endless.start())
        raise Unreadable(Place(line + 1), f"a key of more than {DEEPEST} parts")
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Unreadable(_place_of(text, str(error)), f"not valid TOML: {_AT.sub('', str(error))}") from error
    except (ValueError, RecursionError) as error:
        raise Unreadable(Place(), f"not valid TOML: {type(error).__name__}: {error}"[:200]) from error
    tree = _node(values, (), _places(text), Place(), 0)
    assert isinstance(tree, Table)
    return tree


def _places(text: str) -> Places:
    try:
        return toml_places.find(text)
    except (RecursionError, IndexError):  # without places is better than not at all
        return Places()


def _place_of(text: str, message: str) -> Place:
    found = _AT.search(message)
    if found is not None and found[1]:
        return Place(int(found[1]), int(found[2]))
    lines = text.split("\n")
    return Place(len(lines), len(lines[-1]) + 1)


def _node(value: Any, path: Path, places: Places, above: Place, depth: int) -> Node:
    place = places.values.get(path, above)
    if depth > DEEPEST:
        raise Unreadable(place, f"nested more than {DEEPEST} levels deep")
    if isinstance(value, dict):
        entries = {}
        for key, content in value.items():
            inner = (*path, key)
            entries[key] = Entry(
                places.keys.get(inner, place), _node(content, inner, places, place, depth + 1)
            )
        return Table(entries, place)
    if isinstance(value, list):
        items = (_node(item, (*path, index), places, place, depth + 1) for index, item in enumerate(value))
        return Items(tuple(items), place)
    return Scalar(value, value if isinstance(value, str) else places.texts.get(path, str(value)), place)
