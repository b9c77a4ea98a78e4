"""Submitting, listing and cancelling through the Python client, and the reference system's four functions."""

from __future__ import annotations

import io
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_runner import KEY, TIME, FakeRunner, Request, complete, fake_runner, log

from pytest_remote_ci.client import client as library
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.client.transport import retry_after
from pytest_remote_ci.errors import (
    ClientError,
    JobNotFound,
    RunnerRefused,
    RunnerUnreachable,
    SubmissionRefused,
)
from pytest_remote_ci.wire.protocol import SubmitOptions


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        yield runner


@pytest.fixture
def client(runner: FakeRunner) -> Iterator[Client]:
    with Client(runner.url, KEY, sleep=lambda seconds: None) as client:
        yield client


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    file = tmp_path / "project.zip"
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("tests/test_a.py", "def test_a(): pass\n")
    return file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "tests").mkdir(parents=True)
    (folder / "tests" / "test_a.py").write_text("def test_a(): pass\n")
    return folder


@pytest.fixture
def nobody() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_submission_carries_the_archive_and_the_options(
    runner: FakeRunner, client: Client, archive: Path
) -> None:
    seen: list[tuple[int, int]] = []
    job_id = client.submit(
        archive,
        SubmitOptions(args=("-x",), name="ä"),
        progress=lambda done, total: seen.append((done, total)),
    )
    job = runner.jobs[job_id]
    assert job.archive == archive.read_bytes()
    assert job.options == {"protocol": 1, "args": ["-x"], "name": "ä"}
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_an_open_file_can_be_submitted(runner: FakeRunner, client: Client, archive: Path) -> None:
    content = io.BytesIO(archive.read_bytes())
    content.read()
    assert runner.jobs[client.submit(content)].archive == content.getvalue()


@pytest.mark.case(68)
def test_an_asynchronous_submission_goes_to_its_own_endpoint(runner: FakeRunner, project: Path) -> None:
    job_id = library.submit_tests_async(project, runner.url, KEY)
    assert len(job_id) == 36
    assert runner.paths("POST") == ["/submit-async"]


def test_a_submission_whose_answer_is_lost_makes_one_job(
    runner: FakeRunner, client: Client, archive: Path
) -> None:
    runner.lose_answers = 2
    job_id = client.submit(archive)
    assert list(runner.jobs) == [job_id]
    assert len(runner.paths("POST")) == 3


def test_a_large_upload_is_refused_before_it_is_sent(runner: FakeRunner, tmp_path: Path) -> None:
    large = tmp_path / "large.zip"
    large.write_bytes(b"\0" * (2 << 20))
    with Client(runner.url, "wrong") as client, pytest.raises(RunnerRefused):
        client.submit(large)
    assert runner.paths("POST") == []


def test_a_refusal_in_the_middle_of_an_upload_is_understood(runner: FakeRunner, tmp_path: Path) -> None:
    """The runner answers after the head and closes; the client is still sending then."""
    large = tmp_path / "large.zip"
    large.write_bytes(b"\0" * (30 << 20))
    calls: list[str] = []

    def refuse(request: Request) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        calls.append(request.method)
        if request.method == "POST":
            return 401, {"detail": "Invalid or revoked API key"}, {}
        return (401, {"detail": "Invalid or revoked API key"}, {}) if len(calls) > 1 else None

    runner.intercept = refuse
    with Client(runner.url, KEY, sleep=lambda seconds: None) as client, pytest.raises(RunnerRefused):
        client.submit(large)


@pytest.mark.parametrize("status", [413, 422, 429, 507])
def test_a_refused_submission_says_why(
    runner: FakeRunner, client: Client, archive: Path, status: int
) -> None:
    runner.intercept = lambda request: (status, {"detail": "the archive\nis refused"}, {"Retry-After": "3"})
    with pytest.raises(SubmissionRefused, match="the archive is refused") as caught:
        client.submit(archive)
    assert caught.value.status == status
    assert caught.value.retry_after == 3


