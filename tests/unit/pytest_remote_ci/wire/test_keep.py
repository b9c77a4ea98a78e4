"""Patterns of kept folders: what they mean and which are refused."""

from __future__ import annotations

import pytest

from pytest_remote_ci.wire import keep
from pytest_remote_ci.wire.globs import Globs
from pytest_remote_ci.wire.protocol import SubmitOptions, WireError


@pytest.mark.parametrize(
    "pattern", [*keep.DEFAULT, "a/b", "**/.mypy_cache", "./x", "~/.cache/ms-playwright", "~/./x//y/"]
)
def test_patterns(pattern: str) -> None:
    assert keep.problem(pattern) is None
    assert SubmitOptions.from_dict({"keep": [pattern]}).keep == (pattern,)


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "names nothing"),
        (".", "names everything"),
        ("**", "names everything"),
        ("*/**", "names everything"),
        ("../x", "without '..'"),
        ("/x", "inside the project"),
        ("~", "another user's home"),
        ("~root/x", "another user's home"),
        ("~/", "names nothing"),
        ("~/.", "names nothing"),
        ("~/../x", "without '..'"),
        ("~//etc/..", "without '..'"),
        ("~/.cache/*", "wildcards"),
        ("a\nb", "control character"),
    ],
)
def test_what_is_refused(pattern: str, problem: str) -> None:
    assert problem in (keep.problem(pattern) or "")
    with pytest.raises(WireError, match=r"options\.keep\[0\]"):
        SubmitOptions.from_dict({"keep": [pattern]})


def test_the_defaults_are_not_sent_and_none_is() -> None:
    assert "keep" not in SubmitOptions().to_dict()
    assert SubmitOptions(keep=()).to_dict()["keep"] == []
    assert SubmitOptions.from_dict({"keep": []}).keep == ()
    with pytest.raises(WireError, match="at most 50"):
        SubmitOptions.from_dict({"keep": [str(number) for number in range(51)]})


@pytest.mark.parametrize(
    ("pattern", "cwd", "path", "expected"),
    [
        (".x", "", ".x", True),
        (".x", "", "a/.x", False),
        (".x", "a/b", "a/.x", True),
        (".x", "a/b", "a/b/.x/file", True),
        (".x", "a/b", "b/.x", False),
        ("./.x", "a", "a/.x", False),
        (".x", "a[1]", "a[1]/.x", True),
        (".x", "a*", "ab/.x", False),
        ("~/.x", "a", ".x", True),
        ("~//.x/./y/", "a", ".x/y", True),
    ],
)
def test_where_a_pattern_counts(pattern: str, cwd: str, path: str, expected: bool) -> None:
    assert bool(Globs(keep.below(pattern, cwd)).match(path)) is expected
