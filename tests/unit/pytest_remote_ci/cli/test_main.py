"""The ``remote-ci`` command as a process, against a runner on a real socket."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from support.fake_runner import KEY, FakeRunner, Request, complete, fake_runner, log
from support.waiting import wait_until

from pytest_remote_ci.cli.main import make_parser

COMMAND = str(Path(sys.executable).with_name("remote-ci"))
UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        runner.script = [log("test_add PASSED\n2 passed\n"), complete()]
        yield runner


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "tests").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("")
    return folder


@pytest.fixture
def environ(runner: FakeRunner, tmp_path: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "COV_CORE_", "XDG_"))
    }
    return {**kept, "REMOTE_CI_URL": runner.url, "REMOTE_CI_API_KEY": KEY, "HOME": str(tmp_path / "home")}


def remote_ci(
    environ: dict[str, str], folder: Path, *args: str, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *args], cwd=folder, env=environ, input=typed, capture_output=True, text=True, timeout=60
    )


@pytest.mark.case(1)
def test_submit_shows_the_log_and_names_the_job(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    answer = remote_ci(environ, project, "submit")
    (job,) = runner.jobs.values()
    assert answer.stdout == "test_add PASSED\n2 passed\n"
    assert answer.stderr == (
        f"Job ID: {job.id}\nYou can reconnect from another terminal with: remote-ci wait {job.id}\n\n"
    )
    assert answer.returncode == 0
    assert job.options is not None
    assert job.options["args"] == ["-v"]
    assert "module" not in job.options, "python -m pytest, the default"


@pytest.mark.case("B79")
def test_verbose_shows_requests_and_never_the_key(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    answer = remote_ci(environ, project, "list", "--verbose")
    assert (answer.returncode, answer.stdout) == (0, "No jobs found.\n")
    assert answer.stderr == "GET /jobs: 200\n"
    shown = remote_ci(environ, project, "show", "--verbose", "../\x1b[2J\u202e" + "x" * 36)
    assert "GET /jobs/..%2F" in shown.stderr
    assert "\x1b" not in shown.stderr
    assert "\u202e" not in shown.stderr
    nobody = remote_ci({**environ, "REMOTE_CI_URL": "http://127.0.0.1:1"}, project, "list", "--verbose")
    assert "GET /jobs: ConnectionError\n" in nobody.stderr
    assert KEY not in answer.stderr + shown.stderr + nobody.stderr
    assert remote_ci(environ, project, "list").stderr == ""


def test_submit_forwards_what_follows_two_dashes(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    assert (
        remote_ci(environ, project / "tests", "submit", "test", "--", "-x", "-k", "a", "--co").returncode == 0
    )
    (job,) = runner.jobs.values()
    assert job.options is not None
    assert (job.options["args"], job.options["cwd"]) == (["-x", "-k", "a", "--co"], "tests")


@pytest.mark.case(2, 3)
@pytest.mark.parametrize("code", [1, 2, 5])
def test_submit_ends_with_pytest_s_own_code(
    runner: FakeRunner, environ: dict[str, str], project: Path, code: int
) -> None:
    runner.script = [log("SyntaxError\n"), complete(code)]
    answer = remote_ci(environ, project, "submit")
    assert (answer.returncode, answer.stdout) == (code, "SyntaxError\n")


@pytest.mark.case(4)
def test_an_asynchronous_submission_prints_the_id(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    answer = remote_ci(environ, project, "submit", "--async")
    assert re.fullmatch(r"Job submitted: [0-9a-f-]{36}\n", answer.stdout)
    assert answer.returncode == 0


@pytest.mark.case(5, 6)
@pytest.mark.parametrize(("code", "exit_code"), [(0, 0), (1, 1)])
def test_wait_shows_everything_when_asked(
    runner: FakeRunner, environ: dict[str, str], project: Path, code: int, exit_code: int
) -> None:
    job = runner.add_job(log("all of it\n"), complete(code))
    answer = remote_ci(environ, project, "wait", job.id, "--all")
    assert (answer.stdout, answer.returncode) == ("all of it\n", exit_code)


@pytest.mark.case(10)
def test_waiting_for_a_job_that_is_over_says_so(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    job = runner.add_job(log("Job already completed.\n", "runner"), complete())
    answer = remote_ci(environ, project, "wait", job.id, "--all")
    assert (answer.stdout, answer.stderr, answer.returncode) == ("Job already completed.\n", "", 0)


def test_wait_shows_what_is_new(runner: FakeRunner, environ: dict[str, str], project: Path) -> None:
    job = runner.add_job(log("old\n"))

    def go_on() -> None:
        wait_until(lambda: runner.streams > 0)
        job.events.extend([log("new\n"), complete()])

    other = threading.Thread(target=go_on)
    other.start()
    answer = remote_ci(environ, project, "wait", job.id)
    other.join()
    assert (answer.stdout, answer.returncode) == ("new\n", 0)
    assert "from_beginning" not in runner.requests[-1].query


@pytest.mark.case(7)
def test_waiting_for_an_unknown_job_names_it(environ: dict[str, str], project: Path) -> None:
    answer = remote_ci(environ, project, "wait", UNKNOWN, "--all")
    assert (answer.stdout, answer.stderr) == ("", f"Error: Job not found: {UNKNOWN}\n")
    assert answer.returncode == 4


@pytest.mark.case(8)
def test_an_interrupted_submit_cancels_the_job(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    runner.script = [log("running\n")]
    process = subprocess.Popen(
        [COMMAND, "submit"],
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err.endswith("Job cancelled by user.\n")
    assert "Traceback" not in err
    assert next(iter(runner.jobs.values())).cancelled, "ours differs on purpose: it really is cancelled"


@pytest.mark.case(9)
def test_an_interrupted_wait_leaves_the_job_running(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    job = runner.add_job(log("running\n"))
    process = subprocess.Popen(
        [COMMAND, "wait", job.id, "--all"],
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err == (
        f"Stopped waiting for job {job.id}.\n"
        f"The job continues to run on the runner. Use 'remote-ci wait {job.id}' to reconnect.\n"
    )
    assert not job.cancelled


@pytest.mark.defect("A20")
@pytest.mark.parametrize("command", [["list"], ["submit", "--async"], ["show", "x"]])
def test_other_commands_end_quietly_when_interrupted(
    runner: FakeRunner, environ: dict[str, str], project: Path, command: list[str]
) -> None:
    def hang(request: Request) -> None:
        runner.stopping.wait(30)

    if command[0] == "submit":
        runner.answer_delay = 30  # after the whole upload
    else:
        runner.intercept = hang
    with subprocess.Popen(
        [COMMAND, *command],
        cwd=project,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        if command[0] == "submit":  # its upload is complete: the second one leaves
            wait_until(lambda: runner.by_idempotency_key, what="the upload", timeout=20)
            process.send_signal(signal.SIGINT)
            threading.Timer(1.0, process.send_signal, [signal.SIGINT]).start()
        else:
            wait_until(lambda: runner.requests, what="the request", timeout=20)
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "Traceback" not in err


@pytest.mark.case(11)
def test_list_is_a_table_or_json(runner: FakeRunner, environ: dict[str, str], project: Path) -> None:
    assert remote_ci(environ, project, "list").stdout == "No jobs found.\n"
    good, bad, waiting = runner.add_job(), runner.add_job(), runner.add_job()
    good.status, good.success = "completed", True
    bad.status, bad.success = "failed", False
    lines = remote_ci(environ, project, "list").stdout.splitlines()
    assert lines[0].split() == ["JOB", "NAME", "PROJECT", "RESULT", "DURATION", "AGE", "REASON"]
    ids = [job.id[:8] for job in (waiting, bad, good)]
    assert [line.split()[0] for line in lines[1:]] == ids, "newest submission first"
    assert ["no verdict, 2 passed" in line for line in lines[1:]] == [False, True, False]
    found = json.loads(remote_ci(environ, project, "list", "--json", "--status=failed", "--limit=7").stdout)
    assert [job["job_id"] for job in found] == [waiting.id, bad.id, good.id]
    assert runner.requests[-1].query == {"status": "failed", "limit": "7"}


def test_the_list_is_searched_limited_and_complete_on_request(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    runner.add_job()
    remote_ci(environ, project, "list", "--search", "nightly", "--since", "2026-01-31T12:00+01:00")
    assert runner.requests[-1].query == {"limit": "20", "q": "nightly", "since": "2026-01-31T11:00:00Z"}
    remote_ci(environ, project, "list", "--all", "--since=2h")
    query = runner.requests[-1].query
    assert query["limit"] == "1000"
    ago = datetime.now(timezone.utc) - datetime.fromisoformat(query["since"].replace("Z", "+00:00"))
    assert timedelta(hours=2) <= ago < timedelta(hours=3)
    answer = remote_ci(environ, project, "list", "--limit=1")
    assert answer.stderr == "The newest 1 jobs; --all lists all of them.\n"
    wrong = remote_ci(environ, project, "list", "--since", "yesterday")
    assert wrong.returncode == 4
    assert "argument --since: 'yesterday' is not a time such as 2h, 7d, 2026-01-31" in wrong.stderr


def test_listing_starts_no_runner(environ: dict[str, str], project: Path) -> None:
    alone = {name: text for name, text in environ.items() if not name.startswith("REMOTE_CI_")}
    for command in (["list"], ["pipeline", "list"]):
        answer = remote_ci(alone, project, *command)
        assert answer.returncode == 69
        assert answer.stderr == (
            "Error: the runner on this machine is not running (it ends when it is idle); "
            "`pytest --remote-ci` starts it\n"
        )
    assert not (Path(environ["HOME"]) / ".local").exists()


def test_logs_shows_the_output_of_a_job(runner: FakeRunner, environ: dict[str, str], project: Path) -> None:
    job = runner.add_job(log("collected\n"), log("1 \x1b]0;x\x07failed\n"))
    answer = remote_ci(environ, project, "logs", job.id[:8])
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "collected\n1 failed\n", "")
    found = json.loads(remote_ci(environ, project, "logs", job.id, "--json").stdout)
    assert found == {"job_id": job.id, "log": "collected\n1 \x1b]0;x\x07failed\n"}
    with subprocess.Popen(
        [COMMAND, "logs", "--follow", job.id], cwd=project, env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["collected\n", "1 failed\n"]
        job.events += [log("the end\n"), complete(3)]
        assert process.stdout.read() == "the end\n"
    assert process.returncode == 3


def test_show_tells_what_is_known(runner: FakeRunner, environ: dict[str, str], project: Path) -> None:
    job = runner.add_job()
    answer = remote_ci({**environ, "TZ": "UTC"}, project, "show", job.id)
    assert f"job id:         {job.id}\n" in answer.stdout
    assert "counts:         2 passed\n" in answer.stdout
    assert "submitted at:   2026-01-02 03:04:05\n" in answer.stdout
    assert json.loads(remote_ci(environ, project, "show", "--json", job.id).stdout)["job_id"] == job.id
    answer = remote_ci(environ, project, "show", UNKNOWN)
    assert (answer.returncode, answer.stderr) == (4, f"Error: Job not found: {UNKNOWN}\n")


def test_show_has_the_messages_of_failures(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    crash = {
        "reprcrash": {"path": "a.py", "lineno": 3, "message": "assert 1 == 2\x1b[2J"},
        "reprtraceback": {},
    }
    reports = [
        {"nodeid": "a.py::bad", "outcome": "failed", "when": "call", "longrepr": crash},
        {"nodeid": "a.py::bad", "outcome": "failed", "when": "teardown", "longrepr": "later"},
        {"nodeid": "a.py::gone", "outcome": "failed", "when": "setup", "longrepr": "fixture 'x' not found"},
        {"nodeid": "a.py::good", "outcome": "passed", "when": "call", "longrepr": None},
    ]
    first, *others = ({"type": "report", "t": "report", "d": report} for report in reports)
    job = runner.add_job(first, {"type": "report", "t": "several", "of": [*others, "nonsense"]}, complete(1))
    tests = [
        {"id": f"a.py::{name}", "outcome": outcome}
        for name, outcome in (("bad", "failed"), ("gone", "error"), ("good", "passed"), ("old", "failed"))
    ]
    runner.intercept = lambda request: (200, tests, {}) if request.path.endswith("/tests") else None
    answer = remote_ci(environ, project, "show", job.id, "--tests", "--json")
    assert "\x1b" not in answer.stdout
    found = {test["id"]: test["message"] for test in json.loads(answer.stdout)["tests"]}
    assert found == {
        "a.py::bad": "assert 1 == 2\x1b[2J",
        "a.py::gone": "fixture 'x' not found",
        "a.py::good": None,
        "a.py::old": None,
    }


def test_cancel_ends_a_job_that_runs(runner: FakeRunner, environ: dict[str, str], project: Path) -> None:
    job = runner.add_job(log("x"))
    assert remote_ci(environ, project, "cancel", job.id).returncode == 0
    assert job.cancelled
    over = runner.add_job(complete())
    answer = remote_ci(environ, project, "cancel", over.id)
    assert (answer.returncode, answer.stderr) == (1, f"Error: Job {over.id} has already ended\n")


def test_no_command_shows_the_help(environ: dict[str, str], project: Path) -> None:
    answer = remote_ci(environ, project)
    assert answer.returncode == 4
    assert "usage: remote-ci" in answer.stdout


@pytest.mark.parametrize(
    "args", [["submit", "build"], ["wait"], ["list", "--limit", "0"], ["nonsense"], ["list", "--", "-x"]]
)
def test_bad_usage_ends_with_4(environ: dict[str, str], project: Path, args: list[str]) -> None:
    answer = remote_ci(environ, project, *args)
    assert answer.returncode == 4
    assert "usage:" in answer.stderr


@pytest.mark.case(13, 14, 16, 18, 24)
@pytest.mark.sampled(3)
@pytest.mark.parametrize("command", [["submit"], ["submit", "--async"], ["list"], ["wait", UNKNOWN]])
@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_refused_key_is_explained(
    environ: dict[str, str], project: Path, command: list[str], key: str
) -> None:
    answer = remote_ci({**environ, "REMOTE_CI_API_KEY": key}, project, *command)
    assert answer.returncode == 77
    assert answer.stdout == ""
    assert answer.stderr.startswith("Error: Authentication failed: 401 Unauthorized")
    assert "\n\nAuthentication required. Please provide an API key using one of:\n" in answer.stderr
    for way in ("--api-key", "CI_API_KEY", "~/.ci/config"):
        assert way in answer.stderr


@pytest.mark.case(26)
def test_another_users_job_is_forbidden(runner: FakeRunner, environ: dict[str, str], project: Path) -> None:
    runner.intercept = lambda request: (403, {"detail": "Access denied"}, {})
    answer = remote_ci(environ, project, "wait", UNKNOWN, "--all")
    assert answer.returncode == 77
    assert "403 Forbidden" in answer.stderr


@pytest.mark.case(15, 17, 20, 21, 22, 23)
@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "way", ["REMOTE_CI_API_KEY", "CI_API_KEY", "file", "old file", "flag", "flag beats environment"]
)
def test_the_key_may_come_from_anywhere(
    runner: FakeRunner, environ: dict[str, str], project: Path, tmp_path: Path, way: str
) -> None:
    del environ["REMOTE_CI_API_KEY"]
    args: list[str] = []
    home = tmp_path / "home"
    if way == "file":
        (home / ".config" / "pytest-remote-ci").mkdir(parents=True)
        (home / ".config" / "pytest-remote-ci" / "config.toml").write_text(f'api-key = "{KEY}"\n')
    elif way == "old file":
        (home / ".ci").mkdir(parents=True)
        (home / ".ci" / "config").write_text(f"api_key={KEY}\n")
    elif way.startswith("flag"):
        args = ["--api-key", KEY]
        environ["CI_API_KEY"] = "" if way == "flag" else "wrong"
    else:
        environ[way] = KEY
    answer = remote_ci(environ, project, "list", "--json", *args)
    assert (answer.returncode, answer.stdout) == (0, "[]\n")
    answer = remote_ci(environ, project, "submit", "--async", *args)
    assert answer.returncode == 0


@pytest.mark.case(69, 72)
def test_a_runner_that_does_not_answer_is_one_error(environ: dict[str, str], project: Path) -> None:
    environ["REMOTE_CI_URL"] = "http://127.0.0.1:9"
    why = "No runner answers at http://127.0.0.1:9: connection refused\n"
    for command in (["submit"], ["submit", "--async"], ["wait", "x"], ["wait", UNKNOWN], ["list"]):
        answer = remote_ci(environ, project, *command)
        assert (answer.returncode, answer.stdout, answer.stderr) == (69, "", f"Error: {why}")


def test_a_dry_run_sends_nothing(runner: FakeRunner, environ: dict[str, str], project: Path) -> None:
    answer = remote_ci(environ, project, "submit", "--dry-run")
    assert answer.stdout.splitlines()[-1].endswith("in 1 file")
    assert runner.requests == []


def test_login_verifies_and_stores(
    runner: FakeRunner, environ: dict[str, str], project: Path, tmp_path: Path
) -> None:
    del environ["REMOTE_CI_URL"], environ["REMOTE_CI_API_KEY"]
    file = tmp_path / "home" / ".config" / "pytest-remote-ci" / "config.toml"
    answer = remote_ci(environ, project, "login", "--url", runner.url, "--api-key", "wrong")
    assert (answer.returncode, file.exists()) == (77, False)
    answer = remote_ci(environ, project, "login", "--api-key", KEY, typed=f"{runner.url}\n")
    assert answer.returncode == 0, answer.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert KEY in file.read_text()
    assert KEY not in answer.stdout + answer.stderr
    assert remote_ci(environ, project, "list").returncode == 0, "both are found from now on"
    answer = remote_ci(environ, project, "login", typed=f"{runner.url}\n{KEY}\n")
    assert (answer.returncode, answer.stderr) == (0, ""), "both may come through a pipe"
    answer = remote_ci(environ, project, "login", "--api-key", KEY)
    assert (answer.returncode, answer.stderr) == (
        4,
        "Error: Nothing was entered; use --url and --api-key\n",
    )


def test_without_a_verdict_the_reason_is_said(
    runner: FakeRunner, environ: dict[str, str], project: Path
) -> None:
    runner.script = [complete(None, "failed", reason="container lost")]
    answer = remote_ci(environ, project, "submit")
    assert answer.returncode == 70
    assert answer.stderr.endswith("Job failed: container lost\n")


def test_a_missing_job_is_all_that_pull_asks_for(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser().parse_args(["pull"])
    assert capsys.readouterr().err.strip().endswith("the following arguments are required: JOB")
