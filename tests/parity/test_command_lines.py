"""What `pytest ARGS` prints and ends with, and what `pytest --remote-ci ARGS` does: the same."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.developer import Developer
from support.parallel import Ahead, ahead, parameters

from .comparison import Pair, make_pair
from .table import lines


def _lines(suite: str) -> pytest.MarkDecorator:
    found = [pytest.param(suite, line, id=line or "no arguments") for line in lines(suite)]
    return pytest.mark.parametrize(("suite", "line"), found)


@pytest.fixture(scope="module")
def difference(
    request: pytest.FixtureRequest,
    developer: Developer,
    python: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Ahead[str]]:
    """What differs of a suite and a line."""

    def compare(suite: str, line: str) -> str:
        folder = tmp_path_factory.mktemp(suite)
        return make_pair(suite, folder, developer, python).compare(*shlex.split(line))

    with ahead(compare, parameters(request, "suite", "line")) as results:
        yield results


@pytest.mark.sampled(12)
@_lines("basic")
def test_a_command_line_shows_the_same(difference: Ahead[str], suite: str, line: str) -> None:
    assert not difference(suite, line), difference(suite, line)


@pytest.mark.sampled(3)
@_lines("ends")
def test_a_session_that_ends_early_shows_the_same(difference: Ahead[str], suite: str, line: str) -> None:
    assert not difference(suite, line), difference(suite, line)


@pytest.mark.sampled(8)
@_lines("extra")
def test_what_is_typed_daily_shows_the_same(difference: Ahead[str], suite: str, line: str) -> None:
    assert not difference(suite, line), difference(suite, line)


def test_a_subdirectory_shows_the_same(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    found = both.compare("test_more.py", sub="tests/unit")
    assert not found, found
