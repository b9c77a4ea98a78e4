"""Editors' own adapters over a remote session: PyCharm's is teamcity-messages, VS Code's comes with its extension."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from support.developer import FIXTURES, Done, run

from .comparison import Pair, normalised
from .environments import Equipped

C = "--continue-on-collection-errors"


@pytest.fixture
def make(equipped: Equipped, tmp_path: Path) -> Callable[[str, str, Path], Pair]:
    """A pair: suite, requirements over there, interpreter here."""
    return lambda suite, there, here: equipped.pair(suite, there, here, tmp_path)


# -- PyCharm


def messages(done: Done, *roots: Path) -> list[dict[str, str]]:
    """TeamCity's messages: their kind and attributes, without times."""
    found = []
    for kind, rest in re.findall(
        r"##teamcity\[(\w+)((?: \w+='(?:[^'|]|\|.)*')*)", normalised(done.out, *roots)
    ):
        attributes = dict(re.findall(r"(\w+)='((?:[^'|]|\|.)*)'", rest))
        found.append(
            {
                "kind": kind,
                **{key: text for key, text in attributes.items() if key not in ("timestamp", "duration")},
            }
        )
    return found


def test_pycharm_is_told_the_same(make: Callable[[str, str, Path], Pair], full: Path) -> None:
    both = make("reporters", "more", full)
    args = (C, "--teamcity", "-p", "no:sugar", "-p", "no:randomly", "-W", "ignore")
    direct, remote = both.run(*args)
    told = [messages(done, both.direct, both.local) for done in (direct, remote)]
    assert remote.code == direct.code == 1, remote.text
    assert len(told[0]) > 60
    (unit,) = (at for at, message in enumerate(told[0]) if _fails(message, "TestUnit.test_equal"))
    # Here unittest's own frames are not shown, because no adapter over there has put its own among them.
    assert [{**tell[unit], "details": ""} for tell in told] == [{**told[0][unit], "details": ""}] * 2
    for tell in told:
        tell[unit]["details"] = ""
        for message in tell:
            message["details"] = re.sub(
                r"(\.\./)+[^|]*(?=<ENV>)|[^\s|]*/environments/", "", message.get("details", "")
            )
    assert told[1] == told[0]


def test_pycharm_can_show_what_differs(make: Callable[[str, str, Path], Pair], full: Path) -> None:
    both = make("reporters", "none", full)
    remote = both.remotely(
        C, "--teamcity", "-p", "no:sugar", "-p", "no:randomly", "--ignore=tests/test_broken.py"
    )
    told = [message for message in messages(remote) if message.get("type") == "comparisonFailure"]
    differences = {
        message["name"].rpartition(".")[2]: (message["actual"], message["expected"]) for message in told
    }
    assert differences["test_fails_and_teardown_error"] == ("left", "right")
    assert differences["test_fails"] == (
        "{|'a|': 1, |'b|': |[1, 2, 3|]}",
        "{|'a|': 1, |'b|': |[1, 2, 4|]}",
    )
    assert differences["test_equal"] == ("2", "1")


def test_nothing_is_compared_for_nobody(make: Callable[[str, str, Path], Pair], bare: Path) -> None:
    both = make("reporters", "none", bare)
    remote = both.remotely("tests/test_outcomes.py", "-k", "test_equal or test_fails")
    job = remote.err.partition("Job ID: ")[2].split()[0]
    kinds = {
        event.get("t")
        for event in both.developer.runner.get(f"/jobs/{job}/events?view=all", both.developer.key)
    }
    assert "report" in kinds
    assert "compared" not in kinds


def _fails(message: dict[str, str], name: str) -> bool:
    return message["kind"] == "testFailed" and message["name"].endswith(name)


# -- editors in general


WATCHED = (
    "--collect-only",
    f"{C} --collect-only -q -k not_unit",
    C,
    f"{C} -k 'not fails' --deselect tests/test_outcomes.py::test_passes",
    "tests/test_outcomes.py::TestClass tests/test_outcomes.py::test_chained",
)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("line", WATCHED)
def test_a_plugin_that_watches_sees_the_same(pair: Callable[[str], Pair], tmp_path: Path, line: str) -> None:
    both = pair("reporters")
    seen: list[list[str]] = []
    for python, root, more in (
        (both.python, both.direct, ()),
        (both.developer.python, both.local, ("--remote-ci",)),
    ):
        watched = tmp_path / f"{len(seen)}.json"
        environment = both.developer.environ(
            PYTEST_PLUGINS="watching", PYTHONPATH=str(FIXTURES / "parity" / "watcher"), WATCHED=str(watched)
        )
        done = run([str(python), "-m", "pytest", *more, *shlex.split(line)], cwd=root, env=environment)
        assert watched.exists(), done.text
        seen.append(normalised(watched.read_text(), root).splitlines())
    direct, remote = seen
    difference = difflib.unified_diff(direct, remote, "directly", "remotely", lineterm="", n=2)
    assert direct == remote, "\n".join(difference)
