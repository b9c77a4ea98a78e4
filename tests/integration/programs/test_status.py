"""`ci-runner status` on a real database."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.store import add_job, add_user

from ci_runner.cli import main
from ci_runner.model import verdict
from ci_runner.model.job import utcnow
from ci_runner.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "runner.db")
    yield store
    store.close()


def status(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = main(["status", "--data-dir", str(folder), *options])
    return code, capsys.readouterr().out


def test_the_queue_and_running_jobs_of_all_users_are_shown(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch = store.lease.acquire("host, process 1")
    ann, bob = add_user(store, "ann"), add_user(store, "bob")
    for user, minutes in ((ann, 3), (ann, 2), (bob, 1)):
        add_job(store, user.id, submitted_at=utcnow() - dt.timedelta(minutes=minutes))
    running, lost = add_job(store, bob.id, name="unit"), add_job(store, ann.id)
    store.jobs.advance(running.id, epoch, "queued", phase="testing", status="running")
    store.jobs.finish(lost.id, epoch, verdict.failed("container lost"))
    code, text = status(tmp_path, capsys, "--json")
    found: dict[str, Any] = json.loads(text)
    assert code == 0
    assert [(item["user"], item["waiting"]) for item in found["queue"]] == [(ann.email, 2), (bob.email, 1)]
    assert 180 <= found["queue"][0]["oldest_wait_seconds"] < 240
    [job] = found["running"]
    assert (job["job_id"], job["user"], job["phase"]) == (running.id, bob.email, "testing")
    [error] = found["errors"]
    assert (error["job_id"], error["reason"]) == (lost.id, "container lost")
    assert (found["slots_used"], found["controller"]["is_alive"]) == (1, True)
    code, text = status(tmp_path, capsys)
    assert code == 0
    for words in ("unit", "container lost", ann.email, "host, process 1"):
        assert words in text


def test_a_silent_engine_and_a_missing_controller_are_exit_code_1(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = status(tmp_path, capsys)
    assert (code, "does not run (never started)" in text) == (1, True)
    epoch = store.lease.acquire("host")
    store.lease.set_engine_silent(epoch, utcnow())
    code, text = status(tmp_path, capsys)
    assert (code, "Engine      does not answer since" in text) == (1, True)


def test_a_folder_without_a_runner_is_refused_and_not_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(tmp_path / "nothing", capsys)[0] == 2
    assert not (tmp_path / "nothing").exists()
