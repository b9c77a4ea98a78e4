"""Event streams over real HTTP: complete, numbered, resumable at any byte, and never at others' expense."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.http_server import PROJECT, Person, Runner, events, frames, running
from support.waiting import wait_until

from ci_runner.model.job import JobEvent, utcnow
from ci_runner.model.verdict import cancelled, failed, ran
from ci_runner.server.streams import source, sse_response
from ci_runner.settings.groups import ServeSettings


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture
def person(runner: Runner) -> Person:
    return runner.person()


def follow(
    runner: Runner, job_id: str, person: Person, **params: Any
) -> list[tuple[int | None, dict[str, Any]]]:
    headers = params.pop("headers", {})
    params.setdefault("from_beginning", "true")
    response = runner.get(f"/jobs/{job_id}/stream", person, params=params, headers=headers, stream=True)
    assert response.status_code == 200
    return list(events(response))


def finished_job(runner: Runner, person: Person, lines: int = 5) -> str:
    job = runner.job(person)
    runner.log(job.id, *(f"line {number}\n" for number in range(lines)))
    runner.finish(job.id)
    return job.id


# -- a client that knows only the seed contract


def seed_client(url: str, key: str, path: str) -> tuple[list[str], bool | None]:
    """The reference system's client: `requests` and lines that begin with `data: `."""
    import requests

    lines: list[str] = []
    with requests.post(
        url + path,
        files={"file": ("project.zip", PROJECT, "application/zip")},
        headers={"Authorization": f"Bearer {key}"},
        stream=True,
        timeout=30,
    ) as response:
        response.raise_for_status()
        for line in response.iter_lines(decode_unicode=True):
            if not line or line.startswith(":"):
                continue
            if line.startswith("data: "):
                event = json.loads(line[6:])
                if event["type"] == "log":
                    lines.append(event["data"])
                elif event["type"] == "complete":
                    return lines, event["success"]
                else:
                    lines.append(event["type"])
    return lines, None


@pytest.mark.case(68, 70)
@pytest.mark.parametrize("path", ["/submit", "/submit-stream"])
@pytest.mark.parametrize("code", [0, 1])
def test_a_seed_client_sees_log_and_verdict(runner: Runner, person: Person, path: str, code: int) -> None:
    result: list[Any] = []
    client = threading.Thread(target=lambda: result.append(seed_client(runner.url, person.key, path)))
    client.start()
    job = wait_until(lambda: runner.store.jobs.list(person.user.id), what="the job")[0]
    runner.log(job.id, "collected 1 item\n", "multi\nline \u2028 text\n")
    runner.finish(job.id, ran(code))
    client.join(30)
    first = ["job_id"] if path == "/submit-stream" else []
    assert result == [([*first, "collected 1 item\n", "multi\nline \u2028 text\n"], code == 0)]


def test_headers_and_first_frame_are_those_of_the_contract(runner: Runner, person: Person) -> None:
    job_id = finished_job(runner, person, lines=1)
    response = runner.get(f"/jobs/{job_id}/stream", person, params={"from_beginning": "1"}, stream=True)
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.headers["Cache-Control"].startswith("no-cache")
    assert response.headers["X-Accel-Buffering"] == "no"
    seen = list(frames(response))
    assert seen[0] == {"retry": "1000"}
    assert [frame["id"] for frame in seen[1:]] == ["1", "2"]
    log, complete = (json.loads(frame["data"]) for frame in seen[1:])
    assert log.pop("timestamp").endswith("Z")
    assert log == {"type": "log", "stream": "terminal", "data": "line 0\n"}
    assert complete.pop("timestamp").endswith("Z")
    assert complete == {
        "type": "complete",
        "success": True,
        "status": "completed",
        "exit_code": 0,
        "reason": None,
    }


@pytest.mark.parametrize(
    ("verdict", "fields"),
    [
        (ran(5), {"success": False, "status": "completed", "exit_code": 5, "reason": None}),
        (failed("container lost"), {"success": False, "status": "failed", "reason": "container lost"}),
        (cancelled("Ada"), {"success": False, "status": "cancelled", "cancelled": True}),
    ],
)
def test_the_end_says_what_became_of_the_job(
    runner: Runner, person: Person, verdict: Any, fields: dict[str, Any]
) -> None:
    job = runner.job(person)
    runner.finish(job.id, verdict)
    ((_, complete),) = follow(runner, job.id, person)
    assert complete.items() >= fields.items()


