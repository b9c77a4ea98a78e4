"""A small runner over real sockets that speaks docs/reference/wire.md and misbehaves on request, for client tests."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

KEY = "ci_" + "k" * 46
#: What every stream begins with.
HEAD = b"retry: 1000\n\n: hello\n\n"
TIME = "2026-01-02T03:04:05.000000Z"


@dataclass
class FakeJob:
    """A job and its numbered events; events may be added while streams are open."""

    id: str
    events: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] | None = None
    archive: bytes = b""
    status: str = "queued"
    success: bool | None = None
    cancelled: bool = False

    def summary(self) -> dict[str, Any]:
        return {
            "job_id": self.id,
            "status": self.status,
            "success": self.success,
            "start_time": TIME,
            "end_time": TIME,
            "exit_code": None,
            "reason": None,
            "phase": "finished",
            "submitted_at": TIME,
            "queue_position": None,
            "name": None,
            "counts": {"passed": 2},
        }


def log(text: str, stream: str = "terminal") -> dict[str, Any]:
    return {"type": "log", "data": text, "stream": stream, "timestamp": TIME}


def complete(exit_code: int | None = 0, status: str = "completed", **more: Any) -> dict[str, Any]:
    event = {
        "type": "complete",
        "success": exit_code == 0,
        "status": status,
        "exit_code": exit_code,
        "reason": None,
    }
    return {**event, "timestamp": TIME, **more}


@dataclass
class Request:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]


class FakeRunner:
    """Answers on a port of its own. Every attribute may be changed while it runs."""

    def __init__(self, port: int = 0) -> None:
        self.jobs: dict[str, FakeJob] = {}
        self.requests: list[Request] = []
        #: What a submission's job consists of.
        self.script: list[dict[str, Any]] = [log("2 passed\n"), complete()]
        #: Called for each request before anything else; a status and body (and headers) end it there.
        self.intercept: Callable[[Request], tuple[int, Any, dict[str, str]] | None] = lambda request: None
        #: Called for each submission when its body is there; a status and body (and headers) are the answer.
        self.on_body: Callable[[Request], tuple[int, Any, dict[str, str]] | None] = lambda request: None
        #: Streams break off after so many bytes, one entry per stream; afterwards they are whole.
        self.cut_streams_after: list[int] = []
        #: Streams are opened and stay silent for ever.
        self.swallow_streams = False
        #: Every stream and portion begins with the first event, wherever the client says that it was.
        self.repeats_events = False
        #: Streams whose beginning is settled.
        self.streams = 0
        #: Answers to submissions are lost so many times, after the job was made.
        self.lose_answers = 0
        #: Seconds that a submission takes after its last byte.
        self.answer_delay = 0.0
        #: The cancelled job ends by itself.
        self.ends_cancelled = True
        self.key = KEY
        self.by_idempotency_key: dict[str, FakeJob] = {}
        runner = self

        class Handler(_Handler):
            fake = runner

        self._server = _Server(("127.0.0.1", port), Handler)
        self.stopping = threading.Event()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fake-runner")
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def add_job(self, *events: dict[str, Any], job_id: str | None = None) -> FakeJob:
        job = FakeJob(job_id or str(uuid.uuid4()), list(events))
        self.jobs[job.id] = job
        return job

    def paths(self, method: str) -> list[str]:
        return [request.path for request in self.requests if request.method == method]


@contextmanager
def fake_runner() -> Iterator[FakeRunner]:
    runner = FakeRunner()
    try:
        yield runner
    finally:
        runner.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeRunner
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Tests look at `requests` instead."""

    def _begin(self) -> Request | None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        request = Request(self.command, url.path, query, {k.lower(): v for k, v in self.headers.items()})
        self.fake.requests.append(request)
        answer = self.fake.intercept(request)
        if (
            answer is None
            and url.path != "/health"
            and request.headers.get("authorization") != f"Bearer {self.fake.key}"
        ):
            detail = (
                "Invalid or revoked API key" if "authorization" in request.headers else "Not authenticated"
            )
            answer = (401, {"detail": detail}, {"WWW-Authenticate": "Bearer"})
        if answer is not None:
            if "content-length" in request.headers:
                self.close_connection = True
            self._answer(*answer)
            return None
        return request

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:  # otherwise the client sends its next request where nothing reads any more
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        request = self._begin()
        if request is None:
            return
        body = self.rfile.read(int(request.headers["content-length"]))
        answer = self.fake.on_body(request)
        if self.path == "/blobs/missing" and answer is None:  # an old runner, which takes whole archives
            answer = 404, {"detail": "Not found"}, {}
        if answer is not None:
            self._answer(*answer)
            return
        key = request.headers.get("idempotency-key", "")
        job = self.fake.by_idempotency_key.get(key)
        if job is None:
            job = self.fake.add_job(*self.fake.script)
            self.fake.by_idempotency_key[key] = job
            head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
            for part in BytesParser(policy=HTTP).parsebytes(head + body).iter_parts():
                name = part.get_param("name", header="content-disposition")
                content = part.get_payload(decode=True)
                assert isinstance(content, bytes)
                if name == "options":
                    job.options = json.loads(content)
                elif name == "file":
                    job.archive = content
        if self.fake.lose_answers:
            self.fake.lose_answers -= 1
            self.close_connection = True
            return
        self.fake.stopping.wait(self.fake.answer_delay)
        self._answer(200, {"job_id": job.id})

    def do_DELETE(self) -> None:
        request = self._begin()
        if request is None:
            return None
        job_id = request.path.split("/")[2]
        job = self.fake.jobs.get(job_id)
        if job is None:
            return self._answer(404, {"detail": f"Job not found: {job_id}"})
        if not job.cancelled and job.events and job.events[-1]["type"] == "complete":
            return self._answer(409, {"detail": "Job is over already"})
        if not job.cancelled and self.fake.ends_cancelled:
            job.events.append(complete(None, "cancelled", cancelled=True, reason="cancelled by user"))
        job.cancelled = True
        return self._answer(202, {})

    def do_GET(self) -> None:
        request = self._begin()
        if request is None:
            return None
        parts = request.path.strip("/").split("/")
        if parts == ["health"]:
            return self._answer(200, {"status": "ok"})
        if parts == ["jobs"]:
            return self._answer(200, [job.summary() for job in reversed(self.fake.jobs.values())])
        job = self.fake.jobs.get(parts[1])
        if job is None:
            return self._answer(404, {"detail": f"Job not found: {parts[1]}"})
        if len(parts) == 2:
            return self._answer(200, job.summary())
        if parts[2] == "events":
            return self._events(job, request)
        if parts[2] == "changes":
            return self._answer(200, {"root": None, "files": []})
        return self._stream(job, request)

    def _events(self, job: FakeJob, request: Request) -> None:
        after = int(request.query.get("after", "0"))
        first = 0 if self.fake.repeats_events else after
        ends = time.monotonic() + min(float(request.query.get("wait", "0")), 0.5)
        while len(job.events) <= after and time.monotonic() < ends:
            self.fake.stopping.wait(0.01)
        found = [{"seq": seq, **event} for seq, event in enumerate(job.events, 1) if seq > first]
        self._answer(200, found)

    def _stream(self, job: FakeJob, request: Request) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        if self.fake.swallow_streams:
            self.fake.stopping.wait(30)
            return
        budget = self.fake.cut_streams_after.pop(0) if self.fake.cut_streams_after else None
        default = 0 if request.query.get("from_beginning") == "true" else len(job.events)
        sent = 0 if self.fake.repeats_events else int(request.headers.get("last-event-id", default))
        self.fake.streams += 1
        data = HEAD
        while not self.fake.stopping.is_set():
            ended = False
            for seq in range(sent + 1, len(job.events) + 1):
                event = job.events[seq - 1]
                data += f"id: {seq}\ndata: {json.dumps(event)}\n\n".encode()
                ended = event["type"] in ("complete", "run_complete")
                sent = seq
            if budget is not None:
                data, budget = data[:budget], budget - len(data[:budget])
            try:
                if data:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                    self.wfile.flush()
                if budget == 0:
                    return
                if ended:
                    self.wfile.write(b"0\r\n\r\n")
                    return
            except OSError:
                return
            data = b""
            self.fake.stopping.wait(0.01)


