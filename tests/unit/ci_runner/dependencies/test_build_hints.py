"""What is said about a build that failed."""

from __future__ import annotations

import pytest

from ci_runner.dependencies import build_hints

SENT = {"pyproject.toml", "src/there.c"}


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("error: command 'gcc' failed: No such file or directory", "no compiler"),
        ("error: command 'x86_64-linux-gnu-gcc' failed: No such file or directory", "no compiler"),
        ("FileNotFoundError: [Errno 2] No such file or directory: 'g++'", "no compiler"),
        ("ERROR: Unknown compiler(s): [['cc'], ['gcc'], ['clang']]", "no compiler"),
        ("CMake Error: No CMAKE_CXX_COMPILER could be found.", "no compiler"),
        ("/bin/sh: 1: gcc: not found", "no compiler"),
        ("error: can't find Rust compiler", "no Rust toolchain"),
        ("Rust not found, installing into a temporary directory", "no Rust toolchain"),
        ('  File "/x/puccinialin/_setup_rust.py", line 34, in download_rustup', "no Rust toolchain"),
        ("Cargo, the Rust package manager, is not installed or is not on PATH.", "no Rust toolchain"),
        ("fatal error: Python.h: No such file or directory", "no headers of Python"),
        (
            "Package 'cairo', required by 'virtual:world', not found",
            "`packages` in [tool.remote-ci] installs it",
        ),
        ("No package 'cairo' found", "lacks a library"),
        ('Dependency "cairo" not found, tried pkgconfig and cmake', "lacks a library"),
        ("Error: pg_config executable not found.", "lacks a library"),
        ("/bin/sh: 1: mysql_config: not found", "lacks a library"),
        ("Git executable not found. Ensure that Git is installed and available.", "no git"),
        ("error: cannot run ssh: No such file or directory", "no ssh"),
        ("git@example.org: Permission denied (publickey).", "asks for credentials: name NETRC in `secrets`"),
        ("fatal: could not read Username for 'https://example.org'", "asks for credentials: name NETRC"),
        (
            "FileNotFoundError: [Errno 2] No such file or directory: 'src/gone.c'",
            "src/gone.c is not among the files that were sent",
        ),
        ("OSError: Readme file does not exist: README.md", "README.md is not among the files"),
        ("x.c:1: fatal error: /w/inc/own.h: No such file or directory", 'include = ["/inc/own.h"]'),
    ],
)
def test_a_known_cause_has_a_hint(output: str, words: str) -> None:
    found = build_hints.hint(f"before\n{output}\nafter", "/w", SENT)
    assert found is not None
    assert words in found


@pytest.mark.parametrize(
    "output",
    [
        "",
        "ValueError: something else",
        "No such file or directory: 'src/there.c'",
        "No such file or directory: '/etc/passwd'",
        "No such file or directory: '../up'",
        "No such file or directory: 'a\x1b[2Jb'",
        "No such file or directory: '" + "a" * 100_000,
        "gcc" * 100_000,
    ],
)
def test_anything_else_has_none(output: str) -> None:
    assert build_hints.hint(output, "/w", SENT) is None


@pytest.mark.parametrize(
    ("error", "conflict"),
    [
        ("No solution found when resolving dependencies: Because you require six==1 and six==2", True),
        ("your requirements are unsatisfiable", True),
        ("Failed to resolve requirements from `build-system.requires`: No solution found", False),
        ("Failed to fetch", False),
    ],
)
def test_conflicts_are_recognised(error: str, conflict: bool) -> None:
    assert build_hints.is_conflict(error) is conflict
