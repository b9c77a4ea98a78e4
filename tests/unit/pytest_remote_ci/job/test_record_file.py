"""The file of records inside a container: whole lines, whatever tests do to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pytest_remote_ci.job import boot

JOB = Path(boot.__file__).parent

HEAD = """
import os, sys
sys.path.insert(0, sys.argv[1])
import boot
del sys.path[0]

class Raw:
    # A record of any kind, with any fields.

    def __init__(self, kind, fields):
        self.kind, self.fields = kind, fields

    def dump(self):
        return {"t": self.kind, **self.fields}

class Records(boot.load("record_file").Records):
    def add(self, kind, **fields):
        super().add(Raw(kind, fields) if isinstance(kind, str) else kind)

    def hold(self, kind, **fields):
        super().hold(Raw(kind, fields))

records = Records(sys.argv[2])
"""


def written(code: str, folder: Path) -> list[dict[str, Any]]:
    """The records that `code` leaves, with standard output and error as in a container."""
    with (folder / "stdout").open("ab") as out, (folder / "stderr").open("ab") as err:
        command = [sys.executable, "-c", HEAD + code, str(JOB), str(folder)]
        subprocess.run(command, stdout=out, stderr=err, check=True, timeout=30)
    return [json.loads(line) for line in (folder / "records").read_bytes().splitlines()]


HOSTILE = [
    ("class A:\n    def __str__(self): 1 / 0\nrecords.add('x', v=A())", "<unprintable A: ZeroDivisionError>"),
    ("records.add('x', v={1: {2, 3}})", {"1": [2, 3]}),
    ("records.add('x', v={(1, 2): 3})", {"(1, 2)": 3}),
    ("a = []; a.append(a); records.add('x', v=len(str(a)))", 7),
    ("records.add('x', v=b'\\xff')", "\\xff"),
    ("records.add('x', v='\\ud800')", "\ud800"),
    ("os.closerange(3, 1024); records.add('x', v=1)", 1),
    ("os.closerange(3, 1024); fds = [os.open('/dev/null', 1) for _ in range(900)]; records.add('x', v=1)", 1),
    ("os.write = None; os.fstat = None; records.add('x', v=1)", 1),
]


@pytest.mark.parametrize(("code", "value"), HOSTILE, ids=[code[:40] for code, _ in HOSTILE])
def test_a_record_is_written_whatever_is_in_it(tmp_path: Path, code: str, value: Any) -> None:
    assert [(record["t"], record["v"]) for record in written(code, tmp_path)] == [("x", value)]


def test_a_record_says_how_much_output_precedes_it(tmp_path: Path) -> None:
    code = "records.terminal('ab'); os.write(1, b'xyz'); os.write(2, b'e'); records.add('x')"
    assert written(code, tmp_path)[-1]["sizes"] == [2, 3, 1]


def test_the_terminal_is_told_apart_from_what_tests_wrote_before_it(tmp_path: Path) -> None:
    code = "records.terminal('a'); os.write(1, b'one'); records.terminal('b')"
    assert [(record["t"], record["sizes"]) for record in written(code, tmp_path)] == [("mark", [1, 3, 0])]


def test_a_forked_child_records_nothing(tmp_path: Path) -> None:
    code = "pid = os.fork()\nif not pid: records.add('child'); os._exit(0)\nos.waitpid(pid, 0); records.add('parent')"
    assert [record["t"] for record in written(code, tmp_path)] == ["parent"]


def test_a_report_that_is_too_large_loses_the_middle_of_its_texts(tmp_path: Path) -> None:
    message = "{'message': 'x' * (4 << 20) + 'end'}"
    code = f"records.add('report', d={{'nodeid': 'a', 'outcome': 'failed', 'longrepr': {message}}})"
    (record,) = written(code, tmp_path)
    text = record["d"]["longrepr"]["message"]
    assert (record["d"]["outcome"], text[:3], text[-3:]) == ("failed", "xxx", "end")
    assert "characters cut by remote-ci" in text
    assert len(text) < 70_000


def test_a_report_that_is_too_large_all_the_same_keeps_its_outcome(tmp_path: Path) -> None:
    code = (
        "records.add('report', d={'nodeid': 'a', 'outcome': 'failed', 'longrepr': 'x',"
        " 'sections': [['out', 'y' * 99999]] * 100})"
    )
    (record,) = written(code, tmp_path)
    assert (tmp_path / "records").stat().st_size < 1000
    assert (record["d"]["outcome"], record["d"]["longrepr"]) == ("failed", "<9 MB dropped by remote-ci>")


STOLEN = {
    "closed": "os.closerange(3, 1024)",
    "taken by others": "os.closerange(3, 1024); kept = [os.open('/dev/zero', 0) for _ in range(900)]",
    "closed, and the file deleted": "os.closerange(3, 1024); os.unlink(sys.argv[2] + '/stdout')",
}


@pytest.mark.parametrize("code", STOLEN.values(), ids=STOLEN)
def test_output_and_records_keep_their_order_when_descriptors_are_stolen(tmp_path: Path, code: str) -> None:
    found = written(
        f"os.write(1, b'one'); {code}; os.write(1, b'two'); records.terminal('t'); records.add('x')", tmp_path
    )
    assert [(record["t"], record["sizes"]) for record in found] == [("mark", [0, 6, 0]), ("x", [1, 6, 0])]


def test_what_cannot_be_written_for_want_of_a_descriptor_comes_later(tmp_path: Path) -> None:
    code = """
records.add('before')
os.closerange(3, 4096)
kept = []
try:
    while True: kept.append(os.open('/dev/null', 0))
except OSError: pass
records.add('meanwhile'); records.terminal('text')
for handle in kept: os.close(handle)
records.add('after')
"""
    found = written(code, tmp_path)
    assert [record["t"] for record in found] == ["before", "meanwhile", "after"]
    assert (tmp_path / "terminal").read_text() in ("", "text")


def test_records_without_pytest_say_why_there_are_no_more(tmp_path: Path) -> None:
    (tmp_path / "pytest.py").write_text("__version__ = '6.2.5'\n")
    places = [str(tmp_path), str(JOB)]
    code = f"sys.path[:0] = {places!r}; import boot; assert boot.recording_plugins(records, continued=False) == []"
    found = written(code, tmp_path)
    assert [record["t"] for record in found] == ["recorder", "unavailable"]
    assert found[1]["reason"] == "pytest 6.2.5 is older than 7.0"


def test_what_is_held_comes_with_the_next_record(tmp_path: Path) -> None:
    code = "records.hold('a', v=1); records.add('b', v=2); records.hold('c'); records.terminal('x'); records.add('d')"
    found = written(code, tmp_path)
    assert [[part["t"] for part in record["of"]] for record in found] == [["a", "b"], ["c", "d"]]
    assert [record["sizes"] for record in found] == [[0, 0, 0], [1, 0, 0]]


def test_what_tests_write_comes_behind_what_was_held_before_it(tmp_path: Path) -> None:
    code = "records.hold('a'); os.write(1, b'out'); records.terminal('x'); records.add('b')"
    found = written(code, tmp_path)
    assert [record["t"] for record in found] == ["several", "b"]
    assert [record["sizes"] for record in found] == [[0, 3, 0], [1, 3, 0]]
