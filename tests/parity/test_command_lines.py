"""What `pytest ARGS` prints and ends with, and what `pytest --remote-ci ARGS` does: the same."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from .both_ways import Pair
from .table import lines


def _id(line: str) -> str:
    return line or "no arguments"


@pytest.mark.parametrize("line", lines("basic"), ids=_id)
def test_a_command_line_shows_the_same(pair: Callable[[str], Pair], line: str) -> None:
    both = pair("basic")
    args = shlex.split(line)
    difference = both.compare(*args)
    assert not difference, difference


@pytest.mark.parametrize("line", lines("ends"), ids=_id)
def test_a_session_that_ends_early_shows_the_same(pair: Callable[[str], Pair], line: str) -> None:
    both = pair("ends")
    args = shlex.split(line)
    difference = both.compare(*args)
    assert not difference, difference


def test_a_subdirectory_shows_the_same(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    difference = both.compare("test_more.py", sub="tests/unit")
    assert not difference, difference


@pytest.mark.parametrize("line", lines("extra"), ids=_id)
def test_what_is_typed_daily_shows_the_same(pair: Callable[[str], Pair], line: str) -> None:
    both = pair("extra")
    difference = both.compare(*shlex.split(line))
    assert not difference, difference
