"""The server as a process: starting, stopping, dying, and what is left then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from support.http_server import PROJECT, Person, events, running
from support.waiting import wait_until

from ci_runner.errors import SettingsError
from ci_runner.failpoints import REGISTRY
from ci_runner.server.http.server import HttpServer
from ci_runner.settings.groups import ServeSettings
from ci_runner.store import Store
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.errors import RunnerUnreachable

SERVE = """
import sys, threading, time
from pathlib import Path
from ci_runner.storage.blobs import BlobStore, job_owner
from ci_runner.settings.groups import ServeSettings, StorageSettings
from ci_runner.server.app import create_app
from ci_runner.server.context import Services
from ci_runner.server.http.server import HttpServer
from ci_runner.store import Store
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.errors import RunnerUnreachable

root = Path(sys.argv[1])
storage = StorageSettings(data_dir=root, disk_reserve=0)
settings = ServeSettings(port=0, threads=4, max_streams=4)
app = create_app(Services(Store.open(root / "runner.db"), BlobStore(root, job_owner()), settings, storage))
server = HttpServer(app, settings, root)
server.start()
print(server.port, flush=True)
threading.Event().wait()
"""


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        settings = replace(runner.settings, port=runner.server.port)
        with pytest.raises(SettingsError) as caught:
            HttpServer(runner.app, settings, tmp_path)
        assert str(caught.value) == (
            f"serve.port: cannot listen on 127.0.0.1:{runner.server.port}: Address already in use; "
            "choose another with --port"
        )


def test_a_host_that_is_not_ours_is_one_clear_line(tmp_path: Path) -> None:
    with running(tmp_path) as runner, pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1"):
        HttpServer(runner.app, replace(runner.settings, host="192.0.2.1"), tmp_path)


def test_a_server_that_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        server = HttpServer(runner.app, runner.settings, tmp_path)
        server.stop()
        server.stop()


@pytest.mark.defect("A17")
def test_two_servers_of_one_data_directory_are_one_runner(tmp_path: Path) -> None:
    """What is sent to one is there for the other: files, keys, events, the end."""
    with running(tmp_path) as first, running(tmp_path) as second:
        person = first.person()
        job = first.job(person)
        assert job.workspace is not None
        assert second.blobs.has(job.workspace)
        stream = events(second.get(f"/jobs/{job.id}/stream?from_beginning=true", person, stream=True))
        first.log(job.id, "here\n")
        assert next(stream)[1]["data"] == "here\n"
        assert second.request("DELETE", f"/jobs/{job.id}", person).status_code == 202
        assert first.get(f"/jobs/{job.id}", person).json()["status"] == "queued"
        stored = first.store.jobs.get(job.id)
        assert stored is not None
        assert stored.cancel_requested_at is not None
        first.finish(job.id)
        assert [event["type"] for _, event in stream] == ["complete"]


def test_it_listens_on_ipv6_too(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        try:
            server = HttpServer(runner.app, replace(runner.settings, host="::1"), tmp_path)
        except SettingsError:
            pytest.skip("this machine has no IPv6")
        assert server.url.startswith("http://[::1]:")
        server.stop()


def test_stopping_ends_streams_answers_requests_and_is_quick(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        person = runner.person()
        job = runner.job(person)
        stream = events(runner.get(f"/jobs/{job.id}/stream", person, stream=True))
        runner.log(job.id, "before\n")
        assert next(stream)[1]["data"] == "before\n"
        seen: list[int] = []
        poll = threading.Thread(
            target=lambda: seen.append(
                requests.get(
                    f"{runner.url}/jobs/{job.id}/events?after=1&wait=60", headers=person.headers, timeout=30
                ).status_code
            )
        )
        poll.start()
        wait_until(lambda: len(runner.app.streams) == 2, what="both to wait")
        port, begun = runner.server.port, time.monotonic()
        runner.server.stop()
        assert time.monotonic() - begun < 20, "the long poll alone would wait 60"
        poll.join(5)
        assert seen == [200]
        assert list(stream) == [], "a clean end without `complete`: the client resumes"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=2)


def test_stopping_does_not_wait_for_ever_for_a_client_that_reads_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        person = runner.person()
        job = runner.job(person)
        for _ in range(10):
            runner.log(job.id, *["x" * 60_000] * 10)
        head = f"GET /jobs/{job.id}/stream?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person.key}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", runner.server.port)) as slow:
            slow.sendall(head.encode())
            assert slow.recv(64).startswith(b"HTTP/1.1 200")
            begun = time.monotonic()
            runner.server.stop(seconds=2)
            assert time.monotonic() - begun < 60
        assert len(runner.app.streams) == 0


def test_idleness_counts_requests_and_open_streams(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        person = runner.person()
        job = runner.job(person)
        wait_until(lambda: runner.app.idle_seconds() > 0.2, what="idleness")
        with runner.get(f"/jobs/{job.id}/stream", person, stream=True):
            assert runner.app.idle_seconds() == 0
        wait_until(lambda: runner.app.idle_seconds() > 0, what="the stream's end")


@pytest.mark.case(83, 84)
def test_stale_uploads_are_swept_at_the_start(tmp_path: Path) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    for name, age in (("blob-old", 7200), ("blob-young", 10)):
        (uploads / name).write_bytes(b"x")
        os.utime(uploads / name, (time.time() - age, time.time() - age))
    with running(tmp_path) as runner:
        assert runner.leftovers() == ["blob-young"]


# -- dying


class Process:
    """The server in a process of its own."""

    def __init__(self, root: Path, failpoints: str) -> None:
        environment = os.environ | {"CI_RUNNER_ALLOW_FAILPOINTS": "1", "CI_RUNNER_FAILPOINTS": failpoints}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(root)], stdout=subprocess.PIPE, env=environment, text=True
        )
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def kill(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        code = self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def ada(tmp_path: Path) -> Person:
    with running(tmp_path, ServeSettings(threads=2, max_streams=2)) as runner:
        return runner.person("Ada")


POINTS = [
    "server.submit.received",
    "blobs.batch.written",
    "blobs.batch.synced",
    "blobs.batch.stored",
    "server.submit.stored",
    "store.jobs.create.before",
    "store.jobs.create.after",
    "server.submit.committed",
    "server.submit.answered",
]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("point", POINTS)
def test_a_death_at_any_point_of_a_submission_loses_and_repeats_nothing(
    tmp_path: Path, ada: Person, point: str
) -> None:
    assert point in REGISTRY
    key = {"Idempotency-Key": "once", **ada.headers}
    files = {"file": ("p.zip", PROJECT)}
    first = Process(tmp_path, f"{point}=kill")
    try:
        with pytest.raises(requests.ConnectionError):
            requests.post(f"{first.url}/submit-async", files=files, headers=key, timeout=30)
    finally:
        assert first.kill() == -signal.SIGKILL
    store = Store.open(tmp_path / "runner.db")
    try:
        stored = [job.id for job in store.jobs.list(ada.user.id)]
        second = Process(tmp_path, "")
        try:
            answer = requests.post(f"{second.url}/submit-async", files=files, headers=key, timeout=30)
            assert answer.status_code == 200
        finally:
            second.kill()
        jobs = store.jobs.list(ada.user.id)
        assert [job.id for job in jobs] == [answer.json()["job_id"]]
        assert stored in ([], [jobs[0].id])
        assert jobs[0].workspace is not None
        for part in (tmp_path / "uploads").iterdir():
            os.utime(part, (0, 0))
        with running(tmp_path, ServeSettings(threads=2, max_streams=2)) as third:
            assert third.leftovers() == []
            assert third.blobs.has(jobs[0].workspace)
    finally:
        store.close()


def test_a_large_upload_that_dies_leaves_no_file(tmp_path: Path, ada: Person) -> None:
    server = Process(tmp_path, "server.submit.received=kill")
    body = os.urandom(3 << 20)
    try:
        with pytest.raises(requests.ConnectionError):
            requests.post(
                f"{server.url}/submit-async", files={"file": ("p.zip", body)}, headers=ada.headers, timeout=30
            )
    finally:
        server.kill()
    assert list((tmp_path / "uploads").iterdir()) == []


def test_https_to_the_runner_s_port_is_told_at_once(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        url = f"https://127.0.0.1:{runner.server.port}"
        with Client(url, "key", connect_timeout=60) as client, pytest.raises(RunnerUnreachable) as caught:
            client.jobs()
        assert str(caught.value) == (
            f"No runner answers at {url}: it speaks http, not https; write the address with http://"
        )
