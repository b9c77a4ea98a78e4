"""`ci-runner admin job` on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.admin import Admin
from support.store import add_job, add_user

from ci_runner.model import verdict
from ci_runner.model.job import Job
from ci_runner.store import Store


@pytest.fixture
def admin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Admin:
    return Admin(tmp_path / "runner.db", capsys)


@pytest.fixture
def store(admin: Admin) -> Iterator[Store]:
    store = Store.open(admin.path)
    yield store
    store.close()


def test_jobs_of_all_users_are_listed_and_narrowed_down(admin: Admin, store: Store) -> None:
    assert admin("job", "list").out == "No jobs found.\n"
    ann, bob = add_user(store, "ann"), add_user(store, "bob")
    first, second, over = add_job(store, ann.id), add_job(store, bob.id, name="unit"), add_job(store, bob.id)
    store.jobs.finish(over.id, store.lease.acquire("test"), verdict.failed("lost"))
    assert {item["job_id"] for item in admin("job", "list", "--json").json} == {first.id, second.id, over.id}
    [mine] = admin("job", "list", "--email", ann.email, "--json").json
    assert (mine["job_id"], mine["email"], mine["priority"]) == (first.id, ann.email, "normal")
    [failed] = admin("job", "list", "--status", "failed", "--json").json
    assert failed["reason"] == "lost"
    listed = admin("job", "list").out
    assert "unit" in listed
    assert bob.email in listed


def test_one_job_is_shown_cancelled_and_gets_another_priority(admin: Admin, store: Store) -> None:
    user = add_user(store)
    job, other = add_job(store, user.id), add_job(store, user.id)
    assert user.email in admin("job", "show", job.id).out
    assert admin("job", "priority", other.id, "high").out == f"✓ Priority of job {other.id}: high\n"
    assert admin("job", "show", other.id, "--json").json["queue_position"] == 1
    assert admin("job", "cancel", job.id).out == f"✓ Job is being cancelled: {job.id}\n"
    assert admin("job", "cancel", job.id, "--json").json["cancelled_by"] == "an administrator"
    epoch = store.lease.acquire("test")
    store.jobs.advance(other.id, epoch, "queued", phase="preparing", status="running")
    refused = admin("job", "priority", other.id, "low")
    assert (refused.code, refused.err) == (1, "Error: Job does not wait any more: it is preparing\n")
    store.jobs.finish(other.id, epoch, verdict.ran(0))
    assert admin("job", "cancel", other.id).err == "Error: Job is already completed\n"


def test_a_job_is_named_by_the_beginning_of_its_id(admin: Admin, store: Store) -> None:
    user = add_user(store)
    for job_id in ("abc-1", "abd-2"):
        store.jobs.create(Job(job_id, user_id=user.id))
    assert admin("job", "show", "abc", "--json").json["job_id"] == "abc-1"
    assert admin("job", "show", "ab").err == "Error: 2 jobs begin with ab; type more of the id\n"
    for unknown in ("x", "bc"):
        assert admin("job", "show", unknown).err == f"Error: Job not found: {unknown}\n"
