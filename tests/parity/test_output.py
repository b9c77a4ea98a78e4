"""What tests write past pytest's capture: seen while they run, whole, in its order, whatever it is."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.developer import Developer

#: Bytes that each of them writes.
SIZE = 12_000_000
WAYS = {
    "print": "for _ in range({lines}): print('x' * 99)",
    "os_write": "for _ in range({lines} // 100): os.write(1, (b'x' * 99 + b'\\n') * 100)",
    "child": "subprocess.run(['sh', '-c', 'yes ' + 'x' * 99 + ' | head -c {size}'])",
    "c": "libc = ctypes.CDLL(None)\n    for _ in range({lines}): libc.puts(b'x' * 99)\n    libc.fflush(None)",
    "stderr": "for _ in range({lines} // 100): os.write(2, (b'x' * 99 + b'\\n') * 100)",
}


def test_the_first_line_is_seen_while_the_test_still_runs(developer: Developer, tmp_path: Path) -> None:
    """The test goes on only when what it said has arrived here."""
    signal = tmp_path / "seen"
    project = tmp_path / "p"
    project.mkdir()
    (project / "test_it.py").write_text(
        "import os, time\n"
        "def test_waits():\n"
        "    print('it has begun')\n"
        f"    end = time.monotonic() + 100\n    while not os.path.exists({str(signal)!r}):\n"
        "        assert time.monotonic() < end\n        time.sleep(0.01)\n"
    )
    process = developer.popen(
        sys.executable, "-m", "pytest", "--remote-ci", "-s", cwd=project, PYTHONUNBUFFERED="1"
    )
    assert process.stdout is not None
    with process:
        for line in process.stdout:
            if "it has begun" in line:
                signal.write_text("")
        assert "1 passed" in line
    assert process.returncode == 0


def test_much_output_of_every_kind_arrives_whole_and_in_its_place(
    developer: Developer, tmp_path: Path
) -> None:
    parts = ["import ctypes, os, subprocess\n"]
    for name, body in WAYS.items():
        parts.append(f"def test_{name}():\n    {body.format(lines=SIZE // 100, size=SIZE)}\n")
    (tmp_path / "test_it.py").write_text("".join(parts))
    done = developer.pytest("-v", "-s", cwd=tmp_path, timeout=300)
    assert done.code == 0, done.text[-2000:]
    line = "x" * 99 + "\n"
    for name in WAYS:
        before, found, after = done.out.partition(f"::test_{name} ")
        assert found, before[-500:]
        if name == "stderr":
            assert done.err.count(line) == SIZE // 100
            continue
        written = after.partition("PASSED")[0]
        assert (len(written), written.count(line)) == (SIZE, SIZE // 100), name


@pytest.mark.parametrize("option", ["-s", "--capture=fd"])
def test_standard_input_is_empty_and_asking_for_it_fails_at_once(
    developer: Developer, tmp_path: Path, option: str
) -> None:
    (tmp_path / "test_it.py").write_text(
        "import os, subprocess, sys\n"
        "def test_child(): assert subprocess.run(['cat'], stdout=subprocess.PIPE).stdout == b''\n"
        "def test_descriptor(): assert os.read(0, 10) == b''\n"
        "def test_asks(): input()\n"
    )
    done = developer.pytest("-v", option, cwd=tmp_path)
    assert re.findall(r"test_it\.py::test_(\w+) .*?(PASSED|FAILED)", done.out) == [
        ("child", "PASSED"),
        ("descriptor", "PASSED"),
        ("asks", "FAILED"),
    ], done.text
    words = "EOFError" if option == "-s" else "pytest: reading from stdin while output is captured"
    assert words in done.out


BOMB = "\x1b]52;c;aGk=\x07\x1b]0;mine\x07\x1b[2J\x1b[?1049h\x1b[31mred\x1b[0m\r\x9b2J"


def test_only_colours_reach_a_terminal(developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        f"import os\nBOMB = {BOMB!r}\n"
        "def test_prints():\n    print('captured', BOMB); assert 0, BOMB\n"
        "def test_raw(capfd):\n    with capfd.disabled(): os.write(1, ('raw ' + BOMB).encode())\n"
        "def test_dies():\n    print('last', BOMB, flush=True); os._exit(3)\n"
    )
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--remote-ci", "-v"],
        cwd=tmp_path,
        env=developer.environ(TERM="xterm"),
        stdin=there,
        stdout=there,
        stderr=there,
    )
    os.close(there)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while data := os.read(here, 65536):
            shown += data
    os.close(here)
    assert process.wait(60) == 1
    text = shown.decode()
    for word in ("captured", "raw", "last"):
        assert word in text
    assert "\x1b[31mred" in text
    for part in ("\x1b]", "\x1b[2J", "\x1b[?1049h", "\x9b"):
        assert part not in text, text
