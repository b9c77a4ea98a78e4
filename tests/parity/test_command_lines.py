"""What `pytest ARGS` prints and ends with, and what `pytest --remote-ci --remote-ci-native ARGS` does: the same."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from .both_ways import Pair

C = "--continue-on-collection-errors"
MORE, BASIC = "tests/unit/test_more.py", "tests/unit/test_basic.py"

#: Command lines for the suite `basic`.
BASIC_LINES = (
    "", C, f"{C} -v", f"{C} -vv", f"{C} -q", f"{C} -qq", f"{C} -rA",
    f"{C} --tb=short", f"{C} --tb=long", f"{C} --tb=line", f"{C} --tb=native", f"{C} --tb=no",
    f"{C} -x", f"{C} --maxfail=3", f"{C} --color=yes", f"{C} --show-capture=no", "tests/unit --show-capture=stderr",
    "tests/unit -k 'param or pass'", "tests/unit -m slow --runslow", "tests/unit -k zzz",
    f"{BASIC}::TestClass::TestInner::test_inner", f"{BASIC}::test_nope", "tests/no_such_file.py",
    "tests/unit --collect-only", "tests/unit --collect-only -q", f"{MORE} --collect-only -v",
    f"{MORE} -s", "tests/unit --setup-show -k 'setup_error or tmp or two'",
    "tests/unit -o log_cli=true --log-cli-level=INFO -k output", "tests/unit -o console_output_style=count",
    "tests/unit -o console_output_style=classic", "tests/unit -W error::DeprecationWarning -k warn",
    "tests/unit --no-header --no-summary", "tests/unit --flavour mint", "--bogus-option",
    f"tests/unit --deselect {BASIC}::test_fail", "tests/unit --runxfail", "tests/unit --showlocals -k fail",
    "tests/unit -p no:cacheprovider", "tests/unit -p no:terminal",
)  # fmt: skip

#: The same for `ends`: sessions that end in unusual ways.
END_LINES = (
    "ki", "exit", "badconf", "ierr", "shouldfail", "stop", "yielding", "empty",
)  # fmt: skip


def _id(line: str) -> str:
    return line or "no arguments"


@pytest.mark.parametrize("line", BASIC_LINES, ids=_id)
def test_a_command_line_shows_the_same(pair: Callable[[str], Pair], line: str) -> None:
    both = pair("basic")
    args = shlex.split(line)
    difference = both.difference(both.directly(*args), both.remotely(*args))
    assert not difference, difference


@pytest.mark.parametrize("line", END_LINES, ids=_id)
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
