"""What the controller believes of a container's last words, and how a job that ends within a test is named."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ci_runner.controller import verdicts
from ci_runner.controller.engine import Observed
from ci_runner.controller.environments import worker_command
from ci_runner.controller.snapshot import Policy, SpoolResult
from ci_runner.controller.spool import reader
from ci_runner.controller.spool.reader import ExitFrame, Spool
from ci_runner.model import seals
from ci_runner.model.job import Job, utcnow
from ci_runner.model.job_options import JobOptions
from ci_runner.model.verdict import Verdict, cancelled, failed, first_line, ran

PASSED = {"t": "exit", "code": 0}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work" / "spool").mkdir(parents=True)
    return tmp_path / "work"


KEY = "01" * 32


def believed(work: Path, frame: dict[str, Any] | bytes, *, over: bool) -> ExitFrame | None:
    line = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
    (work / "spool" / "frames").write_bytes(line + b"\n")
    spool = Spool(work / "spool")
    try:
        return reader.final_frame(spool, over=over)
    finally:
        spool.close()


@pytest.mark.parametrize("over", [False, True])
def test_an_exit_frame_without_the_workers_seal_is_nobodys(work: Path, over: bool) -> None:
    (work / "seal").write_text(KEY)
    assert believed(work, PASSED, over=over) is None
    assert believed(work, PASSED | {"seal": "4567"}, over=over) is None
    assert believed(work, PASSED | {"seal": KEY}, over=over) is None
    assert believed(work, PASSED | {"seal": None}, over=over) is None
    assert believed(work, PASSED | {"seal": "\u00e9\ud800"}, over=over) is None


@pytest.mark.parametrize("key", ["", "no digits", "01" * 100])
def test_a_damaged_key_seals_nothing(work: Path, key: str) -> None:
    (work / "seal").write_text(key)
    assert believed(work, PASSED | {"seal": key}, over=False) is None


def test_the_seal_of_one_frame_is_of_no_use_for_another(work: Path) -> None:
    (work / "seal").write_text(KEY)
    failed = seals.sealed(json.dumps({"t": "exit", "code": 1}).encode(), KEY)
    assert believed(work, failed, over=False) == ExitFrame(1)
    assert believed(work, failed.replace(b'"code": 1', b'"code": 0'), over=True) is None
    seal = json.loads(failed)["seal"]
    for line in (
        b'{"t": "exit", "code": 0, "of": ' + failed + b"}",
        failed + b'{"t": "exit", "code": 0}',
        failed[:-1] + b', "code": 0}',
        f'{{"t": "exit", "code": 0, "seal": "{seal}"}}'.encode(),
    ):
        assert believed(work, line, over=True) is None


def test_an_exit_frame_with_the_seal_counts_before_the_engine_has_spoken(work: Path) -> None:
    (work / "seal").write_text(KEY)
    line = seals.sealed(json.dumps(PASSED).encode(), KEY)
    assert believed(work, line, over=False) == ExitFrame(0)


def test_where_there_is_no_seal_the_engine_has_to_speak_first(work: Path) -> None:
    assert believed(work, PASSED, over=False) is None
    assert believed(work, PASSED, over=True) == ExitFrame(0)


@dataclass(frozen=True)
class Place:
    """What decides about a command."""

    python: str = "/ci/env/bin/python"
    mount_point: str = "/workspace"
    module: bool = True


WITH_PYTHON, WITHOUT_PYTHON = Place(), Place(python="")


def test_a_shell_cannot_keep_a_key_and_gets_none(work: Path) -> None:
    description: worker_command.Description = {"argv": ["true"], "cwd": "/", "env": {}, "path": []}
    worker_command.write(work, WITHOUT_PYTHON, description, None)
    assert [path.name for path in (work / "spool").iterdir()] == ["command"]
    assert not (work / "seal").exists()


def test_a_command_that_its_worker_removed_is_not_written_again(work: Path) -> None:
    description: worker_command.Description = {
        "argv": ["true"],
        "cwd": "/",
        "env": {"SECRET": "value"},
        "path": [],
    }
    worker_command.write(work, WITHOUT_PYTHON, description, None)
    (work / "spool" / "command").unlink()
    worker_command.write(work, WITHOUT_PYTHON, description, None)
    assert list((work / "spool").iterdir()) == []


def test_an_attempt_of_an_older_version_counts_once_the_engine_has_spoken(work: Path) -> None:
    (work / "seal").write_text("0123456789abcdef" * 2)
    frame = PASSED | {"seal": "0123456789abcdef" * 2}
    assert believed(work, frame, over=False) is None
    assert believed(work, frame, over=True) is not None


def test_a_seal_is_made_once_per_attempt_and_not_where_containers_see_it(work: Path) -> None:
    (work / "seal.tmp").write_text("left by a controller that was killed")
    worker_command.write(work, WITH_PYTHON, {"protocol": 1}, None)
    seal = (work / "seal").read_text()
    assert json.loads((work / "spool" / "job.json").read_text()) == {"protocol": 1, "seal": seal}
    assert (work / "seal").stat().st_mode & 0o077 == 0
    (work / "spool" / "job.json").unlink()  # as the worker does
    worker_command.write(work, WITH_PYTHON, {"protocol": 1}, None)
    assert (work / "seal").read_text() == seal
    assert not (work / "spool" / "job.json").exists()


WHERE = {"location": ["t.py", 1, "a"]}
STARTED = {"t": "started", "id": "t.py::a", **WHERE}
FINISHED = {"t": "finished", "id": "t.py::a", **WHERE}
RUNNING: dict[str, tuple[list[Any], str | None]] = {
    "nothing": ([], None),
    "a test": ([STARTED], "t.py::a"),
    "its end": ([STARTED, FINISHED], None),
    "its end with a report": ([STARTED, {"t": "several", "of": [{"t": "report"}, FINISHED]}], None),
    "the newest of two": ([STARTED, {"t": "started", "id": "t.py::b", **WHERE}], "t.py::b"),
    "the one that is left of two": (
        [STARTED, {"t": "started", "id": "b", **WHERE}, {"t": "finished", "id": "b", **WHERE}],
        "t.py::a",
    ),
    "pytest died since": ([STARTED, {"t": "died"}], None),
    "garbage": ([STARTED, 1, [], {"t": "finished", "id": []}, {"t": "several", "of": [1]}, "x"], "t.py::a"),
}


@pytest.mark.parametrize(("records", "expected"), RUNNING.values(), ids=RUNNING)
def test_the_test_that_runs_is_known_from_the_records(
    tmp_path: Path, records: list[Any], expected: str | None
) -> None:
    (tmp_path / "records").write_text("".join(json.dumps(record) + "\n" for record in records) + '{"t": "sta')
    spool = Spool(tmp_path)
    try:
        assert reader.running_test(spool) == expected
    finally:
        spool.close()


def job(**fields: Any) -> Job:
    return Job(id="a", user_id="u", workspace="0" * 64, submitted_at=utcnow(), phase="testing", **fields)


def box(code: int, *, oom: bool = False) -> Observed:
    return Observed("c", "cir-a-1", "test", "a", 1, "exited", exit_code=code, oom_killed=oom)


T = "while running t.py::a"
NAMED: dict[str, tuple[Job, Observed | None, ExitFrame | None, str]] = {
    "timeout": (job(stop_intent="timeout"), box(2), ExitFrame(2), f"timed out after 60 min of testing {T}"),
    "disk": (job(stop_intent="disk"), box(137), None, f"disk limit of 4 GiB exceeded {T}"),
    "a full disk": (
        job(stop_intent="full"),
        box(137),
        None,
        f"wrote too much: the runner's disk is nearly full {T}",
    ),
    "memory of the container": (
        job(),
        box(137, oom=True),
        None,
        f"out of memory (limit 2 GiB; setting: memory) {T}",
    ),
    "memory of the container, as the last word has it": (
        job(),
        box(137, oom=True),
        ExitFrame(137),
        f"out of memory (limit 2 GiB; setting: memory) {T}",
    ),
    "lost": (job(), None, None, f"container lost {T}"),
    "stopped by somebody else": (
        job(),
        box(2),
        ExitFrame(2, stopped=True),
        f"container lost (it was stopped from outside the runner) {T}",
    ),
    "a failure when somebody else stopped it": (
        job(),
        box(1),
        ExitFrame(1, stopped=True),
        f"container lost (it was stopped from outside the runner) {T}",
    ),
}


@pytest.mark.parametrize(("whose", "seen", "last", "reason"), NAMED.values(), ids=NAMED)
def test_a_job_without_a_verdict_names_the_test_that_ran(
    whose: Job, seen: Observed | None, last: ExitFrame | None, reason: str
) -> None:
    verdict = verdicts.ended(whose, seen, SpoolResult(True, last, "t.py::a"), Policy())
    assert (verdict.status, verdict.exit_code, verdict.reason) == ("failed", None, reason)
    assert verdict.success is (False if whose.stop_intent == "timeout" else None)


def test_who_cancelled_is_named_where_it_is_known() -> None:
    assert verdicts.stopped(job(cancelled_by="Ada"), "cancel", Policy()) == cancelled("Ada")
    assert verdicts.stopped(job(), "cancel", Policy()).reason == "cancelled by its user"


@pytest.mark.parametrize(
    ("options", "signal_name", "words"),
    [
        ({}, "SIGBUS", "usually: /dev/shm is full; limit 512 MiB; setting: shm-size"),
        ({"shm_size": 2 << 30}, "SIGBUS", "usually: /dev/shm is full; limit 2 GiB; setting: shm-size"),
        (
            {"file_size": 3 << 20},
            "SIGXFSZ",
            "a file grew beyond the largest size of a file; limit 3 MiB; setting: file-size",
        ),
    ],
)
def test_the_death_of_a_command_by_a_limit_names_it(
    options: dict[str, Any], signal_name: str, words: str
) -> None:
    verdict = verdicts.ended(
        job(options=JobOptions.from_dict(options)),
        box(135),
        SpoolResult(True, ExitFrame(None, signal_name)),
        Policy(),
    )
    assert verdict == ran(1, f"a test took pytest down: it was ended by {signal_name} ({words})")


@pytest.mark.parametrize(
    ("asked", "default", "most", "words"),
    [
        (None, 2 << 30, 8 << 30, "2 GiB"),
        (512 << 20, 2 << 30, 8 << 30, "512 MiB"),
        (16 << 30, 2 << 30, 8 << 30, "8 GiB"),
        (None, 16 << 30, 8 << 30, "8 GiB"),
    ],
)
def test_the_memory_that_is_named_is_what_the_container_has(
    asked: int | None, default: int, most: int, words: str
) -> None:
    policy = replace(Policy(), memory=default, max_memory=most)
    options = {} if asked is None else {"memory": asked}
    verdict = verdicts.ended(
        job(options=JobOptions.from_dict(options)), box(137, oom=True), SpoolResult(True, None), policy
    )
    assert verdict.reason == f"out of memory (limit {words}; setting: memory)"
    killed = ExitFrame(None, "SIGKILL", oom=True)
    verdict = verdicts.ended(
        job(options=JobOptions.from_dict(options)), box(137), SpoolResult(True, killed), policy
    )
    assert verdict == ran(1, f"a test took pytest down: out of memory (limit {words}; setting: memory)")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "unknown"),
        (" \n\t\n", "unknown"),
        ("\n  first \nsecond", "first"),
        ("x" * 500, "x" * 500),
        ("x" * 501, "x" * 499 + "…"),
        ("x" * 9999 + "\ny", "x" * 499 + "…"),
    ],
)
def test_a_reason_is_one_bounded_line(text: str, line: str) -> None:
    assert first_line(text) == line
    assert failed(text).reason == line


def test_a_limit_of_a_line_is_kept() -> None:
    assert (first_line("abcd", 4), first_line("abcde", 4)) == ("abcd", "abc…")


@pytest.mark.parametrize(
    ("verdict", "fields"),
    [
        (ran(0), {"status": "completed", "exit_code": 0, "reason": None}),
        (ran(3, "why"), {"status": "completed", "exit_code": 3, "reason": "why"}),
        (failed("lost"), {"status": "failed", "exit_code": None, "reason": "lost"}),
        (
            cancelled("Ada"),
            {"status": "cancelled", "exit_code": None, "reason": "cancelled by Ada", "cancelled": True},
        ),
    ],
)
def test_what_the_last_event_says_of_a_verdict(verdict: Verdict, fields: dict[str, Any]) -> None:
    assert verdict.complete_fields() == fields


def test_a_death_of_pytest_is_the_reason_of_a_failure() -> None:
    ending = SpoolResult(True, ExitFrame(1, died="pytest was ended by SIGSEGV while running t.py::a"))
    verdict = verdicts.ended(job(), box(1), ending, Policy())
    assert verdict == Verdict("completed", False, 1, "pytest was ended by SIGSEGV while running t.py::a")