def test_a_limit_is_waited_for_and_said_in_one_line(runner: FakeRunner, archive: Path) -> None:
    waited: list[float] = []
    lines: list[str] = []
    asked: list[str] = []

    def busy(request: Request) -> tuple[int, dict[str, Any], dict[str, str]] | None:
        asked.append(request.path)
        if len(asked) in (1, 2, 4):
            return 429, {"detail": "You have 2 jobs\nwaiting"}, {"Retry-After": "7"}
        return None

    runner.intercept = busy
    with Client(runner.url, KEY, sleep=waited.append, on_wait=lines.append) as client:
        job_id = client.submit(archive)
        assert client.job(job_id).job_id == job_id
    assert waited == [7.0] * 3
    assert lines == ["The runner refused: You have 2 jobs waiting; trying again in 7 s"] * 3
    assert list(runner.jobs) == [job_id]


@pytest.mark.parametrize("seconds", [31, 61])
def test_a_limit_is_not_waited_for_longer_than_makes_sense(
    runner: FakeRunner, archive: Path, seconds: int
) -> None:
    waited: list[float] = []
    runner.intercept = lambda request: (429, {"detail": "busy"}, {"Retry-After": str(seconds)})
    with Client(runner.url, KEY, sleep=waited.append) as client:
        with pytest.raises(SubmissionRefused, match="busy"):
            client.jobs()
        assert waited == []
        with pytest.raises(SubmissionRefused, match="busy"):
            client.submit(archive)
        assert sum(waited) <= 60


def test_a_limit_of_wrong_keys_means_that_the_key_is_wrong(runner: FakeRunner, archive: Path) -> None:
    headers = {"Retry-After": "7", "WWW-Authenticate": 'Bearer error="invalid_token"'}
    runner.intercept = lambda request: (
        429,
        {"detail": "Too many wrong keys came from your address"},
        headers,
    )
    waited: list[float] = []
    with Client(runner.url, KEY, sleep=waited.append) as client:
        for ask in (client.jobs, lambda: client.submit(archive)):
            with pytest.raises(RunnerRefused, match=r"429 .* \(Too many wrong keys") as caught:
                ask()
            assert caught.value.exit_code == 77
    assert waited == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named_with_the_status(runner: FakeRunner, client: Client, status: int) -> None:
    runner.intercept = lambda request: (status, {"detail": "Access denied"}, {})
    with pytest.raises(RunnerRefused, match=rf"Authentication failed: {status} .* \(Access denied\)"):
        client.jobs()


@pytest.mark.parametrize("is_known", [True, False], ids=["has answered", "first request"])
@pytest.mark.parametrize("submits", [True, False], ids=["submission", "short request"])
def test_a_restart_of_the_runner_is_waited_for(archive: Path, is_known: bool, submits: bool) -> None:
    before = FakeRunner()
    url, after, shown = before.url, list[FakeRunner](), list[str]()

    def start_again(seconds: float) -> None:
        if not after:
            after.append(FakeRunner(int(url.rpartition(":")[2])))

    with Client(url, KEY, on_wait=shown.append, sleep=start_again) as client:
        if is_known:
            assert client.jobs() == []
        before.close()
        client._transport.close()  # the fake's threads go on with the connections that they have
        try:
            found = client.submit(archive) if submits else client.jobs()
            assert bool(found) == submits
        finally:
            for runner in after:
                runner.close()
    assert shown == ([f"No runner answers at {url}: connection refused; trying for 10 s"] if is_known else [])


def test_nobody_there_is_said_soon_and_waited_for_once(nobody: str, archive: Path) -> None:
    with Client(nobody, KEY) as client:
        for call in (client.jobs, lambda: client.submit(archive), lambda: client.cancel("x")):
            with pytest.raises(RunnerUnreachable, match=f"No runner answers at {nobody}: connection refused"):
                call()
        assert not client.is_healthy()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(RunnerUnreachable, match="is not the address of a runner"):
        Client(url, KEY)


@pytest.mark.parametrize("body", [{}, {"jobs": []}, "text"])
def test_another_program_at_the_address_is_recognised(
    runner: FakeRunner, client: Client, archive: Path, body: Any
) -> None:
    runner.intercept = lambda request: (200, body, {})
    for call in (client.jobs, lambda: client.submit(archive)):
        with pytest.raises(RunnerUnreachable, match="does not answer like a runner"):
            call()


