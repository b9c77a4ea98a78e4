"""Ctrl-C, SIGTERM and a closed pipe at every point of a run: the job is cancelled, nothing is left, no traceback.

The run is shown as text here; `test_plugin_native` has what is different in a native session.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fake_runner import HEAD, KEY, FakeRunner, complete, fake_runner, log
from support.waiting import wait_until

PYTEST = str(Path(sys.executable).with_name("pytest"))


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        runner.script = [log("collected 2 items\n")]
        yield runner


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


@pytest.fixture
def process(runner: FakeRunner, project: Path) -> Iterator[subprocess.Popen[str]]:
    with start(runner, project) as process:
        try:
            yield process
        finally:
            process.kill()


def start(runner: FakeRunner, project: Path, *args: str) -> subprocess.Popen[str]:
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_CORE_"))
    }
    environ |= {"REMOTE_CI_URL": runner.url, "REMOTE_CI_API_KEY": KEY}
    return subprocess.Popen(
        [PYTEST, "--remote-ci", "--remote-ci-text", *args],
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=20)
    assert "Traceback" not in err
    return process.returncode, out, err


def first_output(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "collected 2 items\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_cancels_the_job_and_waits_for_its_end(
    runner: FakeRunner, process: subprocess.Popen[str], number: int
) -> None:
    first_output(process)
    runner.ends_cancelled = False
    process.send_signal(number)
    (job,) = runner.jobs.values()
    wait_until(lambda: job.cancelled, what="the cancel request")
    job.events.append(log("!!! KeyboardInterrupt !!!\n"))
    job.events.append(complete(None, "cancelled", cancelled=True, reason="cancelled by user"))
    code, out, err = ended(process)
    assert code == 2
    assert "KeyboardInterrupt" in out, "what the tests still say is shown"
    assert f"Cancelling job {job.id} … (press Ctrl-C again to leave at once)\n" in err
    assert err.endswith(f"Job {job.id} was cancelled.\n")


def test_a_second_interrupt_leaves_at_once(runner: FakeRunner, process: subprocess.Popen[str]) -> None:
    first_output(process)
    runner.ends_cancelled = False
    process.send_signal(signal.SIGINT)
    (job,) = runner.jobs.values()
    wait_until(lambda: job.cancelled, what="the cancel request")
    wait_until(lambda: len(runner.paths("GET")) == 2, what="the stream of the cancelled job")
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 2
    assert err.endswith(f"Not waiting for the end of job {job.id}.\n")


def test_an_interrupt_while_the_answer_is_awaited_cancels_the_job_that_was_made(
    runner: FakeRunner, process: subprocess.Popen[str]
) -> None:
    runner.answer_delay = 1.0
    wait_until(lambda: runner.jobs, what="the submission's last byte")
    process.send_signal(signal.SIGINT)
    code, _, err = ended(process)
    assert code == 2
    assert "Cancelling the submission …" in err
    (job,) = runner.jobs.values()
    assert job.cancelled


def test_an_interrupt_during_the_upload_leaves_nothing_behind(runner: FakeRunner, project: Path) -> None:
    (project / "large.bin").write_bytes(os.urandom(32 << 20))

    def slow(request: object) -> None:
        if getattr(request, "method", "") == "POST":
            runner.stopping.wait(3)

    runner.intercept = slow
    with start(runner, project) as process:
        wait_until(lambda: runner.paths("POST"), what="the upload's begin", timeout=20)
        process.send_signal(signal.SIGINT)
        code, _, err = ended(process)
    assert code == 2
    assert err == "Interrupted: nothing was left on the runner.\n"
    assert runner.jobs == {}


def test_an_interrupted_attachment_leaves_the_job_running(runner: FakeRunner, project: Path) -> None:
    job = runner.add_job(log("collected 2 items\n"))
    with start(runner, project, "--remote-ci-attach", job.id) as process:
        first_output(process)
        process.send_signal(signal.SIGINT)
        code, _, err = ended(process)
    assert code == 2
    assert f"It continues to run; reconnect with: pytest --remote-ci-attach {job.id}" in err
    assert not job.cancelled


def test_a_closed_terminal_cancels_the_job(runner: FakeRunner, project: Path) -> None:
    environ = {**os.environ, "REMOTE_CI_URL": runner.url, "REMOTE_CI_API_KEY": KEY, "TERM": "xterm"}
    ours, theirs = pty.openpty()

    def own_the_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with subprocess.Popen(
        [PYTEST, "--remote-ci", "--remote-ci-text"],
        cwd=project,
        env=environ,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=own_the_terminal,
    ) as process:
        os.close(theirs)
        text = b""
        while b"collected 2 items" not in text:
            text += os.read(ours, 65536)
        os.close(ours)
        assert process.wait(60) == 2
    (job,) = runner.jobs.values()
    assert job.cancelled


def test_an_ignored_hangup_stays_ignored(runner: FakeRunner, project: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        started = start(runner, project)
    finally:
        signal.signal(signal.SIGHUP, before)
    with started as process:
        first_output(process)
        process.send_signal(signal.SIGHUP)
        (job,) = runner.jobs.values()
        job.events.append(complete())
        code, _, _ = ended(process)
    assert code == 0
    assert not job.cancelled


def test_ctrl_c_while_the_runner_stays_away_leaves_the_job_running(runner: FakeRunner, project: Path) -> None:
    runner.intercept = lambda request: (
        (503, {"detail": "away"}, {}) if runner.streams and request.path.endswith("/stream") else None
    )
    runner.cut_streams_after = [len(HEAD) + 200]
    runner.script = [log("collected 2 items\n"), log("x" * 500)]
    with start(runner, project) as process:
        first_output(process)
        assert process.stderr is not None
        line = ""
        while "Ctrl-C leaves" not in line:
            line = process.stderr.readline()
            assert line
        assert re.search(r"answered 503 .*; trying for \d+ s more|; trying for \d+ min", line), line
        process.send_signal(signal.SIGINT)
        code, _, err = ended(process)
    (job,) = runner.jobs.values()
    assert code == 2
    assert f"Job {job.id} continues on the runner; show it with: pytest --remote-ci-attach {job.id}\n" in err
    assert not job.cancelled


def test_a_closed_pipe_cancels_the_job_without_a_traceback(
    runner: FakeRunner, process: subprocess.Popen[str]
) -> None:
    first_output(process)
    assert process.stdout is not None
    process.stdout.close()
    (job,) = runner.jobs.values()

    def more() -> bool:
        job.events.append(log("more\n"))
        return job.cancelled

    wait_until(more, what="the cancel request")
    assert process.wait(20) == 1
    assert process.stderr is not None
    assert process.stderr.read() == f"Job ID: {job.id}\n"


def test_a_dropped_connection_is_told_and_mended(runner: FakeRunner, project: Path) -> None:
    runner.script = [log(f"line {number}\n") for number in range(10)] + [complete()]
    runner.cut_streams_after = [500]
    with start(runner, project) as process:
        code, out, err = ended(process)
    assert code == 0
    assert out == "".join(f"line {number}\n" for number in range(10))
    assert "; reconnecting …" in err


def test_on_a_terminal_there_are_colours_a_width_and_no_foreign_control(
    runner: FakeRunner, project: Path
) -> None:
    runner.script = [
        {"type": "state", "phase": "queued", "queue_position": 2},
        log("\x1b[32mgreen\x1b[0m\x1b]0;title\x07\n"),
        complete(),
    ]
    environ = {
        **os.environ,
        "REMOTE_CI_URL": runner.url,
        "REMOTE_CI_API_KEY": KEY,
        "TERM": "xterm",
        "COLUMNS": "77",
    }
    for name in ("NO_COLOR", "PY_COLORS", "FORCE_COLOR", "PYTEST_ADDOPTS"):
        environ.pop(name, None)
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [PYTEST, "--remote-ci", "--remote-ci-text"],
            cwd=project,
            env=environ,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        text, ends = b"", time.monotonic() + 20
        while time.monotonic() < ends:
            try:
                if select.select([ours], [], [], 0.1)[0]:
                    text += os.read(ours, 65536)
            except OSError:
                break
        assert process.wait(20) == 0
    finally:
        os.close(ours)
    assert b"\x1b[32mgreen\x1b[0m\r\n" in text
    assert b"title" not in text
    assert b"queued, position 2" in text
    (job,) = runner.jobs.values()
    assert job.options is not None
    assert (job.options["color"], job.options["columns"]) == (True, 77)
