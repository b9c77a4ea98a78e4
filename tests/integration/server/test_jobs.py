"""Listing and cancelling jobs, readiness and the API's own description, over real HTTP."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http_server import Person, Runner, running

from ci_runner.model.job import Job, utcnow
from ci_runner.model.verdict import Verdict, cancelled, failed, ran
from ci_runner.server.openapi.document import document


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


@pytest.fixture
def person(runner: Runner) -> Person:
    return runner.person()


def stored_jobs(runner: Runner, person: Person, count: int) -> list[str]:
    """Ids of `count` jobs of the person, newest first, a minute apart."""
    ids = []
    for number in range(count):
        submitted = utcnow() - dt.timedelta(minutes=number)
        job = Job(str(uuid.uuid4()), user_id=person.user.id, name=f"Job {number}", submitted_at=submitted)
        ids.append(runner.store.jobs.create(job).id)
    return ids


@pytest.mark.case(17, 93)
def test_the_list_is_an_array_and_empty_for_a_new_user(runner: Runner, person: Person) -> None:
    assert runner.get("/jobs", person).json() == []


@pytest.mark.case(89)
def test_jobs_come_newest_submission_first_and_without_events(runner: Runner, person: Person) -> None:
    ids = stored_jobs(runner, person, 3)
    runner.log(ids[0], "text\n")
    found = runner.get("/jobs", person).json()
    assert [job["job_id"] for job in found] == ids
    assert "events" not in found[0]


def test_pages_are_linked_until_the_last(runner: Runner, person: Person) -> None:
    ids = stored_jobs(runner, person, 5)
    seen, url = [], "/jobs?limit=2&q=job"
    pages = 0
    while url:
        response = runner.get(url, person)
        seen += [job["job_id"] for job in response.json()]
        url = response.links.get("next", {}).get("url", "")
        pages += 1
    assert (seen, pages) == (ids, 3)


def test_jobs_can_be_looked_for(runner: Runner, person: Person) -> None:
    ids = stored_jobs(runner, person, 4)
    runner.finish(ids[1])

    def found(**params: str) -> list[str]:
        return [job["job_id"] for job in runner.get("/jobs", person, params=params).json()]

    assert found(status="completed") == [ids[1]]
    assert found(q="JOB 2") == [ids[2]]
    assert found(q=ids[3][:8]) == [ids[3]]
    since = (utcnow() - dt.timedelta(seconds=90)).isoformat()
    assert found(since=since) == ids[:2]
    assert found(q="'; DROP TABLE jobs; --") == []
    assert found(before=ids[2]) == [ids[3]]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"limit": "0"}, "limit: must be a whole number from 1 to 1000"),
        ({"limit": "1001"}, "limit: must be a whole number from 1 to 1000"),
        ({"limit": "ten"}, "limit: "),
        ({"status": "done"}, "status: must be one of queued, running, completed, failed, cancelled"),
        ({"since": "yesterday"}, "since: must be a time"),
        ({"since": "2026-01-01T00:00:00"}, "since: must be a time"),
    ],
)
def test_a_bad_parameter_is_named(
    runner: Runner, person: Person, params: dict[str, str], reason: str
) -> None:
    response = runner.get("/jobs", person, params=params)
    assert response.status_code == 422
    assert response.json()["detail"].startswith(reason)


@pytest.mark.case(11, 12)
def test_a_finished_job_keeps_its_times_over_a_restart(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        person = first.person()
        job = first.job(person)
        assert first.store.jobs.advance(
            job.id, first.epoch, "queued", phase="testing", status="running", start_time=utcnow()
        )
        first.log(job.id, "kept\n")
        first.finish(job.id)
        before = first.get(f"/jobs/{job.id}", person).json()
        assert before["start_time"].endswith("Z")
        assert before["end_time"].endswith("Z")
    with running(tmp_path) as second:
        assert second.get("/jobs", person).json() == [before]
        assert second.get(f"/jobs/{job.id}/events", person).json()[0]["data"] == "kept\n"


@pytest.mark.defect("A3")
@pytest.mark.parametrize(
    ("verdict", "status", "success"),
    [(ran(0), "completed", True), (failed("lost"), "failed", None), (cancelled("Ada"), "cancelled", None)],
)
def test_the_status_of_an_end_is_written_once(
    runner: Runner, verdict: Verdict, status: str, success: bool | None
) -> None:
    person = runner.person()
    job = runner.job(person)
    runner.finish(job.id, verdict)
    for later in (ran(0), failed("again"), cancelled("Bob")):
        assert not runner.store.jobs.finish(job.id, runner.epoch, later)
    [listed] = runner.get("/jobs", person).json()
    assert (listed["status"], listed["success"]) == (status, success)
    assert runner.get(f"/jobs/{job.id}", person).json()["status"] == status
    assert [item["job_id"] for item in runner.get("/jobs", person, params={"status": status}).json()] == [
        job.id
    ]


def test_cancelling_asks_the_controller_and_may_be_repeated(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    for _ in range(2):
        response = runner.request("DELETE", f"/jobs/{job.id}", person)
        assert response.status_code == 202
        assert response.json()["job_id"] == job.id
    stored = runner.store.jobs.get(job.id)
    assert stored is not None
    assert stored.cancelled_by == person.user.name
    runner.finish(job.id, cancelled("Ada"))
    assert runner.request("DELETE", f"/jobs/{job.id}", person).json()["status"] == "cancelled"


@pytest.mark.parametrize(("verdict", "word"), [(ran(1), "completed"), (failed("lost"), "failed")])
def test_what_is_over_cannot_be_cancelled(
    runner: Runner, person: Person, verdict: Verdict, word: str
) -> None:
    job = runner.job(person)
    runner.finish(job.id, verdict)
    response = runner.request("DELETE", f"/jobs/{job.id}", person)
    assert (response.status_code, response.json()) == (409, {"detail": f"Job is already {word}"})


def test_health_and_readiness(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        assert runner.get("/health").json() == {"status": "ok"}
        assert runner.request("HEAD", "/health").status_code == 200
        response = runner.get("/ready")
        assert response.status_code == 503
        assert response.json()["detail"] == "controller: has never run; start `ci-runner reconcile`"
        runner.store.lease.heartbeat(runner.epoch)
        response = runner.get("/ready")
        assert response.status_code == 200
        assert response.json()["status"] == "ready"
        names = [check["name"] for check in response.json()["checks"]]
        assert names == ["database", "controller", "engine", "disk"]
        runner.store.close()
        response = runner.get("/ready")
        assert response.status_code == 503
        assert response.json()["detail"].startswith("database: does not answer")
        assert runner.get("/health").status_code == 200
        broken = runner.get("/jobs", headers={"Authorization": "Bearer ci_x"})
        assert broken.status_code == 401
        person = Person(None, "", {})  # type: ignore[arg-type]
        assert str(tmp_path) not in runner.get("/jobs", person).text


def test_a_silent_controller_is_noticed(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        runner.store.lease.heartbeat(runner.epoch)
        object.__setattr__(runner.app.services, "clock", lambda: utcnow() + dt.timedelta(seconds=60))
        response = runner.get("/ready")
        assert response.status_code == 503
        assert re.match(r"controller: no heartbeat for (59|60) s", response.json()["detail"])


def test_a_silent_engine_is_named_to_operators_and_to_users_of_waiting_jobs(
    runner: Runner, person: Person
) -> None:
    waiting, over = runner.job(person), runner.job(person)
    runner.finish(over.id, ran(0))
    runner.store.lease.heartbeat(runner.epoch)
    since = utcnow().replace(hour=12, minute=3)
    since -= dt.timedelta(days=since > utcnow())
    runner.store.lease.set_engine_silent(runner.epoch, since)
    assert runner.get("/ready").json()["detail"].startswith("engine: does not answer since ")
    for path in (f"/jobs/{waiting.id}", "/jobs?status=queued"):
        answer = runner.get(path, person).json()
        [summary] = answer if isinstance(answer, list) else [answer]
        assert re.fullmatch(r"the container engine does not answer since .*12:03 UTC", summary["detail"])
    assert "detail" not in runner.get(f"/jobs/{over.id}", person).json()
    runner.store.lease.set_engine_silent(runner.epoch, None)
    assert runner.get("/ready").status_code == 200
    assert "detail" not in runner.get(f"/jobs/{waiting.id}", person).json()


def test_every_route_is_described_and_every_description_is_a_route(runner: Runner) -> None:
    from falcon.inspect import inspect_routes

    real = {
        (method.method.lower(), route.path.replace(":path}", "}"))
        for route in inspect_routes(runner.app)
        for method in route.methods
        if not method.internal
    }
    described = {(method, path) for path, methods in document()["paths"].items() for method in methods}
    assert described == real


def test_the_description_is_served_and_refers_only_to_what_is_there(runner: Runner) -> None:
    served = runner.get("/openapi.json").json()
    assert served["openapi"].startswith("3.1")
    names = set(re.findall(r"#/components/schemas/(\w+)", str(served)))
    assert names == set(served["components"]["schemas"]), "each is used, and each that is used is there"


def test_the_page_for_people_needs_nothing_from_elsewhere(runner: Runner) -> None:
    response = runner.get("/docs")
    assert response.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert not re.search(r"<script|<link|src=|https?://|@import|url\(", response.text)
    for path in document()["paths"]:
        assert f"<code>{path}</code>" in response.text


def test_the_summary_of_one_job_that_is_over_has_its_timing(runner: Runner, person: Person) -> None:
    old, measured, running = stored_jobs(runner, person, 3)
    timing = {"phases": {"queue": 0.01, "tests": 2.5}, "cold": ["environment built in 3 s: it is new"]}
    runner.finish(old)  # by a controller that did not measure
    runner.log(measured, "text\n")
    assert runner.store.jobs.finish(measured, runner.epoch, ran(0), more={"timing": timing})
    assert runner.get(f"/jobs/{measured}", person).json()["timing"] == timing
    assert "timing" not in runner.get(f"/jobs/{old}", person).json()
    assert "timing" not in runner.get(f"/jobs/{running}", person).json()
    assert not any("timing" in job for job in runner.get("/jobs", person).json())
