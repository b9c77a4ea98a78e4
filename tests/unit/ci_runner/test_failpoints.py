"""Failpoints, in processes of their own: what is set is read once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
from ci_runner import failpoints
for name in ("one", "two"):
    failpoints.register(name, "here")
for name in ("one", "two", "one"):
    failpoints.hit(name)
    print(name, flush=True)
"""


def run(code: str = CODE, **env: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **{f"CI_RUNNER_{name}": value for name, value in env.items()}}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, timeout=30
    )


@pytest.mark.parametrize(
    ("points", "code", "passed", "words"),
    [
        ("", 0, ["one", "two", "one"], ""),
        ("one=kill", -9, [], ""),
        ("one=kill@2", -9, ["one", "two"], ""),
        ("two=raise", 1, ["one"], "failpoint two"),
        (" two = sleep:0.01 ; one=raise@3", 0, ["one", "two", "one"], ""),
        ("one=dance", 1, [], "unknown action 'dance'"),
    ],
)
def test_what_is_asked_for_happens_at_the_asked_pass(
    points: str, code: int, passed: list[str], words: str
) -> None:
    done = run(ALLOW_FAILPOINTS="1", FAILPOINTS=points)
    assert done.returncode == code, done.stderr
    assert done.stdout.split() == passed
    assert words in done.stderr


def test_without_permission_nothing_happens() -> None:
    done = run(FAILPOINTS="one=kill;two=raise")
    assert (done.returncode, done.stdout.split()) == (0, ["one", "two", "one"])


def test_each_is_traced_once(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert run(ALLOW_FAILPOINTS="1", FAILPOINT_TRACE=str(trace)).returncode == 0
    assert trace.read_text() == "one\ntwo\n"


def test_a_name_that_was_never_registered_is_a_mistake() -> None:
    done = run("from ci_runner import failpoints\nfailpoints.hit('three')", ALLOW_FAILPOINTS="1")
    assert "failpoint 'three' is not registered" in done.stderr
