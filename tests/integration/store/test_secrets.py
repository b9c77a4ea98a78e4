"""Secrets of runs in the store: what lies on the disk of them, for how long, and what a lost key costs."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pipelines import plan_of, planned
from support.store import add_user

from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.model.verdict import ran
from ci_runner.pipelines.run import Run
from ci_runner.pipelines.scheduler import Step
from ci_runner.store import SecretsUnreadable, Store

PLAN = plan_of(planned("a", "x"))
SECRET = "s3cr3t-value-of-a-run-that-nobody-else-has"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(Store.open(tmp_path / "data" / "runner.db")) as store:
        add_user(store)
        yield store


def submit(store: Store, **more: Any) -> Run:
    return store.runs.create(Run(str(uuid.uuid4()), "ann", PLAN, "0" * 64), **more)


def files_with(folder: Path, *values: str) -> list[str]:
    """Names of all files below a folder whose bytes hold one of the values."""
    return sorted(
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(value.encode() in path.read_bytes() for value in values)
    )


def stored(store: Store, table: str = "run_secrets") -> list[str]:
    """What the database has in place of the values."""
    with contextlib.closing(sqlite3.connect(store.path)) as database:
        return [value for (value,) in database.execute(f"SELECT value FROM {table} ORDER BY name")]


def end(store: Store, run: Run, epoch: int) -> None:
    found = store.runs.get(run.id)
    assert found is not None
    assert store.runs.advance(run.id, epoch, found.version, Step(outcome=ran(0)))


def test_no_file_holds_a_value_and_none_what_stood_for_it_once_the_run_is_over(store: Store) -> None:
    folder = store.path.parent
    epoch = store.lease.acquire("test")
    run = submit(store, secrets={"TOKEN": SECRET, "OTHER": f"{SECRET}\n\udcff"})
    others = submit(store, secrets={"TOKEN": "another"})
    encrypted = stored(store)
    assert files_with(folder, SECRET) == []
    assert set(files_with(folder, *encrypted)) <= {"runner.db", "runner.db-wal"} != set()
    assert store.runs.secrets(run.id) == {"TOKEN": SECRET, "OTHER": f"{SECRET}\n\udcff"}
    store.backup(folder / "copy.db")
    assert files_with(folder, *encrypted) == files_with(folder, *encrypted[:1])
    assert "copy.db" not in files_with(folder, *encrypted)
    store.lease.heartbeat(epoch)
    end(store, run, epoch)
    store.lease.heartbeat(epoch)
    gone = [value for value in encrypted if value not in stored(store)]
    assert len(gone) == 2
    assert files_with(folder, *gone) == []
    assert store.runs.secrets(run.id) == {}
    assert store.runs.secrets(others.id) == {"TOKEN": "another"}


def test_no_file_holds_what_stood_for_a_value_once_the_job_is_over(store: Store) -> None:
    folder = store.path.parent
    epoch = store.lease.acquire("test")
    options = JobOptions.from_dict({"secrets": ["TOKEN"]})
    job = store.jobs.create(Job("a", user_id="ann", options=options), secrets={"TOKEN": SECRET})
    other = store.jobs.create(Job("b", user_id="ann", options=options), secrets={"TOKEN": "another"})
    encrypted = stored(store, "job_secrets")
    assert files_with(folder, SECRET) == []
    assert store.secrets_of(job) == {"TOKEN": SECRET}
    store.backup(folder / "copy.db")
    assert "copy.db" not in files_with(folder, *encrypted)
    assert store.jobs.finish(job.id, epoch, ran(0))
    store.lease.heartbeat(epoch)
    [gone] = set(encrypted) - set(stored(store, "job_secrets"))
    assert files_with(folder, gone) == []
    assert store.secrets_of(job) == {}
    assert store.secrets_of(other) == {"TOKEN": "another"}


def test_what_a_controller_that_died_left_in_the_log_goes_with_the_next_one(store: Store) -> None:
    epoch = store.lease.acquire("test")
    run = submit(store, secrets={"TOKEN": SECRET})
    encrypted = stored(store)
    end(store, run, epoch)
    with contextlib.closing(Store.open(store.path)) as successor:
        successor.lease.heartbeat(successor.lease.acquire("next"))
        assert files_with(store.path.parent, *encrypted) == []


def test_a_deleted_user_leaves_no_secrets(store: Store) -> None:
    epoch = store.lease.acquire("test")
    add_user(store, "bob")
    store.lease.heartbeat(epoch)
    store.runs.create(Run("bobs", "bob", PLAN, "0" * 64), secrets={"TOKEN": SECRET})
    encrypted = stored(store)
    store.users.delete("bob")
    assert store.users.purge("bob")
    store.lease.heartbeat(epoch)
    assert stored(store) == []
    assert files_with(store.path.parent, *encrypted) == []


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda key: key.unlink(), "is missing"),
        (lambda key: key.write_text("x" * 44), "is damaged"),
        (lambda key: key.write_bytes(b"\xff" * 2000), "is damaged"),
        (lambda key: (key.unlink(), key.symlink_to("/dev/null")), "cannot be read"),
        (lambda key: (key.unlink(), key.mkdir()), "is not a file of the runner's user"),
        (replace_by_pipe, "is not a file of the runner's user"),
        (lambda key: key.write_text("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=\n"), "is not the one that"),
    ],
    ids=["missing", "short", "bytes", "link", "folder", "pipe", "another"],
)
def test_without_its_key_a_value_is_lost_and_one_line_says_so(
    store: Store, damage: Callable[[Path], object], words: str
) -> None:
    run = submit(store, secrets={"TOKEN": SECRET})
    other = submit(store)
    damage(store.path.with_name("secrets.key"))
    with contextlib.closing(Store.open(store.path)) as fresh:
        with pytest.raises(SecretsUnreadable, match=words) as caught:
            fresh.runs.secrets(run.id)
        assert str(caught.value).startswith("the job's secrets cannot be read: the runner's key for them ")
        assert str(caught.value).endswith("; submit again")
        assert str(store.path.parent) not in str(caught.value)
        assert fresh.runs.secrets(other.id) == {}


def test_a_lost_key_is_replaced_for_what_comes_then_also_in_a_process_that_has_the_old_one(
    store: Store,
) -> None:
    lost = submit(store, secrets={"TOKEN": SECRET})
    store.path.with_name("secrets.key").unlink()
    with contextlib.closing(Store.open(store.path)) as other:
        run = submit(other, secrets={"TOKEN": "new"})
        with pytest.raises(SecretsUnreadable, match="is not the one"):
            other.runs.secrets(lost.id)
    assert store.runs.secrets(run.id) == {"TOKEN": "new"}


def test_the_key_is_private_and_made_once_whoever_needs_it_first(store: Store) -> None:
    key = store.path.with_name("secrets.key")
    submit(store)
    assert not key.exists()
    program = (
        "import sys, pathlib; from ci_runner.store.encryption import Encryption\n"
        "print(Encryption(pathlib.Path(sys.argv[1])).encrypt('x'))"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(key)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    tokens = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in store.path.parent.glob(".secrets*")] == []
    encryption = store._database.encryption
    assert [encryption.decrypt(token) for token in tokens] == ["x"] * 4
    key.chmod(0o644)
    with contextlib.closing(Store.open(store.path)) as other:
        submit(other, secrets={"TOKEN": SECRET})
    assert key.stat().st_mode & 0o777 == 0o600
