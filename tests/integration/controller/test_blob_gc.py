"""What nobody uses is collected, and nothing that somebody uses or is about to use: a real server, real files."""

from __future__ import annotations

import datetime as dt
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.http_server import Person, Runner, running, zip_of

from ci_runner.controller.cleanup.blob_gc import Collector
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.model.job import utcnow


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with running(tmp_path) as started:
        yield started


@pytest.fixture
def person(runner: Runner) -> Person:
    return runner.person()


def collector(runner: Runner) -> Collector:
    return Collector(runner.store, runner.data, interval=0)


def files(runner: Runner) -> set[str]:
    """Names of the blobs' files."""
    return {path.name for path in (runner.data / "blobs").glob("??/*")}


def age(runner: Runner, hours: float) -> None:
    """Let so many hours pass for everything that was sent until now."""
    moment = utcnow() - dt.timedelta(hours=hours)
    for path in [*(runner.data / "blobs").glob("??/*"), *(runner.data / "trees").glob("*.ok")]:
        os.utime(path, (moment.timestamp(), moment.timestamp()))
    micros = int(moment.timestamp() * 1e6)
    with runner.store._database.write():
        runner.store._database.sql("UPDATE blob_grants SET used_at = ?", (micros,))
        runner.store._database.sql("UPDATE jobs SET submitted_at = ?", (micros,))


def project(text: str) -> bytes:
    return zip_of({"test_one.py": text.encode()})


def test_contents_go_when_they_were_not_named_for_long(runner: Runner, person: Person) -> None:
    old = runner.job(person, content=project("# old"))
    assert old.workspace is not None
    runner.finish(old.id)
    [row] = json.loads(runner.blobs.path(old.workspace).read_text())
    runner.blobs.path(row[3], mode=0o755)
    assert len(files(runner)) == 3
    age(runner, 23)
    assert collector(runner).collect() == 0
    age(runner, 25)
    young = runner.job(person, content=project("# young"))
    runner.finish(young.id)
    assert collector(runner).collect() == 2
    assert young.workspace in files(runner)
    assert len(files(runner)) == 2
    assert runner.store.blobs.granted(person.user.id, [old.workspace]) == set()


def test_what_an_open_job_needs_stays_however_old_it_is(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    age(runner, 1000)
    assert collector(runner).collect() == 0
    runner.finish(job.id)
    assert collector(runner).collect() == 2


def test_what_was_never_granted_goes_once_no_upload_can_last_so_long(runner: Runner, person: Person) -> None:
    lost = runner.blobs.put_bytes(b"its server was killed before the grant")
    age(runner, 1)
    assert collector(runner).collect() == 0
    age(runner, 3)
    assert collector(runner).collect() == 1
    assert not runner.blobs.has(lost)


def test_a_killed_collection_is_finished_by_the_next(runner: Runner, person: Person) -> None:
    runner.finish(runner.job(person).id)
    age(runner, 25)
    limit = utcnow() - dt.timedelta(hours=24)
    assert runner.store.blobs.forget(files(runner), limit) == files(runner)
    assert collector(runner).collect() == 2
    assert files(runner) == set()


def test_a_deleted_users_contents_and_trees_go_but_not_what_others_share(
    runner: Runner, person: Person
) -> None:
    other = runner.person("Bob")
    workspaces = Workspaces(runner.data, runner.blobs, None)
    jobs = {
        "own": runner.job(person, content=project("# own")),
        "shared": runner.job(person, content=project("# shared")),
        "theirs": runner.job(other, content=project("# shared")),
    }
    for job in jobs.values():
        workspaces.tree(job.workspace or "")
        runner.finish(job.id)
        runner.store.jobs.cleaned(job.id, runner.epoch)
    runner.store.users.delete(person.user.id)
    age(runner, 3)
    collector(runner).collect()
    shared = jobs["shared"].workspace
    assert shared in files(runner)
    assert len(files(runner)) == 2
    assert {path.name for path in (runner.data / "trees").iterdir()} == {shared, f"{shared}.ok"}


def test_the_tree_of_an_open_job_stays(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    folder = Workspaces(runner.data, runner.blobs, None).tree(job.workspace or "")
    runner.store.users.delete(person.user.id)
    age(runner, 3)
    collector(runner).collect()
    assert (folder / "test_one.py").exists()


def test_asking_what_is_missing_keeps_the_rest(runner: Runner, person: Person) -> None:
    job = runner.job(person)
    runner.finish(job.id)
    age(runner, 25)
    answer = runner.request("POST", "/blobs/missing", person, json=sorted(files(runner)))
    assert answer.json() == []
    assert collector(runner).collect() == 0


def test_a_submission_during_a_collection_never_loses_what_it_names(runner: Runner, person: Person) -> None:
    """Whatever is accepted can be read; who came too late is told to send it again."""
    same = project("# the same")
    stop = threading.Event()
    removed: list[int] = []
    accepted = 0

    def collect() -> None:
        while not stop.is_set():
            removed.append(collector(runner).collect(stop.is_set))
        runner.store.release()

    thread = threading.Thread(target=collect)
    thread.start()
    try:
        for _ in range(60):
            answer = runner.submit(person, content=same)
            assert answer.status_code in (200, 503), answer.text
            if answer.status_code == 200:
                accepted += 1
                job = runner.store.jobs.get(answer.json()["job_id"])
                assert job is not None
                assert job.workspace is not None
                rows = json.loads(runner.blobs.path(job.workspace).read_text())
                assert [runner.blobs.path(row[3]).read_bytes() for row in rows] == [b"# the same"]
                runner.finish(job.id)
            age(runner, 25)
    finally:
        stop.set()
        thread.join()
    assert sum(removed) > 10
    assert accepted > 10
