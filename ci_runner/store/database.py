"""One SQLite file, one connection per thread, every write an immediate transaction.

Everything specific to SQLite is in this module and in `migrations`: durability, locking, checkpoints, damage. The
rest of the package writes Peewee queries that would run unchanged on PostgreSQL.

There are two kinds of durability. A *durable* write is on the disk when the call returns (``synchronous=FULL``). Any
other write survives the death of every process, but may be lost in a power failure (``NORMAL``; never inconsistent).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import peewee

from ci_runner.errors import DatabaseBusy, RunnerError, StorageFull
from ci_runner.store import encryption
from ci_runner.store.encryption import Encryption

_NORMAL: Final = 1
_FULL: Final = 2

#: A value as SQLite returns and takes it.
Value: TypeAlias = "int | float | str | bytes | None"

RowT = TypeVar("RowT", bound=Mapping[str, object])
T = TypeVar("T")

#: The write-ahead log is moved into the database file when it exceeds this size (bytes).
CHECKPOINT_BYTES: Final = 16 << 20


class StoreError(RunnerError):
    """The database cannot be used; the text is one line with the reason and the remedy."""


class _Connection(sqlite3.Connection):
    """A connection that remembers the durability it was set to."""

    synchronous = _NORMAL


class _SqliteDatabase(peewee.SqliteDatabase):
    """Peewee's database with every connection tracked, so that none outlives its thread or the store.

    Peewee keeps connections in thread-local storage and leaves those of ended threads to the garbage collector. This
    class closes them when it opens the next connection.
    """

    def __init__(self, path: Path, busy_timeout: float) -> None:
        # Only the holder of the lease checkpoints: SQLite before 3.51.3 can corrupt a database
        # when two connections write and checkpoint at the same time (see `Database.checkpoint`).
        pragmas = {
            "busy_timeout": int(busy_timeout * 1000),
            "foreign_keys": 1,
            "synchronous": _NORMAL,
            "wal_autocheckpoint": 0,
            "journal_size_limit": 4 * CHECKPOINT_BYTES,
            "secure_delete": 1,  # overwrite deleted content
        }
        super().__init__(
            str(path), pragmas=pragmas, timeout=busy_timeout, check_same_thread=False, factory=_Connection
        )
        self._private_path = path
        self._known: dict[threading.Thread, sqlite3.Connection] = {}
        self._known_lock = threading.Lock()
        #: Thread → how many uses of its connection are nested right now.
        self._uses: dict[threading.Thread, int] = {}
        self._shut = False

    def _connect(self) -> sqlite3.Connection:
        if self._shut:
            raise StoreError("the store is closed")
        # Private regardless of the umask and the folder; SQLite gives its -wal and -shm files the same mode.
        with contextlib.suppress(OSError):  # the connection below reports the error
            create_private(self._private_path)
        connection: sqlite3.Connection = super()._connect()  # type: ignore[misc]  # missing in the stubs
        with self._known_lock:
            gone = [thread for thread in self._known if not thread.is_alive()]
            stale = [self._known.pop(thread) for thread in gone]
            self._known[threading.current_thread()] = connection
        for old in stale:
            old.close()
        return connection

    def _close(self, conn: sqlite3.Connection) -> None:
        with self._known_lock:
            self._known.pop(threading.current_thread(), None)
        conn.close()

    def rollback(self) -> None:
        # After some errors (a full disk), SQLite has already rolled back: trying again would hide the cause.
        thread_connection: Callable[[], _Connection] = self.connection
        if not self.is_closed() and thread_connection().in_transaction:
            super().rollback()

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Keep this thread's connection open meanwhile; raise `StoreError` if the store is closed."""
        thread = threading.current_thread()
        with self._known_lock:
            nested = self._uses.get(thread, 0)
            if self._shut and not nested:
                raise StoreError("the store is closed")
            self._uses[thread] = nested + 1
        try:
            yield
        finally:
            closing = None
            with self._known_lock:
                if nested:
                    self._uses[thread] = nested
                else:
                    del self._uses[thread]
                    if self._shut:
                        closing = self._known.pop(thread, None)
            if closing is not None:
                closing.close()

    def shut(self) -> None:
        """Close every thread's connection; later use raises `StoreError`.

        A connection that a thread is using is closed by that thread afterwards: closing it now would end the process
        with a segmentation fault.
        """
        with self._known_lock:
            self._shut = True
            idle = [self._known.pop(thread) for thread in list(self._known) if thread not in self._uses]
        for connection in idle:
            connection.close()

    @property
    def is_shut(self) -> bool:
        return self._shut


