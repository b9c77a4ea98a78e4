"""The walker of pytest's command line."""

from __future__ import annotations

import argparse

import pytest

from pytest_remote_ci.session import argv
from pytest_remote_ci.session.argv import Word, words


def arity(option: str) -> bool | None:
    """What a parser with two options of plugins says."""
    return {"--base-url": True, "--slow": False}.get(option)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["-k", "a b"], [Word("-k", "-k", "a b", is_apart=True)]),
        (["-ka"], [Word("-ka", "-k", "a")]),
        (["-xvka"], [Word("-xvka", "-k", "a", flags=("-x", "-v"))]),
        (["-xvk", "a"], [Word("-xvk", "-k", "a", is_apart=True, flags=("-x", "-v"))]),
        (["-xv", "a"], [Word("-xv", "-v", flags=("-x",)), Word("a")]),
        (["-VV"], [Word("-VV", "-VV")]),
        (["-pno:randomly"], [Word("-pno:randomly", "-p", "no:randomly")]),
        (["-nauto", "a"], [Word("-nauto", "-n", "auto"), Word("a")]),
        (["-n", "4"], [Word("-n", "-n", "4", is_apart=True)]),
        (["--base-url=/a"], [Word("--base-url=/a", "--base-url", "/a")]),
        (["--base-url", "/a"], [Word("--base-url", "--base-url", "/a", is_apart=True)]),
        (["--slow", "a"], [Word("--slow", "--slow"), Word("a")]),
        (["--unknown", "a"], [Word("--unknown", "--unknown"), Word("a")]),
        (["--unknown=a=b"], [Word("--unknown=a=b", "--unknown", "a=b")]),
        (["-Zoauto", "a"], [Word("-Zoauto", "-Zoauto"), Word("a")]),
        (["--remote-ci-url", "-x"], [Word("--remote-ci-url", "--remote-ci-url"), Word("-x", "-x")]),
        (["-k", "-a b"], [Word("-k", "-k", "-a b", is_apart=True)]),
        (["--maxfail", "-1"], [Word("--maxfail", "--maxfail", "-1", is_apart=True)]),
        (["-k", "-"], [Word("-k", "-k", "-", is_apart=True)]),
        (["-k", "--", "a"], [Word("-k", "-k"), Word("--"), Word("a")]),
        (["-k"], [Word("-k", "-k")]),
        (["--", "-k", "--"], [Word("--"), Word("-k"), Word("--")]),
        (["-", "@a"], [Word("-"), Word("@a")]),
        (["--html", "r.html"], [Word("--html", "--html", "r.html", is_apart=True)]),
    ],
    ids=lambda value: " ".join(map(str, value)) if value and isinstance(value[0], str) else "",
)
def test_each_word_is_told_apart(given: list[str], found: list[Word]) -> None:
    assert list(words(given, arity)) == found
    assert [text for word in found for text in word.texts] == given


@pytest.mark.parametrize("given", [["-k", "-x"], ["-k", "-a b"], ["--maxfail", "-1"], ["-k", "-"], ["-k"]])
def test_a_word_with_a_dash_is_a_value_only_where_argparse_takes_it(
    given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    for option in ("-k", "--maxfail"):
        parser.add_argument(option)
    parser.add_argument("-x", action="store_true")
    try:
        parser.parse_args(given)
    except SystemExit:
        assert "expected one argument" in capsys.readouterr().err
        assert [word.value for word in words(given)] == [None] * len(given)
    else:
        assert [word.value for word in words(given)] == given[1:]


def test_all_options_of_a_command_line_are_found() -> None:
    given = ["-xvk", "--lf or a", "--junitxml=a", "tests", "--", "--co"]
    assert argv.names(given) == {"-x", "-v", "-k", "--junitxml"}


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        (["-ka"], ["-kNEW"]),
        (["-xka"], ["-xkNEW"]),
        (["-k", "a"], ["-k", "NEW"]),
        (["--html=a=a"], ["--html=NEW"]),
        (["--html="], ["--html=NEW"]),
    ],
)
def test_a_value_can_be_replaced_where_it_is(given: list[str], changed: list[str]) -> None:
    (word,) = words(given)
    assert word.with_value("NEW") == changed