def test_jobs_are_listed_with_the_given_conditions(runner: FakeRunner, client: Client) -> None:
    job = runner.add_job(complete())
    assert [found.job_id for found in client.jobs(status="completed", limit=5, query="x")] == [job.id]
    assert runner.requests[-1].query == {"status": "completed", "limit": "5", "q": "x"}
    assert client.job(job.id).job_id == job.id
    with pytest.raises(JobNotFound):
        client.job("../health")


def test_a_job_is_cancelled_unless_it_is_over(runner: FakeRunner, client: Client) -> None:
    running, over = runner.add_job(log("x")), runner.add_job(complete())
    assert client.cancel(running.id)
    assert client.cancel(running.id), "again is the same"
    assert not client.cancel(over.id)
    with pytest.raises(JobNotFound):
        client.cancel("unknown")


def test_a_short_request_survives_one_broken_connection(runner: FakeRunner, client: Client) -> None:
    answers: list[tuple[int, dict[str, Any], dict[str, str]]] = [(503, {"detail": "starting"}, {})]
    runner.intercept = lambda request: answers.pop() if answers else None
    assert client.jobs() == []


@pytest.mark.case(70)
def test_a_streaming_submission_yields_the_id_the_log_and_the_end(runner: FakeRunner, project: Path) -> None:
    runner.script = [log("a\nb\n"), log("c\n"), complete()]
    events = list(library.submit_tests_streaming(project, runner.url, KEY))
    assert [event["type"] for event in events] == ["job_id", "log", "log", "complete"]
    assert events[0]["job_id"] in runner.jobs
    assert events[1]["data"] == "a\nb\n"
    assert events[-1]["success"] is True
    assert zipfile.ZipFile(io.BytesIO(runner.jobs[events[0]["job_id"]].archive)).namelist() == [
        "tests/test_a.py"
    ]


@pytest.mark.case(69, 72)
def test_a_stream_reports_what_went_wrong_as_its_last_events(nobody: str, project: Path) -> None:
    for events, what in (
        (list(library.submit_tests_streaming(project, nobody, KEY)), "Error submitting to CI server: "),
        (list(library.wait_for_job("x", nobody, api_key=KEY)), "Error waiting for job: "),
    ):
        (said, end) = events[-2:]
        assert str(said["data"]).startswith(what)
        assert end == {"type": "complete", "success": False}
    with pytest.raises(ClientError):
        library.submit_tests_async(project, nobody, KEY)
    with pytest.raises(ClientError):
        library.list_jobs(nobody, KEY)


def test_waiting_for_an_unknown_job_says_so(runner: FakeRunner) -> None:
    events = list(library.wait_for_job("unknown", runner.url, from_beginning=True, api_key=KEY))
    assert [event["type"] for event in events] == ["log", "complete"]
    assert "Job not found" in str(events[0]["data"])


@pytest.mark.case(24)
@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_refused_key_raises_everywhere_and_names_the_ways_to_supply_one(
    runner: FakeRunner, project: Path, key: str | None
) -> None:
    for call in (
        lambda: list(library.submit_tests_streaming(project, runner.url, key)),
        lambda: library.submit_tests_async(project, runner.url, key),
        lambda: list(library.wait_for_job("x", runner.url, api_key=key)),
        lambda: library.list_jobs(runner.url, key),
    ):
        with pytest.raises(RuntimeError, match="Authentication failed: 401 Unauthorized") as caught:
            call()
        for way in ("--api-key", "REMOTE_CI_API_KEY", "CI_API_KEY", "~/.ci/config"):
            assert way in str(caught.value)


def test_jobs_are_listed_by_the_function(runner: FakeRunner) -> None:
    runner.add_job(complete())
    assert library.list_jobs(runner.url, KEY)[0]["start_time"] == TIME


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("100000", 60.0),
        ("soon", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_read_in_both_forms(text: str, seconds: float) -> None:
    assert retry_after({"Retry-After": text}) == seconds
    assert retry_after({}) == 0
