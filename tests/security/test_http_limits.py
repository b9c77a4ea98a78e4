"""What the HTTP plane refuses before it costs anything, and how it answers what is not HTTP as it should be."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import requests
from support.http_server import PROJECT, Person, Runner, raw_exchange, running
from support.waiting import wait_until

from ci_runner.logs import configure
from ci_runner.server.http import upload_gate
from ci_runner.settings.groups import LogSettings, ServeSettings

LIMIT = 1 << 20


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    settings = ServeSettings(threads=4, max_streams=4, max_upload=LIMIT)
    with running(tmp_path_factory.mktemp("data"), settings) as started:
        yield started


@pytest.fixture
def person(runner: Runner) -> Person:
    return runner.person()


def parsed(answer: bytes) -> tuple[int, dict[str, str], dict[str, str]]:
    """Status, headers and JSON of one raw answer."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return int(lines[0].split()[1]), headers, json.loads(body)


def post(person: Person | None, *headers: str, path: str = "/submit-async") -> bytes:
    key = [f"Authorization: Bearer {person.key}"] if person else []
    kind = "Content-Type: multipart/form-data; boundary=x"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", kind, *key, *headers, "", ""]).encode()


# -- uploads over the limit


@pytest.mark.parametrize("size", [LIMIT + 1, 2 << 30, 10**18])
def test_a_body_over_the_limit_is_refused_after_its_head(runner: Runner, person: Person, size: int) -> None:
    begun = time.monotonic()
    answer = raw_exchange(runner.server.port, post(person, f"Content-Length: {size}"))
    status, headers, body = parsed(answer)
    assert status == 413
    assert body == {"detail": f"The body has {size} bytes; this runner accepts at most {LIMIT}"}
    assert headers["content-type"] == "application/json"
    assert time.monotonic() - begun < upload_gate.LINGER + 20
    assert runner.leftovers() == []


@pytest.mark.parametrize("path", ["/submit", "/submit-stream", "/submit-async", "/blobs/missing"])
def test_whoever_shows_no_credentials_need_not_send_a_body(runner: Runner, path: str) -> None:
    answer = raw_exchange(runner.server.port, post(None, "Content-Length: 500000", path=path))
    status, headers, body = parsed(answer)
    assert (status, body) == (401, {"detail": "Not authenticated"})
    assert headers["www-authenticate"] == "Bearer"


def test_a_client_that_expects_to_continue_never_sends_the_body(runner: Runner, person: Person) -> None:
    request = post(person, f"Content-Length: {LIMIT + 1}", "Expect: 100-continue")
    answer = raw_exchange(runner.server.port, request)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"100 Continue" not in answer


def test_a_client_that_sends_on_reads_the_refusal(runner: Runner, person: Person) -> None:
    class Endless:
        """Two gigabytes of nothing."""

        def __init__(self) -> None:
            self.left = 2 << 30

        def __len__(self) -> int:
            return 2 << 30

        def read(self, size: int = -1) -> bytes:
            piece = bytes(min(self.left, 1 << 16 if size < 0 else size))
            self.left -= len(piece)
            return piece

    for _ in range(3):
        body = Endless()
        response = runner.request(
            "POST",
            "/submit-async",
            person,
            data=body,
            headers={"Content-Type": "multipart/form-data; boundary=x"},
        )
        assert response.status_code == 413
        assert "this runner accepts at most" in response.json()["detail"]
    assert runner.submit(person).status_code == 200