def record(type_: str, kind: str, **fields: Any) -> dict[str, Any]:
    """An event of a recorded session."""
    return {"type": type_, "t": kind, "timestamp": TIME, **fields}


def session_of(root: str, *names: str, plugins: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """A recorded session up to its first test, which runs; `names` are its tests."""
    path, items = "test_it.py", []
    for number, name in enumerate(names):
        items.append([2, "Function", name, f"{path}::{name}", [path, number, name], False, name, False, None])
    nodes = [[-1, "Session", "", "", ".", "Dir", None], [0, "Dir", "x", ".", ".", "Dir", None]]
    nodes.append([1, "Module", path, path, path, "Module", None])
    return [
        record("session", "recorder", protocol=1, cwd=root),
        record(
            "session",
            "session",
            protocol=1,
            pytest="8.0.0",
            python="3.11.2",
            rootdir=root,
            plugins=list(plugins),
            xdist=False,
        ),
        record("session", "header", lines=["platform remote", f"rootdir: {root}"]),
        record("session", "collecting"),
        record("collected", "tree", nodes=nodes, items=items),
        record("collected", "collected", count=len(names)),
        record("collected", "collection_lines", lines=[]),
        *outcome_of(names[0])[:1],
    ]


def outcome_of(name: str, outcome: str = "passed") -> list[dict[str, Any]]:
    """One test of it."""
    location = ["test_it.py", 0, name]
    data: dict[str, Any] = {
        "$report_type": "TestReport",
        "nodeid": f"test_it.py::{name}",
        "location": location,
        "keywords": {},
        "outcome": outcome,
        "longrepr": None if outcome == "passed" else "broken",
        "when": "call",
        "sections": [],
        "user_properties": [],
        "duration": 0.1,
        "start": 1.0,
        "stop": 1.1,
    }
    return [
        record("started", "started", id=data["nodeid"], location=location),
        record("report", "report", d=data),
        record("finished", "finished", id=data["nodeid"], location=location),
    ]


def end_of_session(code: int) -> list[dict[str, Any]]:
    """And its end."""
    return [
        record("session", "tests_over", shouldfail=None, shouldstop=None),
        record("session", "summary"),
        record("session", "end", exitstatus=code, cache={}),
    ]
