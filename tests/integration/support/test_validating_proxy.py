"""The proxy of the end-to-end tests: what passes is unchanged, and what is not as described does not go unseen."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from support.http_server import PROJECT, events, running
from support.validating_proxy import ValidatingProxy

SUMMARY: dict[str, object] = {
    "job_id": "8d1f7f9e-3c55-4a57-9d0b-5a9d3a3d9b10",
    "status": "queued",
    "success": None,
    "start_time": None,
    "end_time": None,
    "exit_code": None,
    "reason": None,
    "phase": "queued",
    "submitted_at": None,
    "queue_position": 1,
    "name": None,
    "counts": {},
}
LOG: dict[str, object] = {
    "type": "log",
    "data": "x",
    "stream": "stdout",
    "timestamp": "2026-01-02T03:04:05.000006Z",
}
END: dict[str, object] = {
    "type": "complete",
    "success": True,
    "status": "completed",
    "exit_code": 0,
    "reason": None,
}

DATED_END: dict[str, object] = {**END, "timestamp": LOG["timestamp"]}


class Liar:
    """A server that answers everything with one text."""

    def __init__(self) -> None:
        self.status, self.kind, self.body = 200, "application/json", b""
        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.send_response(liar.status)
                self.send_header("Content-Type", liar.kind)
                self.send_header("Content-Length", str(len(liar.body)))
                self.end_headers()
                self.wfile.write(liar.body)

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    yield made
    made.close()


def stream(*found: tuple[int, dict[str, object]]) -> bytes:
    return b"".join(
        ((f"id: {seq}\n" if seq else "") + f"data: {json.dumps(data)}\n\n").encode() for seq, data in found
    )


WRONG = [
    pytest.param("/jobs", 200, "application/json", b"[]", None, id="what is right is right"),
    pytest.param("/jobs", 200, "application/json", b"{}", "is not of type 'array'", id="another type"),
    pytest.param("/jobs", 200, "text/plain", b"[]", "text/plain is not described", id="another media type"),
    pytest.param("/jobs", 418, "application/json", b"{}", "418 is not described", id="another status"),
    pytest.param("/jobs", 404, "application/json", b'{"oops": 1}', "'detail' is a required", id="no detail"),
    pytest.param(
        "/jobs",
        200,
        "application/json",
        json.dumps([{**SUMMARY, "user_id": "u"}]).encode(),
        "'user_id' was unexpected",
        id="a summary that says too much",
    ),
    pytest.param(
        "/jobs/1/stream",
        200,
        "text/event-stream",
        stream((1, LOG), (2, DATED_END)),
        None,
        id="a stream as described",
    ),
    pytest.param(
        "/jobs/1/stream",
        200,
        "text/event-stream",
        stream((2, LOG), (2, LOG)),
        "number 2 after 2",
        id="a number twice",
    ),
    pytest.param(
        "/jobs/1/stream",
        200,
        "text/event-stream",
        stream((0, END), (0, LOG)),
        "follows `complete`",
        id="something after the end",
    ),
    pytest.param(
        "/jobs/1/stream",
        200,
        "text/event-stream",
        stream((0, {"type": "log"})),
        "'data' is a required",
        id="a log without text",
    ),
    pytest.param(
        "/jobs/1/stream",
        200,
        "text/event-stream",
        stream((0, {**END, "status": "running"})),
        "'running' is not one of",
        id="an end that is none",
    ),
    pytest.param(
        "/jobs/1/stream",
        200,
        "text/event-stream",
        stream((3, {"type": "log", "data": ""})),
        "without a time",
        id="a stored event without a time",
    ),
    pytest.param(
        "/jobs/1/stream",
        200,
        "text/event-stream",
        stream((1, LOG))[:-1],
        "ended inside a frame",
        id="half a frame",
    ),
]


@pytest.mark.parametrize(("path", "status", "kind", "body", "complaint"), WRONG)
def test_what_is_not_as_described_is_told(
    liar: Liar, path: str, status: int, kind: str, body: bytes, complaint: str | None
) -> None:
    proxy = ValidatingProxy(lambda: liar.url)
    liar.status, liar.kind, liar.body = status, kind, body
    answer = requests.get(proxy.url + path, timeout=10)
    assert (answer.status_code, answer.content) == (status, body)
    if complaint is None:
        proxy.close()
    else:
        with pytest.raises(AssertionError, match=complaint):
            proxy.close()
    assert proxy.checked == {f"GET {path} {status}": 1}


def test_a_real_server_behind_it_is_used_as_without_it(tmp_path: Path) -> None:
    with running(tmp_path) as runner, requests.Session() as session:
        person = runner.person()
        proxy = ValidatingProxy(lambda: runner.url)
        files = {"file": ("p.zip", PROJECT)}
        sent = session.post(f"{proxy.url}/submit-async", headers=person.headers, files=files, timeout=10)
        job_id = sent.json()["job_id"]
        runner.log(job_id, "one\n", "zwei \N{SNOWMAN}\n")
        runner.finish(job_id)
        url = f"{proxy.url}/jobs/{job_id}/stream?from_beginning=true"
        with session.get(url, headers=person.headers, stream=True, timeout=10) as answer:
            assert [event["type"] for _, event in events(answer)] == ["log", "log", "complete"]
        assert session.get(f"{proxy.url}/jobs", timeout=10).status_code == 401
        proxy.close()
        assert set(proxy.checked) == {
            "POST /submit-async 200",
            f"GET /jobs/{job_id}/stream 200",
            "GET /jobs 401",
        }


def test_where_nobody_listens_the_connection_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    proxy = ValidatingProxy(lambda: f"http://127.0.0.1:{free}")
    with pytest.raises(requests.ConnectionError):
        requests.get(proxy.url, timeout=10)
    proxy.close()
