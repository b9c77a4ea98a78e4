"""SQLite's locks are POSIX locks: whoever closes any descriptor of the database drops them for the whole process."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from ci_runner.model.job import Job
from ci_runner.store import Store

#: Another process that opens and closes the store, as `ci-runner admin` does.
VISITOR = """
import sys
from ci_runner.store import Store
store = Store.open(sys.argv[1])
store.jobs.open()
store.close()
"""


def test_a_visitor_never_takes_itself_for_the_last_user_of_the_database(tmp_path: Path) -> None:
    path = tmp_path / "runner.db"
    store = Store.open(path)
    try:
        store.jobs.create(Job("a"))
        # What a busy process does: more threads with connections of their own, and the store opened once more.
        for thread in [threading.Thread(target=store.jobs.open) for _ in range(3)]:
            thread.start()
            thread.join()
        Store.open(path).close()
        log = path.with_name("runner.db-wal")
        inode = log.stat().st_ino
        subprocess.run([sys.executable, "-c", VISITOR, str(path)], check=True, timeout=60)
        assert log.exists(), "the write-ahead log was deleted under a process that writes to it"
        assert log.stat().st_ino == inode
        store.jobs.create(Job("b"))
    finally:
        store.close()
    found = Store.open(path)
    try:
        assert [job.id for job in found.jobs.open()] == ["a", "b"]
    finally:
        found.close()