# -- where a stream begins


@pytest.mark.defect("A2")
@pytest.mark.case(10, 71)
@pytest.mark.parametrize("params", [{}, {"from_beginning": "false"}])
def test_a_finished_job_has_no_news(runner: Runner, person: Person, params: dict[str, str]) -> None:
    job_id = finished_job(runner, person)
    response = runner.get(f"/jobs/{job_id}/stream", person, params=params, stream=True)
    (none, log), (seq, complete) = events(response)
    assert none is None
    assert (log["type"], log["data"]) == ("log", "Job already completed.\n")
    assert (seq, complete["type"], complete["success"]) == (6, "complete", True)


@pytest.mark.defect("A6")
def test_news_begin_after_the_newest_event(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    runner.log(job.id, "old\n")
    response = runner.get(f"/jobs/{job.id}/stream", person, stream=True)
    stream = frames(response)
    assert next(stream) == {"retry": "1000"}
    runner.log(job.id, "new\n")
    runner.finish(job.id)
    assert [json.loads(f["data"]).get("data") for f in stream if "data" in f] == ["new\n", None]


def test_the_last_event_id_goes_before_after_and_that_before_the_beginning(
    runner: Runner, person: Person
) -> None:
    job_id = finished_job(runner, person)
    assert [seq for seq, _ in follow(runner, job_id, person)] == [1, 2, 3, 4, 5, 6]
    assert [seq for seq, _ in follow(runner, job_id, person, after=2)] == [3, 4, 5, 6]
    header = {"Last-Event-ID": "4"}
    assert [seq for seq, _ in follow(runner, job_id, person, after=2, headers=header)] == [5, 6]
    assert [seq for seq, _ in follow(runner, job_id, person, after=6)] == [6], "an end is always told"
    assert [seq for seq, _ in follow(runner, job_id, person, after=999)] == [6]


def test_a_client_that_dies_at_any_byte_sees_every_event_once(runner: Runner, person: Person) -> None:
    job_id = finished_job(runner, person, lines=3)
    query = f"/jobs/{job_id}/stream?from_beginning=true"
    whole = runner.session.get(runner.url + query, headers=person.headers, timeout=30).content
    wanted = [1, 2, 3, 4]
    for cut in range(0, len(whole), 7):
        blocks = whole[:cut].split(b"\n\n")[:-1]  # a frame counts once its blank line is there
        seen = [int(block[4 : block.index(b"\n")]) for block in blocks if block.startswith(b"id: ")]
        if 4 in seen:
            continue
        headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
        rest = [seq for seq, _ in follow(runner, job_id, person, headers=headers)]
        assert seen + rest == wanted


@pytest.mark.parametrize(
    ("params", "headers", "field"),
    [
        ({"from_beginning": "maybe"}, {}, "from_beginning"),
        ({"after": "-1"}, {}, "after"),
        ({"after": "1" * 30}, {}, "after"),
        ({"after": "\u0661"}, {}, "after"),
        ({"view": "everything"}, {}, "view"),
        ({}, {"Last-Event-ID": "abc"}, "Last-Event-ID"),
    ],
)
def test_bad_parameters_are_named(
    runner: Runner, person: Person, params: dict[str, str], headers: dict[str, str], field: str
) -> None:
    job = runner.job(person)
    response = runner.get(f"/jobs/{job.id}/stream", person, params=params, headers=headers)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(f"{field}: ")


# -- what a stream shows


def test_views_show_text_or_structure(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    runner.log(job.id, "pytest's own\n")
    runner.log(job.id, "print\n", stream="stdout")
    state = JobEvent("state", timestamp=utcnow(), fields={"phase": "testing"})
    runner.store.events.append(job.id, runner.epoch, [state])
    runner.finish(job.id)
    assert [event["type"] for _, event in follow(runner, job.id, person)] == ["log", "log", "complete"]
    everything = follow(runner, job.id, person, view="all")
    assert [event["type"] for _, event in everything] == ["log", "log", "state", "complete"]
    report = follow(runner, job.id, person, view="report")
    assert [(seq, event["type"]) for seq, event in report] == [(2, "log"), (3, "state"), (4, "complete")]


def test_many_invisible_events_do_not_stop_a_stream(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    hidden = [JobEvent("report", timestamp=utcnow(), fields={"x": "y" * 500})] * 700
    runner.store.events.append(job.id, runner.epoch, hidden)
    runner.log(job.id, "seen\n")
    runner.finish(job.id)
    assert [seq for seq, _ in follow(runner, job.id, person)] == [701, 702]
    found = runner.get(f"/jobs/{job.id}/events", person).json()
    assert [event["seq"] for event in found] == [701, 702]


def test_odd_texts_arrive_as_they_were(runner: Runner, person: Person) -> None:
    texts = [
        "a\r\nb\rc\n",
        "data: x\n\nid: 99\n\n",
        "\u2028\u2029\x85",
        "\x00\x1b[31m",
        "\ud800",
        "é" * 30_000,
        "",
    ]
    job = runner.job(person)
    runner.log(job.id, *texts)
    runner.finish(job.id)
    assert [event.get("data") for _, event in follow(runner, job.id, person)] == [*texts, None]


@pytest.mark.defect("A12")
def test_a_silent_stream_has_a_heartbeat(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    stream = frames(runner.get(f"/jobs/{job.id}/stream", person, stream=True))
    assert next(stream) == {"retry": "1000"}
    assert [next(stream), next(stream)] == [{"": "heartbeat"}, {"": "heartbeat"}]
    runner.finish(job.id)
    assert any("data" in frame for frame in stream)


@pytest.mark.defect("A5", "A12")
def test_the_stream_of_a_queued_job_waits_as_long_as_the_job(
    runner: Runner, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference system gave up after 45 s; here the stream's clock runs through hours."""
    began = time.monotonic()

    def quick() -> float:
        return began + (time.monotonic() - began) * 5000

    for module in (sse_response, source):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=quick))
    job = runner.job(person)
    stream = frames(runner.get(f"/jobs/{job.id}/stream", person, stream=True))
    assert next(stream) == {"retry": "1000"}
    until = quick() + 3600
    beats = 0
    while quick() < until or beats < 100:
        assert next(stream) == {"": "heartbeat"}
        beats += 1
    assert runner.get(f"/jobs/{job.id}", person).json()["status"] == "queued"
    runner.log(job.id, "at last\n")
    runner.finish(job.id)
    rest = [json.loads(frame["data"]) for frame in stream if "data" in frame]
    assert [(event["type"], event.get("success")) for event in rest] == [("log", None), ("complete", True)]


def test_waiting_jobs_learn_their_place_which_is_not_stored(runner: Runner, person: Person) -> None:
    first, second = runner.job(person), runner.job(person)
    stream = events(runner.get(f"/jobs/{second.id}/stream?view=all", person, stream=True))
    number, event = next(stream)
    assert (number, event["type"], event["phase"]) == (None, "state", "queued")
    assert event["queue_position"] == runner.get(f"/jobs/{second.id}", person).json()["queue_position"]
    runner.finish(first.id)
    assert next(stream)[1]["queue_position"] == event["queue_position"] - 1
    runner.store.lease.set_engine_silent(runner.epoch, utcnow())
    assert next(stream)[1]["detail"].startswith("the container engine does not answer since")
    runner.store.lease.set_engine_silent(runner.epoch, None)
    assert "detail" not in next(stream)[1]
    assert runner.store.events.after(second.id, 0) == []
    runner.finish(second.id)
    assert [event["type"] for _, event in stream] == ["complete"]


def test_news_arrive_soon(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    stream = events(runner.get(f"/jobs/{job.id}/stream", person, stream=True))
    delays = []
    runner.log(job.id, "first\n")
    next(stream)
    for _ in range(20):
        before = time.monotonic()
        runner.log(job.id, "tick\n")
        next(stream)
        delays.append(time.monotonic() - before)
    assert sorted(delays)[10] < 0.25, f"median of {sorted(delays)}"
    runner.finish(job.id)
    assert [event["type"] for _, event in stream] == ["complete"]


def test_a_deleted_job_ends_its_streams(runner: Runner) -> None:
    person = runner.person()
    job = runner.job(person)
    stream = events(runner.get(f"/jobs/{job.id}/stream", person, stream=True))
    runner.store.jobs.request_cancel(job.id, "Ada")
    runner.finish(job.id, cancelled("Ada"))
    runner.store.users.delete(person.user.id)
    seen = list(stream)  # it ends: with `complete` when that was read in time, or because the key is gone
    assert len(seen) <= 1


# -- polling instead


def test_events_come_in_pages_for_those_who_poll(runner: Runner, person: Person) -> None:
    job_id = finished_job(runner, person)
    page = runner.get(f"/jobs/{job_id}/events", person, params={"limit": 2}).json()
    assert [(event["seq"], event["data"]) for event in page] == [(1, "line 0\n"), (2, "line 1\n")]
    rest = runner.get(f"/jobs/{job_id}/events", person, params={"after": 5, "wait": 60}).json()
    assert [(event["seq"], event["type"]) for event in rest] == [(6, "complete")]
    assert runner.get(f"/jobs/{job_id}/events", person, params={"after": 6, "wait": 60}).json() == []


def test_a_long_poll_waits_for_the_next_event(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    threading.Timer(0.3, runner.log, (job.id, "late\n")).start()
    before = time.monotonic()
    page = runner.get(f"/jobs/{job.id}/events", person, params={"wait": 20}).json()
    assert [event["data"] for event in page] == ["late\n"]
    assert time.monotonic() - before < 10
    assert runner.get(f"/jobs/{job.id}/events", person, params={"after": 1, "wait": 1}).json() == []
    response = runner.get(f"/jobs/{job.id}/events", person, params={"wait": 61})
    assert response.json() == {"detail": "wait: must be a whole number from 0 to 60"}


# -- limits


def test_streams_never_take_the_threads_of_ordinary_requests(tmp_path: Path) -> None:
    settings = ServeSettings(threads=2, max_streams=3, max_streams_per_user=2, heartbeat=0.3)
    with running(tmp_path, settings) as runner:
        ada, bob = runner.person("Ada"), runner.person("Bob")
        jobs = {person.user.id: runner.job(person) for person in (ada, bob)}
        opened, reading = [], []

        def open_stream(person: Person) -> Any:
            response = runner.get(f"/jobs/{jobs[person.user.id].id}/stream", person, stream=True)
            if response.status_code == 200:
                opened.append(response)
                reading.append(response.iter_content(64))  # forgotten, it would close the connection
                assert next(reading[-1]) == b"retry: 1000\n\n"
            return response

        try:
            assert [open_stream(ada).status_code for _ in range(3)] == [200, 200, 429]
            refused = [open_stream(bob) for _ in range(2)]
            assert [response.status_code for response in refused] == [200, 503]
            assert refused[1].headers["Retry-After"] == "5"
            assert runner.submit(bob, path="/submit-stream").status_code == 503
            assert len(runner.store.jobs.list(bob.user.id)) == 1, "nothing is stored for a refused stream"
            job_id = jobs[bob.user.id].id
            assert runner.get(f"/jobs/{job_id}/events", bob, params={"wait": 1}).status_code == 503
            for _ in range(20):
                assert runner.get("/health", timeout=5).status_code == 200
                assert runner.get("/jobs", ada, timeout=5).status_code == 200
        finally:
            for response in opened:
                response.close()
        wait_until(lambda: len(runner.app.streams) == 0, 5, what="places to be given back")
        assert open_stream(ada).status_code == 200
        opened[-1].close()


def test_a_client_that_goes_away_gives_its_place_back_before_any_heartbeat(tmp_path: Path) -> None:
    with running(tmp_path, ServeSettings(threads=2, max_streams=2, heartbeat=120)) as runner:
        person = runner.person()
        job = runner.job(person)
        for _ in range(4):  # more than there are places
            response = runner.get(f"/jobs/{job.id}/stream", person, stream=True)
            assert response.status_code == 200
            response.close()
            wait_until(lambda: len(runner.app.streams) == 0, 5, what="the place to be given back")


def test_a_slow_reader_lags_and_costs_nobody_anything(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    text = "x" * 60_000
    for _ in range(20):
        runner.log(job.id, *[text] * 10)
    runner.finish(job.id)
    request = (
        f"GET /jobs/{job.id}/stream?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {person.key}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", runner.server.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(request.encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 200")
        for _ in range(10):
            assert runner.get("/health", timeout=5).status_code == 200
        assert sum(len(event.get("data", "")) for _, event in follow(runner, job.id, person)) == 200 * 60_000
        waiting = sum(channel.total_outbufs_len for channel in runner.server._server.active_channels.values())
        assert waiting < 1 << 20
    wait_until(lambda: len(runner.app.streams) == 0, 10, what="the slow reader's place to be given back")
