"""Followers store every byte of a spool once, even where two of them read it."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from store_kit import NOON, add_job, add_user, reread
from waiting import wait_until

from ci_runner.controller.followers import Followers
from ci_runner.controller.reconcile import Follow
from ci_runner.models import utcnow
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