class Database:
    """Queries and transactions for the rest of the package; may be used from any thread."""

    def __init__(self, path: Path, backups: Path, *, busy_timeout: float = 5.0) -> None:
        self.path = path
        #: Folder with copies of the database.
        self.backups = backups
        #: Encrypts values that must not be readable in the file.
        self.encryption = Encryption(path.with_name(encryption.FILE_NAME))
        #: Deleted content must not stay in the write-ahead log: the next checkpoint is due at once.
        self.must_checkpoint = False
        self._database = _SqliteDatabase(path, busy_timeout)
        self._doorbells: list[Doorbell] = []

    # -- queries

    def rows(self, query: peewee.Query, kind: type[RowT]) -> list[RowT]:
        """Return all rows of a select as field name → Python value; `kind`, of `rows`, has exactly these fields."""
        with self._translated():
            found: list[RowT] = list(query.dicts().execute(self._database))
        if found and found[0].keys() != kind.__annotations__.keys():
            raise TypeError(
                f"the query selects {', '.join(found[0])}, which are not those of {kind.__name__}"
            )
        return found

    def first(self, query: peewee.Query, kind: type[RowT]) -> RowT | None:
        """Return the first row of a select, or None; `kind` as for `rows`."""
        return next(iter(self.rows(query.limit(1), kind)), None)

    def integer(self, query: peewee.SelectBase | str, parameters: Sequence[Value] = ()) -> int:
        """Return the number in the first column of the first row of a select, or of plain SQL."""
        if isinstance(query, str):
            found: object = self.sql(query, parameters)[0][0]
        else:
            with self._translated():
                found = query.scalar(self._database)
        if not isinstance(found, int):
            raise TypeError(f"the query returned {type(found).__name__}, not a number")
        return found

    def stream(self, query: peewee.Query, make: Callable[[tuple[Value, ...]], T]) -> Generator[T, None, None]:
        """Yield what `make` returns for each row, unconverted and one by one, reading only as far as needed.

        Exhaust or `close` the generator.
        """
        with self._translated(), contextlib.closing(self._execute(query)) as cursor:
            yield from map(make, cursor)

    def run(self, query: peewee.Query) -> int:
        """Execute an update or delete inside `write`; return how many rows it affected."""
        with self._translated():
            return int(query.execute(self._database))

    def insert(self, query: peewee.Query) -> None:
        """Execute an insert inside `write`; a broken constraint raises `peewee.IntegrityError`."""
        with self._translated():
            query.execute(self._database)

    def insert_rows(self, model: type[peewee.Model], rows: Sequence[Sequence[Value]]) -> None:
        """Insert rows of plain values in the order of the model's fields, inside `write`.

        For many small rows: building an `insert_many` statement costs several times its execution.
        """
        meta = model._meta
        names = ", ".join(f'"{field.column_name}"' for field in meta.sorted_fields)
        marks = ", ".join([self._database.param] * len(meta.sorted_fields))
        with self._translated():
            open_cursor: Callable[[], sqlite3.Cursor] = self._database.cursor
            cursor = open_cursor()
            # The names are those of our models.
            cursor.executemany(f'INSERT INTO "{meta.table_name}" ({names}) VALUES ({marks})', rows)  # noqa: S608
            cursor.close()

    def execute_many(self, statement: str, rows: Sequence[Sequence[Value]]) -> None:
        """Execute one statement, with ``?`` for values, for many rows, inside `write`."""
        with self._translated():
            open_cursor: Callable[[], sqlite3.Cursor] = self._database.cursor
            cursor = open_cursor()
            cursor.executemany(statement.replace("?", self._database.param), rows)
            cursor.close()

    def compiled(self, query: peewee.Query) -> tuple[str, tuple[Value, ...]]:
        """Return statement and parameters of a query, for `sql`.

        For repeated queries: building a statement costs several times its execution.
        """
        compile_query: Callable[[peewee.Query], peewee.Context] = self._database.get_sql_context().sql
        statement, parameters = compile_query(query).query()
        return str(statement), tuple(parameters)

    def sql(self, statement: str, parameters: Sequence[Value] = ()) -> list[tuple[Value, ...]]:
        """Execute plain SQL, for migrations and pragmas."""
        with self._translated():
            execute: Callable[[str, Sequence[Value]], sqlite3.Cursor] = self._database.execute_sql
            return execute(statement, parameters).fetchall()

    def _execute(self, query: peewee.Query) -> sqlite3.Cursor:
        execute: Callable[[peewee.Query], sqlite3.Cursor] = self._database.execute
        return execute(query)

    @contextlib.contextmanager
    def write(self, *, durable: bool = True) -> Iterator[None]:
        """Run one transaction that holds the write lock from its beginning.

        In SQLite, a transaction that reads first and then writes fails if another process wrote in between, whatever
        the timeout: hence IMMEDIATE. Inside another `write`, this is a savepoint.
        """
        with self._translated():
            if not self._database.in_transaction():
                self._set_durability(_FULL if durable else _NORMAL)
            with self._database.atomic("IMMEDIATE"):
                yield

    def _set_durability(self, mode: int) -> None:
        connect_thread: Callable[[], _Connection] = self._database.connection
        connection = connect_thread()
        if connection.synchronous != mode:
            connection.execute(f"PRAGMA synchronous = {mode}")
            connection.synchronous = mode

    # -- files

    def use_wal(self) -> None:
        """Switch the file to write-ahead logging (readers and the writer do not wait for each other).

        SQLite does not wait for other processes in this call, regardless of the busy timeout; `migrations` serialises
        the callers.
        """
        mode = self.sql("PRAGMA journal_mode = WAL")[0][0]
        if str(mode).lower() != "wal":
            raise StoreError(
                f"{self.path}: write-ahead logging is not possible here (SQLite answers {mode!r})"
            )

    def checkpoint(self, *, at_bytes: int = CHECKPOINT_BYTES) -> bool:
        """Move the write-ahead log into the database if it has `at_bytes` or `must_checkpoint` is set.

        Returns whether that was completed; the log then no longer has its old content. Only the holder of the lease
        calls this. It takes the writer's lock and waits a moment for readers; if they are too slow, the next call
        tries again.
        """
        with contextlib.suppress(OSError):
            if Path(f"{self.path}-wal").stat().st_size < (1 if self.must_checkpoint else at_bytes):
                return False
        with self._translated(), contextlib.closing(connect(self.path, busy_timeout=0.25)) as connection:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.must_checkpoint = self.must_checkpoint and bool(busy)
        return not busy

    def backup(self, target: Path) -> None:
        """Copy the database to the new file `target` (0600) and check the copy, while other work goes on.

        The copy does not contain secrets.
        """
        partial = target.with_name(target.name + ".partial")
        create_private(partial)
        with self._translated():
            with (
                contextlib.closing(connect(self.path)) as source,
                contextlib.closing(connect(partial)) as copy,
            ):
                source.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
                copy.execute("PRAGMA secure_delete = ON")
                for table in ("run_secrets", "job_secrets"):
                    if copy.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
                        copy.execute(f"DELETE FROM {table}")  # noqa: S608 - a name from the line above
                verdict = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
            if verdict != "ok":
                raise self._damaged(verdict)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)

    def check(self) -> str | None:
        """Return the first damage that SQLite finds, or None; reads the whole file."""
        verdict = str(self.sql("PRAGMA quick_check(1)")[0][0])
        return None if verdict == "ok" else verdict

    # -- connections

    def doorbell(self) -> Doorbell:
        """Return a new `Doorbell`; it is closed with the database at the latest."""
        bell = Doorbell(self.path)
        self._doorbells.append(bell)
        return bell

    def release(self) -> None:
        """Close this thread's connection; the next use opens another (half a millisecond)."""
        if not self._database.is_closed():
            self._database.close()

    def close(self) -> None:
        """Close all connections; threads that still use the store get `StoreError`."""
        for bell in self._doorbells:
            bell.close()
        self._database.shut()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Translate errors of SQLite into the runner's own, except constraints, which callers interpret."""
        try:
            with self._database.used():
                yield
        except (peewee.IntegrityError, sqlite3.IntegrityError):
            raise
        except (peewee.DatabaseError, peewee.InterfaceError, sqlite3.Error) as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> RunnerError:
        text = str(error)
        if self._database.is_shut:
            return StoreError("the store is closed")
        if "is locked" in text:
            return DatabaseBusy("the database is busy; try again")
        if "disk is full" in text:
            return StorageFull("the disk of the database is full")
        if "malformed" in text or "not a database" in text:
            return self._damaged(text)
        return StoreError(f"{self.path}: {text}")

    def _damaged(self, what: str) -> StoreError:
        copies = sorted(self.backups.glob(f"{self.path.stem}-*.db"), key=lambda file: file.stat().st_mtime)
        newest = f"the newest backup is {copies[-1]}" if copies else f"no backup was found in {self.backups}"
        return StoreError(f"{self.path} is damaged ({what}); {newest}")


