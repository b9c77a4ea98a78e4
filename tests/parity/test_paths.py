"""Where a project has another path over there, what pytest says of it is in the paths that hold here."""

from __future__ import annotations

import ntpath
from collections.abc import Callable
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.session import arguments

from .comparison import Pair

THERE = "/srv/jobs/17/upper"
POSIX, SPACES = PurePosixPath("/home/x/proj"), PurePosixPath("/Users/x/My Project")
DRIVE, SHARE = PureWindowsPath(r"C:\Users\x\proj"), PureWindowsPath(r"\\server\share\proj")


def places(here: PurePath, there: str = THERE) -> PathMapper:
    """As a session makes them."""
    made = PathMapper(here)
    made.learn(there)
    return made


TEXTS = [
    ("a path in the project", POSIX, f"{THERE}/a/b.py:3: Error", "/home/x/proj/a/b.py:3: Error"),
    ("the project itself", POSIX, f"rootdir: {THERE}", "rootdir: /home/x/proj"),
    (
        "followed by a comma",
        POSIX,
        f"rootdir: {THERE}, configfile: x.ini",
        "rootdir: /home/x/proj, configfile: x.ini",
    ),
    ("quoted", POSIX, f"File '{THERE}/a.py', line 3", "File '/home/x/proj/a.py', line 3"),
    ("the end of a sentence", POSIX, f"not in {THERE}.", "not in /home/x/proj."),
    ("twice", POSIX, f"{THERE}/a {THERE}/b", "/home/x/proj/a /home/x/proj/b"),
    ("an address", POSIX, f"file://{THERE}/r.html", "file:///home/x/proj/r.html"),
    (
        "another folder of a longer name",
        POSIX,
        f"{THERE}-2/a.py {THERE}2/a.py {THERE}.bak/a.py",
        f"{THERE}-2/a.py {THERE}2/a.py {THERE}.bak/a.py",
    ),
    ("the same names elsewhere", POSIX, f"/mnt{THERE}/a.py", f"/mnt{THERE}/a.py"),
    ("a folder with spaces", SPACES, f"{THERE}/a.py:1", "/Users/x/My Project/a.py:1"),
    ("a drive", DRIVE, f"{THERE}/a/b.py:3: Error", r"C:\Users\x\proj\a\b.py:3: Error"),
    (
        "a drive, quoted",
        DRIVE,
        f'  File "{THERE}/a/b.py", line 3',
        r'  File "C:\Users\x\proj\a\b.py", line 3',
    ),
    ("a share", SHARE, f"rootdir: {THERE}/sub", r"rootdir: \\server\share\proj\sub"),
    ("nothing of the project", DRIVE, "/usr/lib/python3/os.py:3 and/or", "/usr/lib/python3/os.py:3 and/or"),
]


@pytest.mark.parametrize(
    ("here", "text", "expected"), [row[1:] for row in TEXTS], ids=[row[0] for row in TEXTS]
)
def test_a_text_of_pytests_names_paths_here(here: PurePath, text: str, expected: str) -> None:
    assert places(here).text(text) == expected


PATHS = [
    ("absolute, in the project", POSIX, f"{THERE}/a/b.py", "/home/x/proj/a/b.py"),
    ("relative", POSIX, "a/b.py", "a/b.py"),
    ("above", POSIX, "../b.py", "../b.py"),
    ("not a file", DRIVE, "<string>", "<string>"),
    ("of the system", DRIVE, "/usr/lib/python3/os.py", "/usr/lib/python3/os.py"),
    ("with a space", DRIVE, f"{THERE}/a b/c.py", r"C:\Users\x\proj\a b\c.py"),
    ("relative, for Windows", DRIVE, "tests/unit/test_a.py", r"tests\unit\test_a.py"),
    ("on a share", SHARE, f"{THERE}/t.py", r"\\server\share\proj\t.py"),
]


@pytest.mark.parametrize(
    ("here", "path", "expected"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS]
)
def test_a_path_becomes_the_one_here(here: PurePath, path: str, expected: str) -> None:
    assert places(here).path(path) == expected


def test_locations_are_paths_and_names_are_not() -> None:
    assert places(DRIVE).location(["t/a.py", 3, "T/x"]) == (r"t\a.py", 3, "T/x")


def test_representations_are_translated_wherever_they_hold_paths() -> None:
    crash = {"path": f"{THERE}/a.py", "lineno": 1, "message": f"no {THERE}/b"}
    moved = places(DRIVE).all({"reprcrash": crash, "lines": [f"x {THERE}/c", 3, None]})
    assert isinstance(moved, dict)
    assert moved["reprcrash"] == {
        "path": r"C:\Users\x\proj\a.py",
        "lineno": 1,
        "message": r"no C:\Users\x\proj\b",
    }
    assert moved["lines"] == [r"x C:\Users\x\proj\c", 3, None]


@pytest.mark.parametrize("there", ["/", "relative", "", "/home/x/proj"])
def test_a_root_that_says_nothing_changes_nothing(there: str) -> None:
    assert places(POSIX, there).text("/etc relative /home/x/proj/a") == "/etc relative /home/x/proj/a"


def test_a_symbolic_link_here_is_shown_as_pytest_would() -> None:
    # /tmp of macOS: pytest takes the real path of the directory that it is started in, and so it is in `here`.
    assert places(PurePosixPath("/private/tmp/p")).text(f"{THERE}/t.py") == "/private/tmp/p/t.py"


ARGUMENTS = [
    ("a file by its drive", r"C:\Users\x\proj\tests\test_a.py::test_b[c\d]", r"tests/test_a.py::test_b[c\d]"),
    ("a drive in small letters", r"c:\users\X\proj\tests", "tests"),
    ("slashes", "C:/Users/x/proj/tests/test_a.py", "tests/test_a.py"),
    ("relative", r"tests\test_a.py::T::m", "tests/test_a.py::T::m"),
]


@pytest.mark.parametrize(("given", "sent"), [row[1:] for row in ARGUMENTS], ids=[row[0] for row in ARGUMENTS])
def test_arguments_of_a_windows_machine_travel_as_posix_paths(
    monkeypatch: pytest.MonkeyPatch, given: str, sent: str
) -> None:
    path: Any = SimpleNamespace(**vars(ntpath))
    path.realpath = ntpath.normpath
    monkeypatch.setattr(arguments, "os", SimpleNamespace(path=path, sep="\\"))
    monkeypatch.setattr(arguments, "Path", PureWindowsPath)
    root: Any = PureWindowsPath(r"C:\Users\x\proj")
    assert arguments.forward([given], arguments.Place(root, root), lambda option: None) == [sent]


def test_what_tests_print_stays_as_it_was_printed(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    (both.local / "test_where.py").write_text(
        "import os, warnings\n"
        "def test_where():\n    print('HERE', os.getcwd())\n    warnings.warn('w')\n    open(__file__ + 'x')\n"
    )
    done = both.remotely("test_where.py", "-s", "-p", "no:cacheprovider")
    printed = next(line for line in done.out.splitlines() if "HERE" in line)
    assert str(both.local) not in printed  # the tests ran elsewhere, and said so
    assert f"rootdir: {both.local}" in done.out
    assert "test_where.py:5: FileNotFoundError" in done.out
    assert f"No such file or directory: '{both.local}/test_where.pyx'" in done.out
    again = both.remotely("test_where.py", "--tb=native", "-p", "no:cacheprovider")
    assert f'File "{both.local}/test_where.py", line 5, in test_where' in again.out
