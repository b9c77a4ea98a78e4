"""Followers store every byte of a spool once, even where two of them read it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.pipelines import plan_of, planned
from support.store import NOON, add_job, add_user, reread
from support.waiting import wait_until

from ci_runner.controller.decide import Follow
from ci_runner.controller.spool.followers import Followers
from ci_runner.model.job import Job, utcnow
from ci_runner.pipelines.run import Run, job_of
from ci_runner.pipelines.scheduler import Start, Step
from ci_runner.store import Store

LINES = 400


def test_two_readers_of_one_spool_store_each_byte_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "runner.db")
    add_user(store)
    job = add_job(store, "ann", attempt=1, phase="starting", status="running", start_time=NOON)
    spool = tmp_path / "work" / f"{job.id}-1" / "spool"
    spool.mkdir(parents=True)
    epoch = store.lease.acquire("both")
    errors: list[BaseException] = []
    with contextlib.closing(store), contextlib.ExitStack() as stack:
        readers = [
            Followers(store, epoch, tmp_path / "work", 1 << 20, utcnow, lambda: None, errors.append)
            for _ in range(2)
        ]
        key = (job.id, 1)
        for reader in readers:
            stack.callback(reader.close)
            reader.start()
            reader.sync({key: Follow(job, over=False)})
        with (spool / "stdout").open("ab", 0) as stdout, (spool / "frames").open("ab", 0) as frames:

            def say(kind: str, size: int, **more: object) -> None:
                frames.write(
                    json.dumps({"t": kind, "at": 1.0, "stdout": size, "stderr": 0, **more}).encode() + b"\n"
                )

            say("started", 0, pid=1)
            for number in range(LINES):
                stdout.write(b"line %d\n" % number)
                if number % 20 == 19:
                    say("mark", stdout.tell())
                    wait_until(lambda: store.events.position(*key).stdout == stdout.tell())
            say("exit", stdout.tell(), code=0, signal=None, oom=0, stopped=False)
        for reader in readers:
            reader.sync({key: Follow(reread(store, job), over=True)})
        wait_until(lambda: all(reader.endings() for reader in readers), what="both at the end")
        logs = [event.data or "" for event in store.events.after(job.id, 0, 5000) if event.type == "log"]
    assert "".join(logs) == "".join(f"line {number}\n" for number in range(LINES))
    assert errors == []


def job_with_secrets(store: Store, epoch: int, secrets: dict[str, str]) -> Job:
    """A job of a run that has these secrets, about to start."""
    plan = plan_of(planned("a", "x", secrets=tuple(secrets)))
    run = store.runs.create(Run("run", "ann", plan, "0" * 64), secrets=secrets)
    made = job_of(run, "a", 0, {}, utcnow())
    assert store.runs.advance(run.id, epoch, run.version, Step((Start("a"),)), [made])
    changes: dict[str, Any] = {"phase": "starting", "status": "running", "attempt": 1, "start_time": NOON}
    assert store.jobs.advance(made.id, epoch, "queued", **changes)
    return reread(store, made)


def logs_of(store: Store, job: Job) -> str:
    return "".join(event.data or "" for event in store.events.after(job.id, 0, 5000) if event.type == "log")


@contextlib.contextmanager
def following(store: Store, epoch: int, work: Path, job: Job) -> Iterator[Followers]:
    errors: list[BaseException] = []
    reader = Followers(store, epoch, work, 1 << 20, utcnow, lambda: None, errors.append)
    try:
        reader.start()
        reader.sync({(job.id, 1): Follow(job, over=False)})
        yield reader
    finally:
        reader.close()
    assert errors == []


def frame(spool: Path, kind: str, **more: object) -> None:
    sizes = {name: (spool / name).stat().st_size for name in ("stdout", "stderr") if (spool / name).exists()}
    with (spool / "frames").open("ab", 0) as frames:
        frames.write(
            json.dumps({"t": kind, "at": 1.0, "stdout": 0, "stderr": 0, **sizes, **more}).encode() + b"\n"
        )


def test_a_value_that_is_cut_by_a_restart_of_the_controller_is_masked(tmp_path: Path) -> None:
    with contextlib.closing(Store.open(tmp_path / "runner.db")) as store:
        add_user(store)
        epoch = store.lease.acquire("first")
        job = job_with_secrets(store, epoch, {"TOKEN": "s3cr3t-value"})
        spool = tmp_path / "work" / f"{job.id}-1" / "spool"
        spool.mkdir(parents=True)
        (spool / "stdout").write_bytes(b"it is s3cr3t")
        frame(spool, "started", pid=1)
        with following(store, epoch, tmp_path / "work", job):
            wait_until(lambda: logs_of(store, job) == "it is ", what="what is before the value")
        with (spool / "stdout").open("ab") as stdout:
            stdout.write(b"-value!\nand s3cr")
        frame(spool, "exit", code=0)
        epoch = store.lease.acquire("second")
        with following(store, epoch, tmp_path / "work", reread(store, job)) as reader:
            reader.sync({(job.id, 1): Follow(reread(store, job), over=True)})
            wait_until(reader.endings, what="the end")
        assert logs_of(store, job) == "it is ***!\nand s3cr"
        assert store.events.position(job.id, 1).stdout == (spool / "stdout").stat().st_size


def test_output_that_cannot_be_masked_is_not_shown(tmp_path: Path) -> None:
    with contextlib.closing(Store.open(tmp_path / "runner.db")) as store:
        add_user(store)
        job = job_with_secrets(store, store.lease.acquire("first"), {"TOKEN": "s3cr3t-value"})
    (tmp_path / "secrets.key").unlink()
    with contextlib.closing(Store.open(tmp_path / "runner.db")) as store:
        epoch = store.lease.acquire("second")
        spool = tmp_path / "work" / f"{job.id}-1" / "spool"
        spool.mkdir(parents=True)
        with following(store, epoch, tmp_path / "work", job) as reader:
            for _ in range(3):
                with (spool / "stdout").open("ab") as stdout:
                    stdout.write(b"it is s3cr3t-value\n")
                frame(spool, "mark")
                wait_until(
                    lambda: store.events.position(job.id, 1).stdout == (spool / "stdout").stat().st_size
                )
            frame(spool, "exit", code=0)
            reader.sync({(job.id, 1): Follow(reread(store, job), over=True)})
            wait_until(reader.endings, what="the end")
        assert logs_of(store, job) == (
            "[the output is not shown, because its secrets cannot be masked: the job's secrets cannot be read: "
            "the runner's key for them is missing; submit again]\n"
        )
