"""Patterns in the syntax of `.gitignore`; the table is compared with what git itself says."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_remote_ci.workspace.gitignore import Pattern, PatternList, parse

#: (patterns, path, ignored); paths that end with a slash are folders.
TABLE = [
    (["*.log"], "a.log", True),
    (["*.log"], "deep/er/a.log", True),
    (["*.log"], "a.log.txt", False),
    (["/a.log"], "a.log", True),
    (["/a.log"], "deep/a.log", False),
    (["deep/a.log"], "deep/a.log", True),
    (["deep/a.log"], "x/deep/a.log", False),
    (["build/"], "build/out.o", True),
    (["build/"], "x/build/out.o", True),
    (["build/"], "build", False),
    (["build"], "build", True),
    (["/build/"], "x/build/out.o", False),
    (["**/foo/bar"], "foo/bar", True),
    (["**/foo/bar"], "x/y/foo/bar", True),
    (["foo/**"], "foo/x/y", True),
    (["foo/**"], "x/foo/y", False),
    (["a/**/b"], "a/b", True),
    (["a/**/b"], "a/x/y/b", True),
    (["a/**/b"], "ab", False),
    (["a**b"], "axxb", True),
    (["a**b"], "a/b", False),
    (["a?c"], "abc", True),
    (["x/a?c"], "x/a/c", False),
    (["[abc].py"], "b.py", True),
    (["[!abc].py"], "b.py", False),
    (["[^abc].py"], "d.py", True),
    (["[a-c]x"], "bx", True),
    (["[]x]a"], "]a", True),
    (["[a-]"], "-", True),
    (["[[:digit:]]x"], "7x", True),
    (["[[:digit:]]x"], "ax", False),
    (["[[:nonsense:]]x"], "nx", False),
    (["[abc"], "a", False),
    (["[z-a]"], "m", False),
    (["[\\]]a"], "]a", True),
    (["# comment"], "# comment", False),
    (["\\#real"], "#real", True),
    (["\\!real"], "!real", True),
    (["trailing   "], "trailing", True),
    (["space\\ "], "space ", True),
    (["back\\"], "back", False),
    (["back\\"], "back\\", False),
    ([""], "x", False),
    (["/"], "x", False),
    (["*", "!keep.txt"], "keep.txt", False),
    (["*", "!keep.txt"], "other.txt", True),
    (["*.txt", "!keep.txt", "keep.*"], "keep.txt", True),
    (["data/", "!data/keep.txt"], "data/keep.txt", True),
    (["data/*", "!data/keep.txt"], "data/keep.txt", False),
    (["data/*", "!data/keep.txt"], "data/drop.txt", True),
    (["/*", "!/src/"], "src/a.py", False),
    (["/*", "!/src/"], "docs/a.md", True),
    (["*.[oa]"], "x.o", True),
    (["*.[oa]"], "x.c", False),
    (["foo.*"], "foo.", True),
    (["a.b"], "axb", False),
    (["(x)+"], "(x)+", True),
    (["ünï*"], "ünïcode", True),
    (["line*"], "line\nbreak", True),
    (["**"], "a/b", True),
    (["a/**/"], "a/b/c", True),
    (["a/**/"], "a/b", False),
    (["a//b"], "a/b", False),
    (["foo\\*"], "foo*", True),
    (["foo\\*"], "foox", False),
]


@pytest.mark.parametrize(("patterns", "path", "ignored"), TABLE)
def test_a_pattern_matches_as_in_git(patterns: list[str], path: str, ignored: bool) -> None:
    assert PatternList.of(patterns).covers(path) is ignored


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_table_is_what_git_says(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    wrong = []
    for patterns, path, ignored in TABLE:
        (tmp_path / ".gitignore").write_text("\n".join(patterns) + "\n", "utf-8")
        answer = subprocess.run(
            ["git", "-c", "core.excludesFile=/dev/null", "check-ignore", "-q", "--no-index", "--stdin", "-z"],
            input=path.encode() + b"\0",
            cwd=tmp_path,
            check=False,
        )
        if (answer.returncode == 0) is not ignored:
            wrong.append((patterns, path))
    assert wrong == []


def test_no_pattern_says_nothing() -> None:
    nothing = PatternList.of([])
    assert not nothing
    assert nothing.decide("a", is_folder=False) is None
    assert PatternList.of(["!a"]).decide("a", is_folder=False) is False


def test_a_dot_slash_at_the_beginning_is_dropped() -> None:
    assert PatternList.of(["./a.txt"]).covers("a.txt")


@pytest.mark.parametrize(
    ("line", "prefix", "names_files"),
    [
        ("*.so", "", True),
        ("src/pkg/_version.py", "src/pkg", True),
        ("/data/*", "data", False),
        ("data/**", "data", False),
        ("data/", "", False),
        ("a/b*/c/x", "a", True),
        ("tests/keys/*.pem", "tests/keys", True),
        ("*", "", False),
        ("!a/b", "a", False),
    ],
)
def test_a_pattern_knows_its_literal_folders_and_whether_it_names_files(
    line: str, prefix: str, names_files: bool
) -> None:
    pattern = parse(line)
    assert isinstance(pattern, Pattern)
    assert (pattern.prefix, pattern.names_files) == (prefix, names_files)
