"""What a pattern for artifacts matches, as a table."""

from __future__ import annotations

import time

import pytest

from pytest_remote_ci.wire.globs import Globs, problem


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.xml", "a.xml"),
        ("./a.xml", "a.xml"),
        ("reports", "reports/a/b.txt"),
        ("reports/", "reports/a/b.txt"),
        ("reports/**", "reports/a/b.txt"),
        ("**", "a/b"),
        (".", "a/b"),
        ("**/*.xml", "a.xml"),
        ("**/*.xml", "x/y/a.xml"),
        ("x/**/a.xml", "x/a.xml"),
        ("x/**/a.xml", "x/1/2/a.xml"),
        ("*", ".coverage"),
        (".coverage.*", ".coverage.host.1.X"),
        ("b?.txt", "b1.txt"),
        ("b[12].txt", "b2.txt"),
        ("b[!12].txt", "b3.txt"),
        ("**/logs", "a/logs/deep/x"),
        ("**/**/x", "x"),
        ("dist/***", "dist/x"),
        ("[x.txt", "[x.txt"),
        ("ü*", "über"),
    ],
)
def test_a_pattern_matches(pattern: str, path: str) -> None:
    assert problem(pattern) is None
    assert Globs([pattern]).match(path) == {0}


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.xml", "x/a.xml"),
        ("*.xml", "x/a.xml"),
        ("a*", "b"),
        ("A.xml", "a.xml"),
        ("reports", "reports2/a"),
        ("x/**/a.xml", "y/a.xml"),
        ("a.b", "acb"),
        (".coverage.*", ".coverage"),
        ("b[!12].txt", "b1.txt"),
        ("a\n", "a"),
    ],
)
def test_a_pattern_does_not_match(pattern: str, path: str) -> None:
    assert Globs([pattern]).match(path) == frozenset()


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "names nothing"),
        ("/", "names nothing"),
        ("..", "names nothing"),
        ("../x", "without '..'"),
        ("a/../../x", "without '..'"),
        ("/etc/passwd", "without '..'"),
        ("C:/x", "without '..'"),
        ("a\\b", "write / between"),
        ("a\nb", "control character"),
        ("a\0b", "control character"),
        ("a\x9bb", "control character"),
        ("a\u202eb", "control character"),
        ("x" * 1025, "longer than"),
        ("*a" * 17, "more than 16"),
    ],
)
def test_what_is_no_pattern_is_refused_in_words(pattern: str, words: str) -> None:
    assert words in (problem(pattern) or "")


def test_several_patterns_are_told_apart() -> None:
    globs = Globs(["*.xml", "a.*", "b"])
    assert globs.match("a.xml") == {0, 1}
    assert globs.match("b/c") == {2}


def test_a_folder_in_which_nothing_can_match_is_not_entered() -> None:
    root = Globs(["reports/*.xml", "dist"]).root()
    assert root.down("src") is None
    reports = root.down("reports")
    assert reports is not None
    assert not reports.hits
    assert reports.down("deeper") is None


def test_what_a_name_costs_is_known() -> None:
    def cost(*patterns: str) -> int:
        step = Globs(patterns).root().down("a")
        assert step is not None
        return step.cost

    assert cost("**/" * 340 + "x") == 1, "as one of them"
    assert cost("a/**/x", "**/*.xml", "a") == 1
    assert cost(*("**/*a*/" * 140 + "x" for _ in range(200))) > 10


def test_hostile_patterns_and_names_take_no_time() -> None:
    began = time.thread_time()
    for pattern in ("*a" * 16 + "b", "**/" * 300 + "x"):
        globs = Globs([pattern])
        globs.match("/".join(["a" * 250] * 40))
    assert time.thread_time() - began < 60, "what backtracks takes years"