class Doorbell:
    """A cheap hint whether the database was committed to since the last check.

    It may ring although nothing relevant changed. It has a separate connection, so it also notices commits of this
    process. Thread-safe: SQLite would crash the process if one thread closed the connection while another reads.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._connection = connect(path)
        self._execute = self._connection.execute
        self._seen: int = self._execute("PRAGMA data_version").fetchone()[0]

    def rang(self) -> bool:
        """Return whether there was a commit since the last call (or since the bell was made)."""
        try:
            with self._lock:
                version: int = self._execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.OperationalError:  # busy in a checkpoint: an unnecessary look does no harm
            return True
        except sqlite3.ProgrammingError as error:
            raise StoreError("the store is closed") from error
        rang = version != self._seen
        self._seen = version
        return rang

    def close(self) -> None:
        """Close the connection; may be called again."""
        with self._lock:
            self._connection.close()


def connect(path: Path, *, busy_timeout: float = 5.0) -> sqlite3.Connection:
    """Open a plain connection in autocommit mode that never checkpoints by itself."""
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA wal_autocheckpoint = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def create_private(path: Path) -> None:
    """Create an empty file that only its owner may read, unless it exists.

    SQLite's side files inherit its mode. An existing file must not even be opened: closing it would drop the (POSIX)
    locks that this process's connections hold on it. Another process would then take itself for the last one and
    delete the write-ahead log.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
