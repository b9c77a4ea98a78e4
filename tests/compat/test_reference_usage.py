"""The reference system's interface, used as its users use it: the same names, arguments and order of calls.

Its repository is asynchronous, ours is not: where its users await a call, ours make it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.fake_runner import FakeRunner, complete, fake_runner, log
from support.memory_repository import Contents, MemoryRepository

from ci_runner.model.job import APIKey, Job, JobEvent, NaiveTimeWarning, User, utcnow
from ci_runner.store import Store
from ci_runner.store.job_repository import JobRepository
from pytest_remote_ci.client.client import (
    create_project_zip,
    list_jobs,
    submit_tests_async,
    submit_tests_streaming,
    wait_for_job,
)

JOB = "0f7f1a2e-5a0c-4a55-9d36-3f1b8f3c2a10"
KEY = "ci_0123456789abcdef"
#: Name of a database file → its repository, opened.
Opener = Callable[[str], JobRepository]


def naive_now() -> dt.datetime:
    """What `datetime.utcnow()` returns: the time in UTC, without its zone."""
    return utcnow().replace(tzinfo=None)


def opener_of_memory() -> Opener:
    contents: dict[str, Contents] = {}
    return lambda name: MemoryRepository(contents.setdefault(name, Contents()))


@pytest.fixture(params=["database", "memory"])
def opener(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opener:
    monkeypatch.chdir(tmp_path)
    return Store.open if request.param == "database" else opener_of_memory()


@pytest.mark.case(97)
def test_a_job_through_the_interface(opener: Opener) -> None:
    job = Job(id=JOB, status="queued", zip_file_path="/tmp/sources.zip")
    repository = opener("jobs.db")
    try:
        repository.create_job(job)
        with pytest.warns(NaiveTimeWarning):
            repository.update_job_status(job.id, "running", start_time=naive_now(), container_id="c0ffee")
        with pytest.warns(NaiveTimeWarning):
            repository.complete_job(job.id, success=True, end_time=naive_now())
    finally:
        repository.close()
    again = opener("jobs.db")
    found = again.get_job(job.id)
    again.close()
    assert found is not None
    assert (found.status, found.success, found.container_id) == ("completed", True, "c0ffee")
    assert found.zip_file_path == "/tmp/sources.zip"
    assert found.start_time is not None
    assert found.end_time is not None
    assert found.start_time <= found.end_time <= utcnow()


@pytest.mark.case(97)
@pytest.mark.parametrize(
    "fields", [{"type": "log", "data": "1 passed\n"}, {"type": "complete", "success": False}]
)
def test_an_event_from_a_dictionary_and_a_time(fields: dict[str, object]) -> None:
    event = JobEvent.from_dict(fields, naive_now())
    assert {name: getattr(event, name) for name in fields} == fields
    for naive in (event, JobEvent(type="log", data="x", timestamp=naive_now())):
        with pytest.warns(NaiveTimeWarning):
            assert str(naive.to_dict()["timestamp"]).endswith("Z")


@pytest.mark.case(98)
def test_users_keys_jobs_and_events(opener: Opener) -> None:
    repository = opener("jobs.db")
    user = User(id=JOB, name="Grace", email="grace@example.org", created_at=utcnow(), is_active=True)
    repository.create_user(user)
    named = APIKey(
        id="1" + JOB[1:],
        user_id=user.id,
        name="laptop",
        key_hash=hashlib.sha256(KEY.encode()).hexdigest(),
        created_at=utcnow(),
        is_active=True,
    )
    nameless = APIKey(id="2" + JOB[1:], user_id=user.id, key_hash=hashlib.sha256(b"other").hexdigest())
    repository.create_api_key(named)
    repository.create_api_key(nameless)
    found = repository.get_user_by_email("grace@example.org")
    assert found is not None
    assert found.id == user.id
    assert sorted(key.name or "" for key in repository.list_api_keys(user_id=user.id)) == ["", "laptop"]

    job = Job(id=JOB, user_id=user.id, status="queued", zip_file_path="/tmp/sources.zip")
    repository.create_job(job)
    assert repository.get_job(job.id, user_id=user.id) is not None
    assert repository.get_job(job.id, user_id="3" + JOB[1:]) is None
    repository.update_job_status(job.id, status="running", start_time=utcnow(), container_id="c0ffee")
    repository.add_event(job.id, JobEvent(type="log", data="collecting\n", timestamp=utcnow()))
    repository.complete_job(job.id, success=True, end_time=utcnow())
    over = repository.get_job(job.id)
    assert over is not None
    assert (over.status, over.success) == ("completed", True)
    assert [event.data for event in over.events] == ["collecting\n", None]
    assert [item.id for item in repository.list_jobs(user_id=user.id)] == [job.id]
    assert [item.id for item in repository.list_jobs()] == [job.id]
    assert tuple(repository.get_events(job.id, from_index=0)) == over.events
    assert repository.get_events(job.id, from_index=10) == []
    repository.close()


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        runner.key = KEY
        runner.script = [log("test_a.py::test_add PASSED\n"), complete()]
        yield runner


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "test_a.py").write_text("def test_add(): pass\n")
    return tmp_path


@pytest.mark.case(99)
def test_packing_and_submitting_with_a_stream(runner: FakeRunner, project: Path) -> None:
    assert create_project_zip(project).startswith(b"PK")
    events = list(submit_tests_streaming(project, api_key=KEY, server_url=runner.url))
    [job] = runner.jobs
    assert [event["type"] for event in events] == ["job_id", "log", "complete"]
    assert (events[0]["job_id"], events[2]["success"]) == (job, True)
    assert events[1]["data"] == "test_a.py::test_add PASSED\n"


@pytest.mark.case(99)
def test_submitting_waiting_and_listing(runner: FakeRunner, project: Path) -> None:
    job_id = submit_tests_async(project, api_key=KEY, server_url=runner.url)
    assert re.fullmatch(r"[0-9a-f-]{36}", job_id)
    events = list(wait_for_job(job_id, api_key=KEY, from_beginning=True, server_url=runner.url))
    assert [event["type"] for event in events] == ["log", "complete"]
    runner.repeats_events = True  # the stand-in has no line for a job that is over
    assert list(wait_for_job(job_id, api_key=KEY, server_url=runner.url))[-1]["type"] == "complete"
    [job] = list_jobs(api_key=KEY, server_url=runner.url)
    assert {"job_id", "status", "success"} <= job.keys()
    assert job["job_id"] == job_id


@pytest.mark.case(99)
@pytest.mark.parametrize("function", [submit_tests_streaming, submit_tests_async, wait_for_job, list_jobs])
def test_the_default_address(function: Callable[..., object]) -> None:
    assert (function.__kwdefaults__ or {}).get("server_url") == "http://localhost:8000" or (
        "http://localhost:8000" in (function.__defaults__ or ())
    )