def test_a_chunked_body_is_refused_when_it_passes_the_limit(runner: Runner, person: Person) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield bytes(1 << 16)

    response = runner.request(
        "POST",
        "/submit-async",
        person,
        data=pieces(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert (response.status_code, response.json()) == (
        413,
        {"detail": "The body is larger than this runner accepts"},
    )
    assert runner.leftovers() == []


def test_a_chunked_body_within_the_limit_is_taken(runner: Runner, person: Person) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="p.zip"\r\n\r\n'
        + PROJECT
        + b"\r\n--x--\r\n"
    )
    response = runner.request(
        "POST",
        "/submit-async",
        person,
        data=iter([body[:100], body[100:]]),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert response.status_code == 200


@pytest.mark.defect("A19")
def test_an_upload_larger_than_memory_waits_in_the_data_directory(runner: Runner, person: Person) -> None:
    """Seen through the descriptors of this very process: the file has no name, so a crash leaves nothing."""
    connection = socket.create_connection(("127.0.0.1", runner.server.port))
    with connection:
        connection.sendall(post(person, f"Content-Length: {LIMIT}") + os.urandom(LIMIT - 10))
        uploads = os.fspath(runner.blobs.uploads)

        def buffered() -> list[str]:
            targets = []
            for number in os.listdir("/proc/self/fd"):  # noqa: PTH208
                try:
                    targets.append(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
                except FileNotFoundError:
                    continue
            return [target for target in targets if target.startswith(uploads) and "deleted" in target]

        wait_until(buffered, what="the body to be in the data directory")
        assert runner.leftovers() == []
    wait_until(lambda: not buffered(), what="the buffer to go with its connection")


# -- slow, broken and hostile clients


def test_dawdlers_are_dropped_and_harm_nobody(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_gate, "HEAD_SECONDS", 1.0)
    monkeypatch.setattr(upload_gate, "BODY_GRACE", 1.0)
    heads = [socket.create_connection(("127.0.0.1", runner.server.port)) for _ in range(30)]
    person = runner.person()
    bodies = [socket.create_connection(("127.0.0.1", runner.server.port)) for _ in range(10)]
    stop = threading.Event()

    def drip() -> None:
        for connection in bodies:
            connection.sendall(post(person, "Content-Length: 100000"))
        while not stop.wait(0.2):
            for connection in heads + bodies:
                try:
                    connection.sendall(b"x")
                except OSError:
                    continue

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        for _ in range(10):
            assert runner.get("/health", timeout=5).status_code == 200

        def only_ours() -> bool:
            return len(runner.server._server.active_channels) <= 2

        wait_until(only_ours, 15, what="the dawdlers to be dropped")
    finally:
        stop.set()
        dripping.join(5)
        for connection in heads + bodies:
            connection.close()


def test_a_client_that_resets_in_the_middle_leaves_nothing(runner: Runner, person: Person) -> None:
    for _ in range(10):
        connection = socket.create_connection(("127.0.0.1", runner.server.port))
        connection.sendall(post(person, "Content-Length: 600000") + b"x" * 300_000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
    wait_until(lambda: len(runner.server._server.active_channels) <= 2, what="the connections to be gone")
    assert runner.leftovers() == []
    assert runner.submit(person).status_code == 200


def test_an_unexpected_error_tells_nothing(
    runner: Runner, person: Person, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"secret {runner.data}")

    monkeypatch.setattr(runner.store.jobs, "get", broken)
    response = runner.session.get(f"{runner.url}/jobs/a%0d%0aforged", headers=person.headers, timeout=10)
    assert (response.status_code, response.json()) == (500, {"detail": "Internal server error"})
    assert any("secret" in (record.exc_text or str(record.exc_info)) for record in caplog.records)
    [line] = [text for text in (record.getMessage() for record in caplog.records) if "forged" in text]
    assert "\n" not in line
    assert "\r" not in line


def test_a_full_disk_while_writing_is_507_and_leaves_nothing(
    runner: Runner, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/secret/path")

    monkeypatch.setattr("ci_runner.storage.blobs.os.fsync", full)
    response = runner.submit(person)
    assert response.status_code == 507
    assert "secret" not in response.text
    assert runner.leftovers() == []
    monkeypatch.undo()
    assert runner.submit(person).status_code == 200


@pytest.fixture
def own_log() -> Iterator[Callable[[str], io.StringIO]]:
    """Configure this process's log as `serve` does, into a buffer; put everything back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def start(form: str) -> io.StringIO:
        stream = io.StringIO()
        configure(LogSettings(level="DEBUG", format="json" if form == "json" else "text"), stream)
        return stream

    yield start
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


#: Paths with a key in them, as a refused request names them in the log.
LOGGED_PATHS = {
    "as it is": "/jobs/{key}",
    "escaped": "/jobs/%63%69%5F{rest}",
    "cut by the end of the line": "/jobs/" + "x" * 170 + "{key}",
    "run on": "/jobs/{key}x",
    "without its end": "/jobs/{key_without_end}",
}


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("name", LOGGED_PATHS)
def test_keys_never_reach_the_log(
    runner: Runner, person: Person, own_log: Callable[[str], io.StringIO], name: str, form: str
) -> None:
    log = own_log(form)
    path = LOGGED_PATHS[name].format(key=person.key, rest=person.key[3:], key_without_end=person.key[:-1])
    response = runner.session.get(runner.url + path, headers={"Authorization": "Bearer nobody"}, timeout=10)
    assert response.status_code == 401
    lines = [line for line in log.getvalue().splitlines() if "refused" in line]
    assert len(lines) == 1
    assert "ci_…" in lines[0]
    assert person.key[11:20] not in log.getvalue()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_key_in_an_unexpected_error_never_reaches_the_log(
    runner: Runner,
    person: Person,
    monkeypatch: pytest.MonkeyPatch,
    own_log: Callable[[str], io.StringIO],
    form: str,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"broken by {person.key}")

    log = own_log(form)
    monkeypatch.setattr(runner.store.jobs, "list", broken)
    response = runner.session.get(f"{runner.url}/jobs", headers=person.headers, timeout=10)
    assert response.status_code == 500
    assert "broken by ci_…" in log.getvalue()
    assert person.key[11:20] not in log.getvalue()


def test_many_connections_do_not_shut_the_door(runner: Runner) -> None:
    held = [socket.create_connection(("127.0.0.1", runner.server.port)) for _ in range(300)]
    try:
        assert runner.get("/health", timeout=5).status_code == 200
        with requests.Session() as fresh:
            assert fresh.get(f"{runner.url}/health", timeout=5).status_code == 200
    finally:
        for connection in held:
            connection.close()
