"""Plugins that a job lacks, recognised from what its pytest refused."""

from __future__ import annotations

import pytest

from pytest_remote_ci.replay.missing_plugins import hint


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("--cov=parse --cov-report=term-missing --cov-append", "pytest-cov"),
        ("-n auto --no-cov --asyncio-mode=auto", "pytest-xdist, pytest-cov, pytest-asyncio"),
        ("-n4", None),
        ("--timeout=10", "pytest-timeout"),
        ("--timeouts --covers", None),
        ("--nonsense", None),
    ],
)
def test_options_name_their_plugins(words: str, names: str | None) -> None:
    found = hint(
        f"ERROR: usage: pytest\npytest: error: unrecognized arguments: {words}\n  inifile: None\n", []
    )
    assert (found and found.partition(":")[0]) == (names and f"the job's environment lacks {names}")


def test_a_plugin_that_cannot_be_imported_is_named() -> None:
    for module, name in {"pytest_cov": "pytest-cov", "xdist.plugin": "pytest-xdist"}.items():
        found = hint(f"ERROR: Error importing plugin \"{module}\": No module named 'x'\n", [])
        assert found is not None
        assert found.startswith(f"the job's environment lacks {name}: name it in")


def test_a_plugin_that_is_there_is_not_missing() -> None:
    assert hint("error: unrecognized arguments: --cov-new", ["pytest_cov"]) is None
    assert hint("", []) is None
