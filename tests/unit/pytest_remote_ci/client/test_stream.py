"""The Python client against a real HTTP server that breaks off, delays and repeats."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_runner import HEAD, KEY, FakeRunner, Request, complete, fake_runner, log
from support.waiting import wait_until

from pytest_remote_ci.client.client import Client
from pytest_remote_ci.client.runs import Runs
from pytest_remote_ci.errors import JobNotFound, RunnerRefused, RunnerUnreachable
from pytest_remote_ci.wire.events import Event

EVENTS = [log(f"line {number} ä\n") for number in range(20)] + [complete()]


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        yield runner


@pytest.fixture
def client(runner: FakeRunner) -> Iterator[Client]:
    with Client(runner.url, KEY, sleep=lambda seconds: time.sleep(min(seconds, 0.01))) as client:
        yield client


def frame_size(seq: int, event: dict[str, Any]) -> int:
    return len(f"id: {seq}\ndata: {json.dumps(event)}\n\n")


def numbers(events: list[Event]) -> list[str]:
    return [event.text.split()[1] for event in events if event.type == "log"]


def test_every_event_arrives_once_and_in_order_however_often_the_connection_breaks(
    runner: FakeRunner, client: Client
) -> None:
    job = runner.add_job(*EVENTS)
    size = sum(frame_size(1, event) for event in EVENTS)
    runner.cut_streams_after = list(range(30, size, 331))
    troubles: list[str] = []
    events = list(client.stream(job.id, on_trouble=lambda text, left: troubles.append(text)))
    assert numbers(events) == [str(number) for number in range(20)]
    assert events[-1].type == "complete"
    assert troubles
    resumed = [request.headers.get("last-event-id") for request in runner.requests[1:]]
    assert any(resumed), "a resumed stream names the last event seen"


@pytest.mark.parametrize("cut", range(0, 420, 7))
def test_a_connection_that_breaks_at_any_byte_loses_and_repeats_nothing(
    runner: FakeRunner, client: Client, cut: int
) -> None:
    job = runner.add_job(*EVENTS[:3], EVENTS[-1])
    runner.cut_streams_after = [cut]
    assert numbers(list(client.stream(job.id))) == ["0", "1", "2"]


def test_events_that_come_again_are_dropped(runner: FakeRunner, client: Client) -> None:
    """Whatever the runner believes to have sent: a number is given once."""
    job = runner.add_job(*EVENTS)
    runner.repeats_events = True
    runner.cut_streams_after = [600, 900, 1500]
    events = list(client.stream(job.id))
    assert [request.headers.get("last-event-id", "0") > "0" for request in runner.requests] == [
        False,
        True,
        True,
        True,
    ]
    assert numbers(events) == [str(number) for number in range(20)]


def test_events_that_come_again_in_portions_are_dropped(runner: FakeRunner) -> None:
    job = runner.add_job(*EVENTS[:5])
    runner.swallow_streams = runner.repeats_events = True
    with Client(runner.url, KEY, read_timeout=0.2, sleep=lambda seconds: None) as client:
        stream = iter(client.stream(job.id))
        events = [next(stream) for _ in range(5)]
        job.events.extend(EVENTS[5:])
        events += list(stream)
    assert numbers(events) == [str(number) for number in range(20)]
    assert len([path for path in runner.paths("GET") if path.endswith("/events")]) >= 2


def test_a_run_is_never_asked_for_at_the_route_of_a_job(runner: FakeRunner) -> None:
    run = runner.add_job(log("line 0\n"), {"type": "run_complete", "status": "completed", "success": True})
    runner.swallow_streams = True
    with Client(runner.url, KEY, read_timeout=0.2, sleep=lambda seconds: None) as client:
        events = list(Runs(client).stream(run.id))
    assert [event.type for event in events] == ["log", "run_complete"]
    assert runner.paths("GET") == [f"/runs/{run.id}/stream", f"/runs/{run.id}/events"]


def test_events_arrive_while_the_job_runs(runner: FakeRunner, client: Client) -> None:
    job = runner.add_job(log("line 0\n"))
    stream = iter(client.stream(job.id))
    assert next(stream).text == "line 0\n"
    threading.Timer(0.05, lambda: job.events.extend([log("line 1\n"), complete()])).start()
    assert [event.type for event in stream] == ["log", "complete"]


def test_portions_are_fetched_where_streams_do_not_get_through(runner: FakeRunner) -> None:
    job = runner.add_job(*EVENTS[:5])
    runner.swallow_streams = True
    threading.Timer(0.8, lambda: job.events.append(complete())).start()
    with Client(runner.url, KEY, read_timeout=0.2, sleep=lambda seconds: None) as client:
        stream = client.stream(job.id)
        events = list(stream)
    assert stream.polling
    assert numbers(events) == ["0", "1", "2", "3", "4"]
    assert events[-1].type == "complete"


def test_a_stream_that_is_held_back_is_noticed_after_one_silence(runner: FakeRunner) -> None:
    job = runner.add_job(*EVENTS)
    runner.swallow_streams = True
    troubles: list[tuple[str, float | None]] = []
    with Client(runner.url, KEY, read_timeout=0.2, sleep=lambda seconds: None) as client:
        stream = client.stream(job.id, on_trouble=lambda *trouble: troubles.append(trouble))
        assert list(stream)[-1].type == "complete"
    assert troubles == [
        ("something between here and the runner holds its stream back: asking for events instead", None)
    ]
    assert runner.paths("GET") == [f"/jobs/{job.id}/stream", f"/jobs/{job.id}/events"]


def test_a_run_s_stream_that_is_held_back_from_an_older_runner_says_what_to_set(runner: FakeRunner) -> None:
    """It has no route for the events of a run."""
    run = runner.add_job({"type": "run_complete", "status": "completed", "success": True})
    runner.swallow_streams = True
    troubles: list[str] = []

    def refuse(request: Request) -> tuple[int, Any, dict[str, str]] | None:
        return (404, {"detail": "Not Found"}, {}) if request.path.endswith("/events") else None

    def note(text: str, left: float | None) -> None:
        troubles.append(text)
        runner.swallow_streams = "proxy_buffering" not in text

    runner.intercept = refuse
    with Client(runner.url, KEY, read_timeout=0.2, sleep=lambda seconds: None) as client:
        assert len(list(Runs(client).stream(run.id, on_trouble=note))) == 1
    assert runner.paths("GET") == [
        f"/runs/{run.id}/stream",
        f"/runs/{run.id}/events",
        f"/runs/{run.id}/stream",
    ]
    assert troubles[-1].endswith(
        "holds its stream back: set `proxy_buffering off;` (nginx) or `flush_interval -1` (Caddy)"
    )


def test_a_runner_that_stays_away_is_counted_down(runner: FakeRunner) -> None:
    job = runner.add_job(log("line 0\n"))
    runner.cut_streams_after = [len(HEAD) + frame_size(1, job.events[0])]
    left: list[float | None] = []
    with Client(runner.url, KEY, patience=0.5, sleep=lambda seconds: time.sleep(0.05)) as client:
        stream = iter(client.stream(job.id, on_trouble=lambda text, seconds: left.append(seconds)))
        next(stream)
        runner.intercept = lambda request: (503, {"detail": "away"}, {})
        with pytest.raises(RunnerUnreachable):
            next(stream)
    first, *rest = left
    assert first is None, "an interruption may be short"
    numbers = [seconds for seconds in rest if seconds is not None]
    assert len(numbers) == len(rest) > 1
    assert numbers == sorted(numbers, reverse=True)


def test_a_busy_runner_is_given_the_time_that_it_asks_for(runner: FakeRunner) -> None:
    job = runner.add_job(complete())
    answers: list[tuple[int, dict[str, Any], dict[str, str]]] = [
        (503, {"detail": "too many streams"}, {"Retry-After": "7"}),
        (429, {"detail": "slower"}, {"Retry-After": "3"}),
    ]
    runner.intercept = lambda request: answers.pop(0) if answers else None
    slept: list[float] = []
    with Client(runner.url, KEY, sleep=slept.append) as client:
        assert [event.type for event in client.stream(job.id)] == ["complete"]
    assert slept[0] >= 7
    assert slept[1] >= 3


def test_a_runner_that_stays_away_ends_the_patience(runner: FakeRunner) -> None:
    job = runner.add_job(log("line 0\n"))
    runner.cut_streams_after = [len(HEAD) + frame_size(1, job.events[0])]
    with Client(runner.url, KEY, patience=0.2, sleep=lambda seconds: time.sleep(0.05)) as client:
        stream = iter(client.stream(job.id))
        next(stream)
        runner.intercept = lambda request: (503, {"detail": "away"}, {})
        with pytest.raises(RunnerUnreachable, match=f"{job.id} may still be running"):
            next(stream)


def test_a_key_revoked_meanwhile_ends_the_stream(runner: FakeRunner, client: Client) -> None:
    job = runner.add_job(log("line 0\n"))
    runner.cut_streams_after = [len(HEAD) + frame_size(1, job.events[0])]
    stream = iter(client.stream(job.id))
    next(stream)
    runner.key = "another"
    with pytest.raises(RunnerRefused, match="401 Unauthorized"):
        next(stream)


def test_the_end_of_a_job_can_be_awaited_for_a_limited_time(runner: FakeRunner, client: Client) -> None:
    job = runner.add_job(log("line 0\n"))
    runner.cut_streams_after = [100] * 50
    with pytest.raises(RunnerUnreachable):
        list(client.stream(job.id, time_limit=0.1))


def test_an_unknown_job_is_named_so(client: Client) -> None:
    with pytest.raises(JobNotFound, match="Job not found"):
        list(client.stream("00000000-0000-4000-8000-000000000000"))


@pytest.mark.case(71)
@pytest.mark.parametrize(("from_beginning", "sent"), [(True, "true"), (False, None)])
def test_the_beginning_is_asked_for_only_when_wanted(
    runner: FakeRunner, client: Client, from_beginning: bool, sent: str | None
) -> None:
    job = runner.add_job()

    def end() -> None:
        wait_until(lambda: runner.streams, what="the stream")  # what happened before is not asked for
        job.events.append(complete())

    ending = threading.Thread(target=end)
    ending.start()
    list(client.stream(job.id, from_beginning=from_beginning))
    ending.join()
    assert runner.requests[0].query.get("from_beginning") == sent


def test_a_megabyte_of_log_is_parsed_in_a_moment(runner: FakeRunner, client: Client) -> None:
    job = runner.add_job(*[log("x" * 65536) for _ in range(64)], complete())
    began = time.thread_time()
    assert sum(len(event.text) for event in client.stream(job.id)) == 64 * 65536
    assert time.thread_time() - began < 60


def test_redirects_are_not_followed_with_the_key(runner: FakeRunner, client: Client, tmp_path: Path) -> None:
    with fake_runner() as other:
        runner.intercept = lambda request: (307, {}, {"Location": f"{other.url}{request.path}"})
        with pytest.raises(RunnerUnreachable, match="if that is your runner, configure its address"):
            client.jobs()
        archive = tmp_path / "a.zip"
        archive.write_bytes(b"zip")
        with pytest.raises(RunnerUnreachable, match="redirects to"):
            client.submit(archive)
        assert other.requests == []


def test_a_netrc_does_not_replace_the_key(
    runner: FakeRunner, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    client.verify()
    assert runner.requests[-1].headers["authorization"] == f"Bearer {KEY}"


def test_proxies_are_not_asked_for_this_machine(
    runner: FakeRunner, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    client.verify()
    assert len(runner.requests) == 1


def test_headers_of_a_stream_ask_for_no_buffering(runner: FakeRunner, client: Client) -> None:
    job = runner.add_job(complete())
    list(client.stream(job.id))
    request: Request = runner.requests[0]
    assert request.headers["accept"] == "text/event-stream"
    assert "last-event-id" not in request.headers
