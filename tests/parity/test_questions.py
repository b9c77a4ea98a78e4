"""Questions to pytest: those about the project are answered where its plugins and conftests are read."""

from __future__ import annotations

import re
from collections.abc import Callable

from support.developer import Done

from .comparison import Pair


def test_help_is_that_of_the_project_with_our_own_options_after_it(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    direct, remote = both.run("--help")
    theirs, heading, ours = remote.out.partition("\nrunning the tests on a remote runner:\n")
    assert "--flavour" in direct.out  # of the conftest
    difference = both.difference(direct, Done(remote.code, theirs, remote.err))
    assert not difference, difference
    assert heading
    assert set(re.findall(r"^  (--remote-ci\S*)", ours, re.MULTILINE)) >= {
        "--remote-ci",
        "--remote-ci-attach",
    }


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
