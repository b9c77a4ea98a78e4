"""Questions to pytest: those about the project are answered where its plugins and conftests are read."""

from __future__ import annotations

from collections.abc import Callable

from support.developer import run

from .comparison import Pair, difference


def test_help_is_answered_here(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    jobs = len(both.developer.jobs())
    remote = both.remotely("--help")
    local = run(
        [both.developer.python, "-m", "pytest", "--help"],
        cwd=both.local,
        env=both.developer.environ(COLUMNS="100"),
    )
    assert "--flavour" in remote.out  # of the conftest
    assert "--remote-ci-python" in remote.out
    found = difference(local, remote, both.local, both.local)
    assert not found, found
    assert len(both.developer.jobs()) == jobs


def test_versions_and_the_cache_are_those_here(pair: Callable[[str], Pair]) -> None:
    both = pair("cache")
    both.run("t")
    jobs = len(both.developer.jobs())
    direct, remote = [run("--cache-show", "--no-header") for run in (both.directly, both.remotely)]
    assert "lastfailed" in direct.out
    difference = both.difference(direct, remote)
    assert not difference, difference
    for option, words in (("--version", "pytest "), ("-VV", "This is pytest version ")):
        asked = both.remotely(option)  # the answer is what is installed here
        assert asked.code == 0
        assert asked.text.startswith(words)
    assert len(both.developer.jobs()) == jobs
