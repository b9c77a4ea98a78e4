"""What becomes of a session whose pytest died: a table of what it had recorded, and the worker over real processes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ci_runner.model import seals
from pytest_remote_ci.job import boot, crash, resume, worker
from pytest_remote_ci.wire.records import KINDS, CollectReport, Record


def tree(*ids: str) -> dict[str, Any]:
    return {"t": "tree", "nodes": [], "items": [item(nodeid) for nodeid in ids]}


def item(nodeid: str) -> list[Any]:
    return [0, "Function", nodeid, nodeid, ["t.py", 1, nodeid], False, nodeid, False, None]


def report(nodeid: str, when: str = "call", outcome: str = "failed", **more: Any) -> dict[str, Any]:
    return {"t": "report", "d": {"nodeid": nodeid, "when": when, "outcome": outcome, **more}}


def started(nodeid: str, **more: Any) -> dict[str, Any]:
    return {"t": "started", "id": nodeid, "location": ["t.py", 1, nodeid], **more}


def finished(nodeid: str) -> dict[str, Any]:
    return {"t": "finished", "id": nodeid, "location": ["t.py", 1, nodeid]}


SESSION = {
    "t": "session",
    "protocol": 2,
    "pytest": "9.0",
    "python": "3.8",
    "rootdir": "/p",
    "xdist": False,
    "maxfail": 0,
}
HEAD = [SESSION, tree("a", "b", "c"), {"t": "collected", "count": 3}]


class Case:
    """A spool with these records and what came to standard error."""

    def __init__(self, folder: Path, records: list[Any], stderr: bytes = b"") -> None:
        self.path = folder / "records"
        self.path.write_bytes(
            b"".join(
                (item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in records
            )
        )
        (folder / "stderr").write_bytes(stderr)
        self.handle = os.open(self.path, os.O_RDWR | os.O_APPEND)
        self.before = len(self.path.read_bytes())
        sizes = {"stdout": 0, "stderr": len(stderr)}
        self.resolution = crash.CrashResolution(str(folder), self.handle, lambda: sizes)

    def resolve(self, restarts: int = 3, *, stopped: bool = False, sections: Any = ()) -> bool:
        try:
            return self.resolution.resolve("It died", list(sections), restarts=restarts, stopped=stopped)
        finally:
            os.close(self.handle)

    def added(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_bytes()[self.before :].splitlines() if line]


NEVER_AGAIN: dict[str, tuple[list[Any], int, int]] = {
    "no test was begun": (HEAD, 3, 2),
    "it died while collecting": ([SESSION, {"t": "collecting_file", "id": "t.py"}], 3, 2),
    "it died before its session": ([{"t": "recorder", "protocol": 2}], 3, 2),
    "restarts are used up": ([*HEAD, started("a")], 0, 1),
    "nothing is left": ([*HEAD, started("a"), started("b"), started("c")], 3, 1),
    "-x": ([{**SESSION, "maxfail": 1}, *HEAD[1:], started("a")], 3, 1),
    "--maxfail, with a failure before": (
        [{**SESSION, "maxfail": 2}, *HEAD[1:], started("a"), report("a"), finished("a"), started("b")],
        3,
        1,
    ),
    "xdist": ([{**SESSION, "xdist": True}, *HEAD[1:], started("a")], 3, 1),
    "its tests were over": (
        [*HEAD, started("a"), finished("a"), {"t": "tests_over", "shouldfail": None, "shouldstop": None}],
        3,
        1,
    ),
    "it was interrupted": (
        [*HEAD, started("a"), {"t": "interrupt", "name": "Exit", "module": "m", "message": ""}],
        3,
        1,
    ),
    "the one after it began no test": (
        [*HEAD, started("a"), {"t": "died", "text": "x", "again": True}, SESSION],
        3,
        1,
    ),
    "the session is not recorded": ([{"t": "unavailable", "reason": "x"}], 3, 1),
}


@pytest.mark.parametrize(("records", "restarts", "code"), NEVER_AGAIN.values(), ids=NEVER_AGAIN)
def test_pytest_is_not_started_again(tmp_path: Path, records: list[Any], restarts: int, code: int) -> None:
    case = Case(tmp_path, records)
    assert case.resolve(restarts) is False
    assert case.resolution.code == code
    last = case.added()[-1]
    assert (last["t"], last["again"]) == ("died", False)


def test_pytest_is_started_again_for_the_rest(tmp_path: Path) -> None:
    case = Case(tmp_path, [*HEAD, started("a"), report("a"), finished("a"), started("b")])
    assert case.resolve(1) is True
    assert [record["t"] for record in case.added()] == ["report", "report", "finished", "died"]
    assert case.resolution.words == "It died while running b"


def test_expected_failures_do_not_count_for_maxfail(tmp_path: Path) -> None:
    records = [
        {**SESSION, "maxfail": 2},
        *HEAD[1:],
        started("a"),
        report("a", wasxfail="why"),
        finished("a"),
        started("b"),
    ]
    assert Case(tmp_path, records).resolve() is True


def test_maxfail_ends_the_session_as_pytest_itself_does(tmp_path: Path) -> None:
    case = Case(tmp_path, [{**SESSION, "maxfail": 1}, *HEAD[1:], started("a")])
    case.resolve()
    over = case.added()[-2]
    assert (over["t"], over["shouldfail"]) == ("tests_over", "stopping after 1 failures")


def test_a_failure_has_the_end_of_standard_error_since_the_test_began(tmp_path: Path) -> None:
    case = Case(tmp_path, [*HEAD, started("a", sizes=[0, 0, 4])], b"old\nnew\xff\n")
    case.resolve(sections=[["Captured stdout call", "said"]])
    failure = case.added()[0]["d"]
    assert failure["longrepr"] == "It died while running a\n\nThe end of its standard error:\nnew\ufffd"
    assert failure["sections"] == [["Captured stdout call", "said"]]
    assert (failure["when"], failure["outcome"], failure["location"]) == ("call", "failed", ["t.py", 1, "a"])


def test_a_long_standard_error_is_cut_at_its_beginning(tmp_path: Path) -> None:
    case = Case(
        tmp_path, [*HEAD, started("a", sizes=[0, 0, 0])], b"x" * 10**6 + b"\n" + b"line\n" * 1000 + b"last"
    )
    case.resolve()
    text = case.added()[0]["d"]["longrepr"]
    assert len(text) < 20_000
    assert text.endswith("line\nlast")


def test_a_death_after_the_call_is_an_error_of_the_teardown(tmp_path: Path) -> None:
    case = Case(tmp_path, [*HEAD, started("a"), report("a", outcome="passed")])
    case.resolve()
    reports = [record["d"] for record in case.added() if record["t"] == "report"]
    assert [(data["when"], data["outcome"]) for data in reports] == [("teardown", "failed")]


def test_a_stopped_session_leaves_the_words_to_whoever_stopped_it(tmp_path: Path) -> None:
    case = Case(tmp_path, [*HEAD, started("a")])
    assert case.resolve(stopped=True) is False
    assert [record["t"] for record in case.added()] == ["died"]


def test_a_record_that_pytest_died_in_does_not_swallow_the_next(tmp_path: Path) -> None:
    case = Case(tmp_path, [*HEAD, started("a")])
    with case.path.open("ab") as file:
        file.write(b'{"t": "repo')
    case.resolve()
    lines = case.path.read_bytes()[case.before :].splitlines()
    assert [json.loads(line)["t"] for line in lines[1:]] == ["report", "report", "finished", "died"]


GARBAGE = [
    b"",
    b"x",
    b"[]",
    b"1",
    b'{"t": []}',
    b'{"t": "tree"}',
    b'{"t": "tree", "items": [1]}',
    b'{"t": "started"}',
    b'{"t": "report", "d": 1}',
    b'{"t": "several", "of": 1}',
    b'{"t": "several", "of": [1]}',
    b"[" * 100_000,
    b'{"t": "session", "maxfail": "x"}',
    b'{"t": "end"}',
    b"\xff\x00",
    b'{"t": "x", "v": "' + b"y" * (5 << 20) + b'"}',
    b'{"t": "started", "id": "a", "location": 7, "at": "x", "sizes": [1, 2, {}]}',
]


def test_what_is_no_record_changes_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path, [*HEAD, *GARBAGE, started("b"), *GARBAGE])
    assert case.resolve() is True
    assert [record["t"] for record in case.added()].count("finished") == 1


class Kept:
    """Stands for `Records`."""

    def __init__(self) -> None:
        self.kinds: list[str] = []

    def add(self, record: Record) -> None:
        self.kinds.append(record.kind)


def test_what_was_shown_before_a_restart_is_not_recorded_again() -> None:
    kept: Any = Kept()
    earlier = crash.read(
        io.BytesIO(b'{"t": "collect_report", "d": {"nodeid": "old", "outcome": "failed"}}\n')
    )
    again = resume.ResumedRecords(kept, earlier)
    for kind in ("session", "header", "collecting", "tree", "collected", "warning", "terminal", "deselected"):
        again.add(KINDS[kind]())
    for nodeid in ("old", "new"):
        again.add(CollectReport(d={"nodeid": nodeid, "outcome": "failed"}))
    for kind in ("started", "warning", "terminal", "end"):
        again.add(KINDS[kind]())
    assert kept.kinds == ["collect_report", "started", "warning", "terminal", "end"]


def test_a_second_collection_is_held_against_the_first() -> None:
    kept: Any = Kept()
    earlier = crash.SessionState()
    for record in (tree("a", "b", "c", "d"), started("a")):
        earlier.update(record)
    rest = resume.OnlyUnstarted(resume.ResumedRecords(kept, earlier), earlier)
    items = [type("Item", (), {"nodeid": nodeid})() for nodeid in ("x", "d", "a", "b")]
    session: Any = None
    hook = rest.pytest_collection_modifyitems(session, items)
    next(hook)
    with pytest.raises(StopIteration):
        next(hook)
    assert [item.nodeid for item in items] == ["b", "d"]
    assert kept.kinds == ["note"]


#: Of the worker's seal.
KEY = "5ea1" * 16


def run_recorded(folder: Path, text: str, *args: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """A recorded pytest under a real worker: its exit code and its last frame."""
    spool = folder / "spool"
    spool.mkdir()
    (folder / "test_it.py").write_text(text)
    job = {
        "protocol": 1,
        "argv": [sys.executable, boot.__file__, "module", "-p", "no:cacheprovider", *args],
        "cwd": str(folder),
        "env": {"REMOTE_CI_RECORDS": str(spool), "PYTHONDONTWRITEBYTECODE": "1"},
        "grace": 5,
        "recorded": True,
        "restarts": 3,
        "seal": KEY,
        **more,
    }
    (spool / "job.json").write_text(json.dumps(job))
    command = [sys.executable, "-I", "-S", worker.__file__, str(spool)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV"))}
    done = subprocess.run(command, timeout=60, check=False, env=env)
    line = (spool / "frames").read_bytes().splitlines()[-1]
    assert seals.is_sealed(line, KEY)
    return done.returncode, json.loads(line)


ENDS: dict[str, tuple[str, int, str | None]] = {
    "all is well": ("def test(): pass", 0, None),
    "a failure": ("def test(): assert 0", 1, None),
    "leaving with 0 from a test": (
        "import os\ndef test(): os._exit(0)",
        1,
        "pytest ended with code 0 in the middle of its session while running test_it.py::test",
    ),
    "leaving with 0 from a collected file": (
        "import os; os._exit(0)",
        2,
        "pytest ended with code 0 in the middle of its session while collecting test_it.py",
    ),
    "leaving with 0 at the end of the process, after a failure": (
        "import os, atexit\ndef test():\n    atexit.register(os._exit, 0)\n    assert 0",
        1,
        None,
    ),
    "leaving with 3 at the end of the process": (
        "import os, atexit\ndef test(): atexit.register(os._exit, 3)",
        3,
        None,
    ),
    "a crash at the end of the process": (
        "import os, atexit\ndef test(): atexit.register(os.abort)",
        1,
        "pytest was ended by SIGABRT after its tests",
    ),
}


@pytest.mark.parametrize(("text", "code", "died"), ENDS.values(), ids=ENDS)
def test_frame_and_exit_code_agree_on_how_pytest_ended(
    tmp_path: Path, text: str, code: int, died: str | None
) -> None:
    found, frame = run_recorded(tmp_path, text)
    assert (found, frame["code"], frame["signal"], frame.get("died")) == (code, code, None, died)


def test_a_seal_is_out_of_reach_before_anything_of_the_users_runs(tmp_path: Path) -> None:
    text = (
        "import os\ndef test():\n    found = os.listdir(os.environ['S'])\n"
        "    assert 'job.json' not in found\n    assert 'KEY' not in str(dict(os.environ))\n".replace(
            "KEY", KEY
        )
    )
    code, _ = run_recorded(tmp_path, text.replace("os.environ['S']", repr(str(tmp_path / "spool"))))
    assert code == 0


@pytest.mark.parametrize(
    ("signal_name", "words"),
    [
        (
            "SIGBUS",
            r"pytest was ended by SIGBUS \(usually: /dev/shm is full; limit 512 MiB; setting: shm-size\)",
        ),
        (
            "SIGXFSZ",
            (
                r"pytest was ended by SIGXFSZ "
                r"\(a file grew beyond the largest size of a file; limit 1 GiB; setting: file-size\)"
            ),
        ),
        ("SIGXCPU", r"pytest was ended by SIGXCPU \(it used more processor time than a job may\)"),
        ("SIGSYS", r"pytest was ended by SIGSYS \(it made a system call that jobs may not make\)"),
        ("SIGSEGV", r"pytest was ended by SIGSEGV"),
    ],
)
def test_a_death_by_a_limit_names_it(signal_name: str, words: str) -> None:
    limits = crash.Limits("2 GiB", "1 GiB", "512 MiB")
    assert re.fullmatch(words, crash.ending(-1, signal_name, oom=False, limits=limits))


def test_unknown_limits_are_not_named() -> None:
    assert crash.ending(137, "SIGKILL", oom=True, limits=crash.Limits()) == "pytest was killed: out of memory"
    words = "pytest was ended by SIGBUS (usually: /dev/shm is full)"
    assert crash.ending(135, "SIGBUS", oom=False, limits=crash.Limits()) == words
