"""What `pytest ARGS` prints and ends with, and what `pytest --remote-ci ARGS` does: the same."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from .both_ways import Pair
from .table import LINES, PAGE, page


def _id(line: str) -> str:
    return line or "no arguments"


@pytest.mark.parametrize("line", LINES["basic"], ids=_id)
def test_a_command_line_shows_the_same(pair: Callable[[str], Pair], line: str) -> None:
    both = pair("basic")
    args = shlex.split(line)
    difference = both.difference(both.directly(*args), both.remotely(*args))
    assert not difference, difference


@pytest.mark.parametrize("line", LINES["ends"], ids=_id)
def test_a_session_that_ends_early_shows_the_same(pair: Callable[[str], Pair], line: str) -> None:
    both = pair("ends")
    args = shlex.split(line)
    difference = both.difference(both.directly(*args), both.remotely(*args))
    assert not difference, difference


def test_a_subdirectory_shows_the_same(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    difference = both.difference(
        both.directly("test_more.py", sub="tests/unit"), both.remotely("test_more.py", sub="tests/unit")
    )
    assert not difference, difference


def test_the_documented_table_is_the_one_that_is_tested() -> None:
    text = PAGE.read_text()
    assert page(text) == text, "renew it: python tests/parity/table.py"
