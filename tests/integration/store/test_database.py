"""The store's file: first starts, migrations, durability, processes, threads, damage, speed."""

from __future__ import annotations

import datetime as dt
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from ci_runner.errors import StorageFull, TemporaryError
from ci_runner.model import verdict
from ci_runner.model.job import Job, JobEvent
from ci_runner.model.job_options import JobOptions
from ci_runner.store import Store, StoreError, migrations
from ci_runner.store.database import Database, connect
from ci_runner.store.migrations import MIGRATIONS, Migration
from ci_runner.store.schema import MODELS

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
NEWEST = migrations.newest()
ADDED = Migration("add-a-table", ("CREATE TABLE added (x TEXT)", "INSERT INTO added VALUES ('1')"))
#: A dump of a database of schema 7 as commit 464944b made it, with a user, a job and a run.
SCHEMA_7 = Path(__file__).parents[2] / "fixtures" / "schema-7.sql"
BROKEN = Migration("broken", ("CREATE TABLE half (x TEXT)", "INSERT INTO nowhere VALUES (1)"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "runner.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store.open(path)
    yield opened
    opened.close()


@pytest.fixture
def database(path: Path, store: Store) -> Iterator[Database]:
    """The migrated database without the subjects on top."""
    opened = Database(path, path.parent / "backups")
    yield opened
    opened.close()


def start(code: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Another process that runs `code` with `sys.argv[1:]`."""
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    return out


class TestFirstStart:
    @pytest.mark.defect("A19")
    def test_the_file_belongs_to_its_owner_alone(self, path: Path, store: Store) -> None:
        store.jobs.create(Job("j"))
        files = [path.parent, *path.parent.iterdir()]
        assert {file.name for file in files} >= {"runner.db", "runner.db-wal"}
        assert [file for file in files if stat.S_IMODE(file.stat().st_mode) & 0o077] == []

    def test_it_may_be_opened_again_and_again(self, path: Path, store: Store) -> None:
        store.jobs.create(Job("j"))
        store.initialize()
        for migrate in (True, False):
            with closing(Store.open(path, migrate=migrate)) as again:
                assert [job.id for job in again.jobs.list()] == ["j"]
        assert not (path.parent / "backups").exists()

    def test_processes_that_start_at_once_make_one_schema(self, path: Path) -> None:
        code = """
            import sys
            from ci_runner.model.job import User, utcnow
            from ci_runner.store import Store
            store = Store.open(sys.argv[1])
            store.users.create(User(sys.argv[2], "n", sys.argv[2] + "@example.org", utcnow()))
            store.close()
        """
        for process in [start(code, path, number) for number in range(6)]:
            finish(process)
        with closing(Store.open(path, migrate=False)) as store:
            assert len(store.users.list()) == 6
        with closing(connect(path)) as connection:
            history = connection.execute("SELECT number, name FROM schema_history").fetchall()
        assert history == [(number, step.name) for number, step in enumerate(MIGRATIONS, migrations.OLDEST)]

    def test_a_missing_database_is_refused_where_none_may_be_made(self, path: Path) -> None:
        with pytest.raises(StoreError, match="no such database"):
            Store.open(path, migrate=False)
        assert not path.exists()

    def test_a_place_that_cannot_be_written_is_one_clear_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for place in (tmp_path / "file" / "runner.db", tmp_path):
            with pytest.raises(StoreError, match=f"^{tmp_path}.*") as caught:
                Store.open(place)
            assert "\n" not in str(caught.value)

    def test_another_programs_database_is_left_alone(self, tmp_path: Path) -> None:
        with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
            connection.execute("CREATE TABLE bookmarks (x)")
        with pytest.raises(StoreError, match="of another program"):
            Store.open(tmp_path / "other.db")


class TestMigrations:
    def test_the_tables_are_what_the_models_say(self, database: Database) -> None:
        for model in MODELS:
            rows = database.sql(f"PRAGMA table_info({model._meta.table_name})")
            found = {(name, not notnull) for _, name, _, notnull, _, _ in rows}
            assert found == {(column, field.null) for column, field in model._meta.columns.items()}

    def test_an_upgrade_keeps_a_copy_of_what_was_there(self, store: Store, database: Database) -> None:
        store.jobs.create(Job("kept"))
        migrations.migrate(database, (*MIGRATIONS, ADDED), now=NOON)
        assert migrations.version(database) == NEWEST + 1
        copy = database.backups / f"runner-20260101T120000Z-schema{NEWEST}.db"
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        assert [file.name for file in database.backups.iterdir()] == [copy.name]
        with closing(Store.open(copy, migrate=False)) as backup:
            assert [job.id for job in backup.jobs.list()] == ["kept"]
        migrations.migrate(database, (*MIGRATIONS, ADDED))
        assert database.sql("SELECT x FROM added") == [("1",)]

    def test_a_migration_happens_completely_or_not_at_all(self, database: Database) -> None:
        with pytest.raises(StoreError, match="nowhere"):
            migrations.migrate(database, (*MIGRATIONS, ADDED, BROKEN))
        assert migrations.version(database) == NEWEST + 1
        assert database.sql("SELECT name FROM sqlite_master WHERE name = 'half'") == []
        migrations.migrate(database, (*MIGRATIONS, ADDED))

    def test_a_newer_schema_is_refused(self, path: Path, database: Database) -> None:
        migrations.migrate(database, (*MIGRATIONS, ADDED))
        for migrate in (True, False):
            with pytest.raises(StoreError, match="written by a newer version of the runner"):
                Store.open(path, migrate=migrate)

    def test_an_older_schema_is_refused_where_none_may_migrate(self, database: Database) -> None:
        with pytest.raises(StoreError, match="older schema"):
            migrations.require_current(database, (*MIGRATIONS, ADDED))

    def test_processes_that_upgrade_at_once_do_it_once(self, path: Path, store: Store) -> None:
        code = """
            import sys
            from pathlib import Path
            from ci_runner.store import migrations
            from ci_runner.store.database import Database
            database = Database(Path(sys.argv[1]), Path(sys.argv[1]).parent / "backups")
            steps = [migrations.Migration(f"step-{n}", (f"CREATE TABLE step_{n} (x)",)) for n in range(5)]
            migrations.migrate(database, (*migrations.MIGRATIONS, *steps))
            print(migrations.version(database))
            database.close()
        """
        expected = str(NEWEST + 5)
        assert [finish(process).strip() for process in [start(code, path) for _ in range(4)]] == [
            expected
        ] * 4
        assert len(list((path.parent / "backups").glob("*.db"))) == 1


class TestFormerSchemas:
    @staticmethod
    def restore(path: Path, number: int = 7) -> None:
        """Make the database of the dump, or one whose history ends at an older `number`."""
        path.parent.mkdir()
        with closing(connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(SCHEMA_7.read_text("utf-8"))
            connection.execute("DELETE FROM schema_history WHERE number > ?", (number,))
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @staticmethod
    def schema(path: Path) -> dict[str, object]:
        """Return the columns of all tables, and the statements of all indexes."""
        with closing(connect(path)) as connection:
            found: dict[str, object] = {}
            for kind, name, sql in connection.execute("SELECT type, name, sql FROM sqlite_master"):
                columns = connection.execute(f"PRAGMA table_info({name})").fetchall()
                keys = connection.execute(f"PRAGMA foreign_key_list({name})").fetchall()
                options = [row[3:] for row in connection.execute(f"PRAGMA table_list({name})")]
                found[name] = (columns, keys, options) if kind == "table" else sql
            return found

    def test_an_upgraded_schema_is_a_new_one(self, tmp_path: Path) -> None:
        self.restore(tmp_path / "old" / "runner.db")
        for folder in ("old", "new"):
            with closing(Store.open(tmp_path / folder / "runner.db")):
                pass
        assert self.schema(tmp_path / "new" / "runner.db") == self.schema(tmp_path / "old" / "runner.db")

    def test_a_database_of_schema_7_is_upgraded_with_its_rows(self, path: Path) -> None:
        self.restore(path)
        with pytest.raises(StoreError, match="has an older schema"):
            Store.open(path, migrate=False)
        with closing(Store.open(path)) as store:
            assert [user.email for user in store.users.list()] == ["ann@example.org"]
            assert [(job.id, job.name) for job in store.jobs.list()] == [("j", "old job")]
            assert [event.data for event in store.get_events("j")] == ["a line"]
            run = store.runs.get("r")
            assert run is not None
            assert run.pipeline == "default"
        assert len(list((path.parent / "backups").glob("*.db"))) == 1

    @pytest.mark.parametrize("migrate", [True, False])
    @pytest.mark.parametrize("number", range(1, 7))
    def test_an_older_one_is_refused_and_left_as_it_is(self, path: Path, number: int, migrate: bool) -> None:
        self.restore(path, number)
        before = path.read_bytes()
        with pytest.raises(StoreError, match="start the runner of commit 464944b once") as caught:
            Store.open(path, migrate=migrate)
        assert str(caught.value).startswith(f"{path} has schema {number}, which this version cannot upgrade")
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["runner.db"]


class TestDamage:
    def test_a_file_that_is_no_database_is_one_clear_line(self, tmp_path: Path) -> None:
        (tmp_path / "runner.db").write_bytes(b"not a database, " * 400)
        with pytest.raises(StoreError, match=r"runner\.db is damaged .*; no backup was found in ") as caught:
            Store.open(tmp_path / "runner.db")
        assert "\n" not in str(caught.value)

    def test_the_newest_backup_is_named(self, path: Path, store: Store) -> None:
        for number, name in enumerate(("runner-b.db", "runner-a.db")):
            store.backup(path.parent / name)
            os.utime(path.parent / name, (number, number))
        store.close()
        path.write_bytes(b"\0" * 8192)
        with pytest.raises(StoreError, match=r"the newest backup is .*runner-a\.db"):
            Store.open(path, path.parent)

    def test_damage_inside_is_named_when_it_is_met(self, path: Path, store: Store) -> None:
        store.jobs.create(Job("j"))
        store.events.add("j", JobEvent("log", "x" * 200_000))
        store.close()
        size = path.stat().st_size
        with path.open("r+b") as file:
            file.seek(size // 2)
            file.write(os.urandom(size - size // 2))
        with closing(Store.open(path)) as damaged, pytest.raises(StoreError, match=r"is damaged .* backup"):
            damaged.events.after("j", 0)

    def test_a_backup_is_a_whole_store(self, path: Path, store: Store) -> None:
        store.jobs.create(Job("j"))
        store.backup(path.parent / "copy.db")
        assert store.check() is None
        with closing(Store.open(path.parent / "copy.db", migrate=False)) as copy:
            assert copy.check() is None
            assert [job.id for job in copy.jobs.list()] == ["j"]


class TestTransactions:
    def test_submissions_and_ends_are_durable_and_events_are_quick(self, store: Store) -> None:
        epoch = store.lease.acquire("test")

        def durability() -> int:
            return store._database.integer("PRAGMA synchronous")

        store.jobs.create(Job("j"))
        assert durability() == 2
        store.jobs.advance("j", epoch, "queued", phase="testing")
        assert durability() == 1
        store.jobs.finish("j", epoch, verdict.ran(0))
        assert durability() == 2
        store.jobs.create(Job("k"))
        store.events.append("k", epoch, [JobEvent("log", "x")])
        assert durability() == 1
        store.jobs.request_cancel("k", "me")
        assert durability() == 2

    def test_an_error_inside_a_transaction_leaves_nothing_behind(self, store: Store) -> None:
        epoch = store.lease.acquire("test")
        store.jobs.create(Job("j"))
        bad = JobEvent("log", fields={"no": object()})
        with pytest.raises(TypeError):
            store.jobs.finish("j", epoch, verdict.ran(0), events=[JobEvent("log", "fine"), bad])
        job = store.jobs.get("j")
        assert job is not None
        assert (job.status, job.last_seq) == ("queued", 0)

    def test_a_lock_that_is_held_too_long_is_a_temporary_error(self, path: Path, store: Store) -> None:
        with closing(Store.open(path, busy_timeout=0.05)) as hasty, closing(connect(path)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(TemporaryError, match="busy"):
                hasty.jobs.create(Job("j"))
            assert hasty.jobs.list() == []
            other.execute("ROLLBACK")
            hasty.jobs.create(Job("j"))

    def test_a_full_disk_is_its_own_error_and_loses_nothing(self, store: Store) -> None:
        store.jobs.create(Job("j"))
        pages = store._database.integer("PRAGMA page_count")
        store._database.sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageFull):
            store.events.add("j", JobEvent("log", "x" * 1_000_000))
        store._database.sql("PRAGMA max_page_count = 1000000")
        assert store.events.add("j", JobEvent("log", "x" * 1_000_000)) == 1

    def test_processes_that_append_to_one_job_leave_no_gap(self, path: Path, store: Store) -> None:
        store.jobs.create(Job("j"))
        epoch = store.lease.acquire("test")
        code = """
            import sys
            from ci_runner.model.job import JobEvent
            from ci_runner.store import Store
            store = Store.open(sys.argv[1], migrate=False)
            for number in range(200):
                store.events.append("j", int(sys.argv[2]), [JobEvent("log", f"{sys.argv[3]} {number}")] * 2)
            store.close()
        """
        for process in [start(code, path, epoch, number) for number in range(3)]:
            finish(process)
        events = store.get_events("j")
        assert [event.seq for event in events] == list(range(1, 1201))

    @pytest.mark.parametrize("name", ["create", "advance", "append", "finish"])
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_a_commit_is_all_or_nothing_when_the_process_is_killed(
        self, path: Path, store: Store, name: str, moment: str
    ) -> None:
        epoch = store.lease.acquire("test")
        store.jobs.create(Job("old"))
        before = store.get_job("old", events=True)
        code = """
            import sys
            from ci_runner.model import verdict as states
            from ci_runner.model.job import Job, JobEvent
            from ci_runner.store import SpoolPosition, Store
            store = Store.open(sys.argv[1], migrate=False)
            epoch, log = int(sys.argv[2]), [JobEvent("log", "x")]
            {"create": lambda: store.jobs.create(Job("new")),
             "advance": lambda: store.jobs.advance("old", epoch, "queued", events=log, phase="testing"),
             "append": lambda: store.events.append("old", epoch, log, spool=SpoolPosition(1), attempt=1),
             "finish": lambda: store.jobs.finish("old", epoch, states.ran(0), events=log)}[sys.argv[3]]()
        """
        subject = "events" if name == "append" else "jobs"
        failpoint = f"store.{subject}.{name}.{moment}=kill"
        process = start(
            code, path, epoch, name, CI_RUNNER_ALLOW_FAILPOINTS="1", CI_RUNNER_FAILPOINTS=failpoint
        )
        finish(process, -signal.SIGKILL)
        unchanged = store.get_job("old", events=True) == before and store.jobs.get("new") is None
        assert unchanged == (moment == "before")
        assert store.events.position("old", 1).frames == (name == "append" and moment == "after")
        assert store.check() is None


class TestConnections:
    def test_connections_of_threads_that_are_gone_are_closed(self, store: Store) -> None:
        for _ in range(5):
            thread = threading.Thread(target=store.jobs.list)
            thread.start()
            thread.join(30)
        assert len(store._database._database._known) <= 2

    def test_a_released_connection_comes_back_when_it_is_needed(self, store: Store) -> None:
        store.release()
        store.release()
        assert store.jobs.list() == []

    def test_a_closed_store_says_so_in_every_thread(self, store: Store) -> None:
        ready, closed = threading.Event(), threading.Event()
        errors: list[Exception] = []

        def read() -> None:
            store.jobs.list()
            ready.set()
            closed.wait(30)
            try:
                store.jobs.list()
            except StoreError as error:
                errors.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        ready.wait(30)
        store.close()
        store.close()
        closed.set()
        thread.join(30)
        with pytest.raises(StoreError, match="closed"):
            store.jobs.list()
        assert [str(error) for error in errors] == ["the store is closed"]

    @pytest.mark.parametrize(
        "use",
        [
            pytest.param("bell.rang()", id="a doorbell"),
            pytest.param("store.jobs.list()", id="a query"),
            pytest.param(
                "store.users.create(User(name := str(uuid.uuid4()), name, name, utcnow()))",
                id="a transaction",
            ),
        ],
    )
    def test_closing_a_store_in_use_crashes_nothing(self, tmp_path: Path, use: str) -> None:
        """SQLite ends the process with a segmentation fault if a connection is closed in the middle of its use."""
        code = f"""
import contextlib, sys, threading, uuid
from pathlib import Path
from ci_runner.model.job import User, utcnow
from ci_runner.store import Store, StoreError
for number in range(150):
    store = Store.open(Path(sys.argv[1]) / "runner.db")
    bell, began = store.doorbell(), threading.Event()
    def work():
        with contextlib.suppress(StoreError):
            while True:
                began.set()
                {use}
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    began.wait(30)
    store.close()
    for thread in threads:
        thread.join(30)
    assert not store._database._database._known, "every connection is closed"
"""
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_only_the_holder_of_the_lease_tidies_the_write_ahead_log(self, path: Path, store: Store) -> None:
        epoch = store.lease.acquire("test")
        store.jobs.create(Job("j"))
        store.events.append("j", epoch, [JobEvent("log", "x" * 65536)] * 300)
        log = path.with_name("runner.db-wal")
        size = log.stat().st_size
        assert size > 16 << 20
        with closing(Store.open(path)) as other:
            other.jobs.create(Job("k"))
        assert log.stat().st_size >= size
        store.lease.heartbeat(epoch)
        assert log.stat().st_size == 0
        assert len(store.get_events("j")) == 300

    def test_a_reader_that_stays_does_not_hold_the_heartbeat_up(self, path: Path, store: Store) -> None:
        epoch = store.lease.acquire("test")
        store.jobs.create(Job("j"))
        with closing(connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM jobs").fetchall()
            store.events.append("j", epoch, [JobEvent("log", "x" * 65536)] * 300)
            started = time.monotonic()
            store.lease.heartbeat(epoch)
            assert time.monotonic() - started < 4.5, "it waited for the reader: the busy timeout is 5 s"
        assert len(store.get_events("j")) == 300


def test_a_job_of_a_hundred_thousand_characters_is_stored(store: Store) -> None:
    job = Job(str(uuid.uuid4()), options=JobOptions.from_dict({"args": ["x" * 131_071] * 3}))
    assert store.jobs.create(job).options == job.options
