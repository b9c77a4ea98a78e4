"""Completion in a shell, asked for as argcomplete's shell functions do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("argcomplete")
SCRIPTS = Path(sys.executable).parent


def completions(tmp_path: Path, line: str) -> set[str]:
    """The words that a shell offers behind `line`."""
    answer = tmp_path / "answer"
    answer.touch()
    environ = {
        **os.environ,
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [SCRIPTS / line.split()[0]], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(answer.read_text().split())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("remote-ci l", {"list", "logs", "login"}),
        ("remote-ci list --s", {"--status", "--search", "--since"}),
        ("remote-ci pipeline re", {"report", "rerun"}),
        ("ci-runner admin user cr", {"create"}),
    ],
)
def test_a_shell_completes_commands_and_options(tmp_path: Path, line: str, words: set[str]) -> None:
    assert words <= completions(tmp_path, line)
