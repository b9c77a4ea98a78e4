"""Every command with every outcome ends with the code of one table (`pytest_remote_ci.exit_codes`)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_runner import KEY, TIME, FakeRunner, Request, complete, fake_runner, log
from support.waiting import wait_until

from pytest_remote_ci import exit_codes
from pytest_remote_ci.cli import main
from pytest_remote_ci.wire.answers import Run

JOB = "11111111-1111-4111-8111-111111111111"
RUN = "22222222-2222-4222-8222-222222222222"
PIPELINE = (
    "[tool.remote-ci.pipelines.ci]\nstages = ['test']\njobs.one = {stage = 'test', script = ['true']}\n"
)

#: Commands that need a runner and tell nothing about tests.
ASKING = [
    ("list",),
    ("show", JOB),
    ("cancel", JOB),
    ("artifacts", JOB),
    ("tests",),
    ("pipeline", "logs", RUN),
    ("pipeline", "report", "ci"),
    ("pipeline", "artifacts", RUN),
    ("pipeline", "cancel", RUN),
]
#: Commands that end as a job does.
OF_JOBS = [("submit",), ("wait", JOB, "--all")]
#: Commands that end as a run does.
OF_RUNS = [
    ("pipeline", "run", "ci"),
    ("pipeline", "status", RUN),
    ("pipeline", "status", RUN, "--watch"),
    ("pipeline", "rerun", RUN),
]
SENDING = [("submit", "--async"), ("pipeline", "run", "ci", "--async"), ("pipeline", "rerun", RUN, "--async")]
ALL = [*ASKING, *OF_JOBS, *OF_RUNS, *SENDING]

#: How pytest itself is asked; the job of the second is shown as text.
SESSIONS = [
    ("--remote-ci",),
    ("--remote-ci", "--remote-ci-text"),
    ("--remote-ci-attach", JOB),
    ("--remote-ci-replay", JOB),
]


def words(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments).replace(JOB, "JOB").replace(RUN, "RUN")


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        yield runner


@pytest.fixture
def project(runner: FakeRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory; its runner is the fake one."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text(PIPELINE)
    for name in [name for name in os.environ if name.startswith(("PYTEST_", "XDG_", "CI_", "REMOTE_CI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("REMOTE_CI_URL", runner.url)
    monkeypatch.setenv("REMOTE_CI_API_KEY", KEY)
    monkeypatch.chdir(folder)
    return folder


def code_of(*arguments: str) -> int:
    """The exit code of a command of `remote-ci`."""
    try:
        return main.main(arguments)
    except SystemExit as end:
        return int(end.code or 0)


def pytest_code(folder: Path, *arguments: str) -> int:
    command = [sys.executable, "-m", "pytest", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    print(done.stdout, done.stderr)  # shown where the code is another
    return done.returncode


def run_of(status: str, success: bool | None, *jobs: dict[str, Any]) -> dict[str, Any]:
    return {
        "run_id": RUN,
        "pipeline": "ci",
        "number": 1,
        "status": status,
        "success": success,
        "reason": None,
        "end_time": TIME,
        "stages": ["test"],
        "jobs": list(jobs),
    }


def job_of_run(status: str, success: bool | None, **more: Any) -> dict[str, Any]:
    return {
        "job_id": JOB,
        "name": "one",
        "definition": "one",
        "stage": "test",
        "status": status,
        "success": success,
        "allow_failure": False,
        "skipped": False,
        "reused": False,
        "phase": None,
        "retry": 0,
        "reason": None,
        "start_time": TIME,
        "end_time": TIME,
        "counts": {},
        "exit_code": None,
        "secrets": [],
        "kind": "script",
        **more,
    }


RUNS = {
    "passed": (run_of("completed", True, job_of_run("completed", True)), 0),
    "failed": (run_of("completed", False, job_of_run("completed", False)), 1),
    "without a verdict": (run_of("completed", False, job_of_run("failed", None)), 70),
    "allowed failure and lost job": (
        run_of(
            "completed",
            False,
            job_of_run("completed", False, allow_failure=True),
            job_of_run("failed", None, name="two"),
        ),
        70,
    ),
    "timed out": (run_of("failed", None, job_of_run("cancelled", None)), 70),
    "cancelled": (run_of("cancelled", None, job_of_run("cancelled", None)), 70),
}


def serve_run(runner: FakeRunner, run: dict[str, Any]) -> None:
    """Let the fake runner have this run, whatever is asked of it."""

    def answer(request: Request) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        if not request.path.startswith(("/runs", "/pipelines")):
            return None
        if request.path.endswith("/stream"):
            return None
        return 200, run, {}

    events = runner.add_job({"type": "run_complete", "success": run["success"], "status": run["status"]})
    runner.jobs[RUN] = events
    runner.add_job(log("its log\n"), complete(), job_id=JOB)
    runner.intercept = answer


@pytest.mark.parametrize("arguments", ALL, ids=words)
def test_no_runner_is_69(project: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMOTE_CI_URL", "http://127.0.0.1:9")
    assert code_of(*arguments) == 69


@pytest.mark.parametrize("arguments", ALL, ids=words)
def test_a_refused_key_is_77(
    project: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMOTE_CI_API_KEY", "wrong")
    assert code_of(*arguments) == 77


@pytest.mark.parametrize("arguments", ALL, ids=words)
def test_a_runner_that_refuses_is_70(runner: FakeRunner, project: Path, arguments: tuple[str, ...]) -> None:
    runner.intercept = lambda request: (422, {"detail": "not like this"}, {})
    assert code_of(*arguments) == 70


@pytest.mark.parametrize(
    "arguments", [("submit", "--async"), ("pipeline", "run", "ci", "--async")], ids=words
)
def test_a_runner_that_is_too_old_for_a_limit_is_told_with_its_name(
    runner: FakeRunner, project: Path, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    file = project / "pyproject.toml"
    file.write_text(f"[tool.remote-ci]\nshm-size = '1g'\nopen-files = 9000\n{PIPELINE}")
    detail = "options.protocol: this runner speaks version 1, the client 2"
    runner.intercept = lambda request: (422, {"detail": detail}, {}) if request.method == "POST" else None
    assert code_of(*arguments) == 70
    line = (
        f"the runner at {runner.url} is too old for shm-size, open-files: update it, or remove the setting\n"
    )
    assert capfd.readouterr().err.endswith(line)


def test_a_runner_that_is_too_old_for_secrets_is_told_and_gets_no_job(
    runner: FakeRunner, project: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "pyproject.toml").write_text("[tool.remote-ci]\nsecrets = ['TOKEN']\n")
    assert code_of("submit", "--async") == 4
    assert capfd.readouterr().err.endswith("secrets: not set in the environment: TOKEN\n")
    monkeypatch.setenv("TOKEN", "x")
    detail = "options.protocol: this runner speaks version 1, the client 2"
    runner.intercept = lambda request: (422, {"detail": detail}, {}) if request.method == "POST" else None
    assert code_of("submit", "--async") == 70
    line = f"the runner at {runner.url} is too old for secrets: update it, or remove the setting\n"
    assert capfd.readouterr().err.endswith(line)


@pytest.mark.parametrize(
    "arguments", [command for command in ALL if JOB in command or RUN in command], ids=words
)
def test_what_does_not_exist_is_4(project: Path, arguments: tuple[str, ...]) -> None:
    assert code_of(*arguments) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("submit", "build"),
        ("wait",),
        ("list", "--limit", "0"),
        ("list", "--", "-x"),
        ("pipeline",),
        ("pipeline", "status"),
        ("pipeline", "report", "ci", "--format", "none"),
        ("pipeline", "report", "ci", "--job", "one"),
        ("pipeline", "report", "--run", "1"),
        ("pipeline", "run", "nine"),
        ("pipeline", "run", "-f", "missing.yaml"),
        ("pipeline", "dry-run", "nine"),
    ],
    ids=words,
)
def test_wrong_usage_is_4(project: Path, arguments: tuple[str, ...]) -> None:
    assert code_of(*arguments) == 4


def test_a_wrong_configuration_is_4(project: Path) -> None:
    (project / "pyproject.toml").write_text("[tool.remote-ci]\nnonsense = 1\n")
    for arguments in (("submit",), ("list",), ("pipeline", "status", RUN)):
        assert code_of(*arguments) == 4
    assert pytest_code(project, "--remote-ci") == 4


JOBS = {
    **{f"pytest's {code}": (complete(code), code) for code in range(6)},
    "failed": (complete(None, "failed", reason="container lost"), 70),
    "cancelled": (complete(None, "cancelled", cancelled=True, reason="cancelled by ops"), 70),
    "an old runner's success": ({"type": "complete", "success": True}, 0),
    "an old runner's failure": ({"type": "complete", "success": False}, 1),
}


@pytest.mark.parametrize("arguments", OF_JOBS, ids=words)
@pytest.mark.parametrize(("end", "code"), JOBS.values(), ids=JOBS)
def test_a_job_s_end_is_the_code_of_the_command(
    runner: FakeRunner, project: Path, arguments: tuple[str, ...], end: dict[str, Any], code: int
) -> None:
    runner.script = [log("output\n"), end]
    runner.add_job(*runner.script, job_id=JOB)
    assert code_of(*arguments) == code


@pytest.mark.sampled(4)
@pytest.mark.parametrize("arguments", SESSIONS, ids=words)
@pytest.mark.parametrize("end", ["pytest's 1", "failed", "cancelled"])
def test_a_job_s_end_is_the_code_of_pytest(
    runner: FakeRunner, project: Path, arguments: tuple[str, ...], end: str
) -> None:
    event, code = JOBS[end]
    runner.script = [log("output\n"), event]
    runner.add_job(*runner.script, job_id=JOB).status = "completed"
    assert pytest_code(project, *arguments) == code


@pytest.mark.sampled(2)
@pytest.mark.parametrize("arguments", [*SESSIONS, ("--remote-ci-pipeline", "ci")], ids=words)
def test_sessions_without_a_runner_and_with_a_wrong_key(
    project: Path, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REMOTE_CI_API_KEY", "wrong")
    assert pytest_code(project, *arguments) == 77
    monkeypatch.setenv("REMOTE_CI_URL", "http://127.0.0.1:9")
    assert pytest_code(project, *arguments) == 69


@pytest.mark.parametrize("option", ["--remote-ci-attach", "--remote-ci-replay"])
def test_a_session_of_a_job_that_does_not_exist_is_4(project: Path, option: str) -> None:
    assert pytest_code(project, option, JOB) == 4


@pytest.mark.parametrize("arguments", OF_RUNS, ids=words)
@pytest.mark.parametrize(("run", "code"), RUNS.values(), ids=RUNS)
def test_a_run_s_end_is_the_code_of_the_command(
    runner: FakeRunner, project: Path, arguments: tuple[str, ...], run: dict[str, Any], code: int
) -> None:
    serve_run(runner, run)
    assert code_of(*arguments) == code


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("run", "code"), RUNS.values(), ids=RUNS)
def test_a_run_s_end_is_the_code_of_pytest(
    runner: FakeRunner, project: Path, run: dict[str, Any], code: int
) -> None:
    serve_run(runner, run)
    assert pytest_code(project, "--remote-ci-pipeline", "ci") == code


def test_what_is_sent_without_waiting_is_0(runner: FakeRunner, project: Path) -> None:
    serve_run(runner, RUNS["failed"][0])
    for arguments in SENDING:
        assert code_of(*arguments) == 0


def test_a_command_that_could_not_do_it_is_1(runner: FakeRunner, project: Path) -> None:
    runner.add_job(complete(), job_id=JOB)
    assert code_of("cancel", JOB) == 1
    (project / "pyproject.toml").write_text("[tool.remote-ci.pipelines.ci]\nstages = 3\n")
    assert code_of("pipeline", "check") == 1
    assert code_of("pipeline", "dry-run") == 1
    assert code_of("pipeline", "run") == 4, "nothing ran that could have failed"


def test_an_answer_that_makes_no_sense_is_70(runner: FakeRunner, project: Path) -> None:
    runner.intercept = lambda request: (200, {"jobs": 3}, {})
    for arguments in (("list",), ("show", JOB, "--tests"), ("pipeline", "status", RUN)):
        assert code_of(*arguments) in (69, 70)


@pytest.mark.parametrize(
    "command",
    [
        ("pytest_remote_ci.cli.main", "submit"),
        ("pytest_remote_ci.cli.main", "submit", "--async"),
        ("pytest_remote_ci.cli.main", "pipeline", "run", "ci"),
        ("pytest_remote_ci.cli.main", "pipeline", "run", "ci", "--async"),
        ("pytest", "--remote-ci"),
        ("pytest", "--remote-ci-pipeline", "ci"),
    ],
    ids=" ".join,
)
def test_ctrl_c_before_the_answer_cancels_what_was_submitted(
    runner: FakeRunner, project: Path, command: tuple[str, ...]
) -> None:
    serve_run(runner, RUNS["cancelled"][0])
    is_there, is_held = threading.Event(), threading.Event()
    of_runs = runner.intercept

    def on_body(request: Request) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        is_there.set()
        is_held.wait(60)
        return (200, RUNS["cancelled"][0], {}) if request.path == "/runs" else None

    runner.intercept = lambda request: None if request.method == "POST" else of_runs(request)
    runner.on_body = on_body
    runner.script = [log("running\n")]
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert is_there.wait(60)
        process.send_signal(signal.SIGINT)
        assert process.stderr.readline().startswith("Cancelling the submission …")
        is_held.set()
        process.communicate(timeout=60)
    (deleted,) = runner.paths("DELETE")
    made = {f"/jobs/{job.id}" for job in runner.by_idempotency_key.values()} or {f"/runs/{RUN}"}
    assert {deleted} == made
    assert process.returncode == exit_codes.INTERRUPTED


@pytest.mark.parametrize(
    "arguments", [("submit",), ("wait", JOB, "--all"), ("list",), ("pipeline", "status", RUN)], ids=words
)
def test_ctrl_c_is_2(runner: FakeRunner, project: Path, arguments: tuple[str, ...]) -> None:
    if arguments[0] in ("submit", "wait"):
        runner.script = [log("running\n")]
        runner.add_job(*runner.script, job_id=JOB)
    else:
        runner.intercept = lambda request: (runner.stopping.wait(30), None)[1]
    command = [sys.executable, "-m", "pytest_remote_ci.cli.main", *arguments]
    with subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if arguments[0] in ("submit", "wait"):
            assert process.stdout is not None
            assert process.stdout.readline() == b"running\n"
        else:
            wait_until(lambda: runner.requests, what="the request", timeout=20)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == exit_codes.INTERRUPTED == 2


def job_with(code: int | None) -> dict[str, Any]:
    if code is None:
        return {**job_of_run("failed", None), "exit_code": None}
    return {**job_of_run("completed", code == 0), "exit_code": code}


@pytest.mark.parametrize(
    ("codes", "worst"),
    [
        ([0, 0], 0),
        ([0, 5], 5),
        ([5, 5], 5),
        ([5, 1], 1),
        ([1, 4], 4),
        ([1, 3, 0], 3),
        ([1, None], 70),
        ([0, None], 70),
    ],
)
def test_the_worst_code_of_several_jobs(codes: list[int | None], worst: int) -> None:
    run = run_of("completed", all(code == 0 for code in codes), *map(job_with, codes))
    assert exit_codes.worst_of(Run(run)) == worst
