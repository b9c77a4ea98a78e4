"""What a person sees on a terminal: colours, progress, results as they come, and the test that runs now."""

from __future__ import annotations

import difflib
import io
import re
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.developer import Developer

from pytest_remote_ci.replay import running_test

from .comparison import Pair, normalised
from .pty_terminal import Terminal
from .table import TERMINALS

#: A name that is shown while a test runs, and how it goes.
_STATUS = re.compile(r"\x1b7\x1b\[K \x1b\[2m(.*?)\x1b\[0m\x1b8")


def without_status(text: str) -> str:
    """What stays on the screen."""
    return re.sub(r"(\x1b7\x1b\[K \x1b\[2m[^\x1b]*\x1b\[0m\x1b8)+\x1b\[K", "", text)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("columns", "line"), TERMINALS, ids=str)
def test_a_terminal_shows_the_same(pair: Callable[[str], Pair], columns: int, line: str) -> None:
    both = pair("basic")
    args = shlex.split(line)
    env = both.developer.environ()
    plain = {name: value for name, value in env.items() if "REMOTE_CI" not in name}

    def see(python: str, more: list[str], place: Path, environ: dict[str, str]) -> tuple[int, list[str]]:
        with Terminal([python, "-m", "pytest", *more, *args], place, environ, columns) as terminal:
            code = terminal.end()
            lines = normalised(without_status(terminal.text), place).splitlines()
            # pytest counts on the screen where collecting takes it longer than half a second.
            return code, [line for line in lines if not re.match(r"collecting \d+ items?\b", line)]

    with ThreadPoolExecutor(1) as aside:
        direct = aside.submit(see, str(both.python), [], both.direct, plain)
        remote_code, remote = see(both.developer.python, ["--remote-ci"], both.local, env)
        direct_code, directly = direct.result()
    difference = "\n".join(difflib.unified_diff(directly, remote, "directly", "remotely", lineterm="", n=1))
    assert not difference, difference
    assert direct_code == remote_code
    assert ("\x1b[" in "".join(remote)) == ("--color=no" not in line)


WAITING = """
import pathlib, time
def test_first(): pass
def test_second():
    deadline = time.monotonic() + 100
    while not pathlib.Path({flag!r}).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
def test_third(): pass
"""


@pytest.mark.parametrize("verbose", [False, True], ids=["quiet", "verbose"])
def test_a_result_is_on_the_screen_while_the_next_test_runs(
    developer: Developer, tmp_path: Path, verbose: bool
) -> None:
    flag, place = tmp_path / "flag", tmp_path / "project"
    place.mkdir()
    (place / "test_wait.py").write_text(WAITING.format(flag=str(flag)))
    command = [developer.python, "-m", "pytest", "--remote-ci", *(["-v"] if verbose else [])]
    with Terminal(command, place, developer.environ(), errors=True) as terminal:
        terminal.read_until("test_first \x1b[32mPASSED" if verbose else "test_wait.py \x1b[32m.")
        assert not flag.exists()
        terminal.read_until("\x1b[2m")  # of our own, before the session
        terminal.text = terminal.text.rpartition("collected")[2]
        terminal.read_until("\x1b7")
        terminal.read_until("\x1b8")
        terminal.resize(60)
        flag.touch()
        assert terminal.end() == 0
    named = _STATUS.findall(terminal.text)
    assert named
    assert all(
        re.search(r"^\d+ s$" if verbose else r"test_wait\.py::test_second \d+ s$", text) for text in named
    )
    left = without_status(terminal.text)
    assert "\x1b7" not in left
    assert "3 passed" in left


class Screen(io.StringIO):
    """What pytest's reporter writes to."""

    def isatty(self) -> bool:
        return True


def line_of(verbosity: int, width: int) -> tuple[running_test.RunningLine, Screen, list[float]]:
    """One whose clock is a list."""
    screen, clock = Screen(), [0.0]
    writer = SimpleNamespace(_file=screen, width_of_current_line=width)
    reporter: Any = SimpleNamespace(_tw=writer, verbosity=verbosity, showlongtestinfo=verbosity > 0)
    return running_test.RunningLine(reporter, lambda: clock[0]), screen, clock


def test_the_name_of_a_test_is_shown_after_a_while_and_gone_before_the_next_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    line, screen, clock = line_of(0, 10)
    line.begin()
    clock[0] = 9
    line.update()
    assert screen.getvalue() == ""  # nothing runs
    line.pytest_runtest_logstart("t/test_a.py::test_of_a_long_name")
    line.update()
    assert _STATUS.findall(screen.getvalue()) == ["…a.py::test_of_a_long_name 0 s"[-27:].rjust(28, "…")]
    line.end()
    assert screen.getvalue().endswith("\x1b8\x1b[K")
    before = screen.getvalue()
    line.update()
    line.begin()
    line.update()  # there was output just now
    line.end()
    assert screen.getvalue() == before


def test_nothing_is_shown_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    line, screen, clock = line_of(0, 72)
    line.pytest_runtest_logstart("a.py::t")
    line.begin()
    clock[0] = 9
    line.update()
    line.end()
    assert screen.getvalue() == ""


def test_what_does_not_go_to_a_terminal_never_names_the_running_test(
    developer: Developer, tmp_path: Path
) -> None:
    (tmp_path / "test_slow.py").write_text("import time\ndef test_slow(): time.sleep(3)\n")
    done = developer.pytest(cwd=tmp_path)
    assert done.code == 0
    assert "\x1b" not in done.text
    assert "test_slow.py .   " in done.out
