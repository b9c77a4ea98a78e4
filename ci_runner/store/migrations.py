"""Make and upgrade the schema: ordered, named migrations, each one transaction, after a backup of the database.

A new database is made in one transaction. The process that starts first migrates; others wait for the write lock and
find the work done. A released migration is never edited: a later one changes its result.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass
from typing import Final

from ci_runner.errors import RunnerError
from ci_runner.model.job import utcnow
from ci_runner.store.database import Database, StoreError
from ci_runner.store.schema import to_micros

#: Seconds to wait for another process that migrates.
_PATIENCE: Final = 60.0

_HISTORY: Final = """
CREATE TABLE IF NOT EXISTS schema_history (
  number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)
"""


#: The schema number of the first of `MIGRATIONS`. Those before it were merged into it.
OLDEST: Final = 7
#: The last commit with a runner that upgrades schemas before `OLDEST`.
LAST_UPGRADER: Final = "464944b"


@dataclass(frozen=True)
class Migration:
    """One step of the schema; the first of `MIGRATIONS` has the number `OLDEST`."""

    name: str
    #: Standard SQL where possible; give the reason for anything that PostgreSQL would not accept.
    statements: tuple[str, ...]


MIGRATIONS: Final[tuple[Migration, ...]] = (
    Migration(
        "initial",
        (
            """
            CREATE TABLE users (
              id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, email_key TEXT UNIQUE,
              created_at BIGINT NOT NULL, is_active BOOLEAN NOT NULL, priority_cap TEXT NOT NULL,
              served_at BIGINT, deleted_at BIGINT)
            """,
            """
            CREATE TABLE api_keys (
              id TEXT NOT NULL PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
              key_hash TEXT NOT NULL UNIQUE, name TEXT, created_at BIGINT NOT NULL, last_used_at BIGINT,
              is_active BOOLEAN NOT NULL, expires_at BIGINT)
            """,
            "CREATE INDEX api_keys_user ON api_keys (user_id, created_at)",
            """
            CREATE TABLE jobs (
              id TEXT NOT NULL PRIMARY KEY, user_id TEXT REFERENCES users (id) ON DELETE CASCADE,
              status TEXT NOT NULL, success BOOLEAN, start_time BIGINT, end_time BIGINT, container_id TEXT,
              zip_file_path TEXT, phase TEXT NOT NULL, exit_code BIGINT, reason TEXT, name TEXT,
              priority TEXT NOT NULL, submitted_at BIGINT NOT NULL, options TEXT NOT NULL, workspace TEXT,
              attempt INTEGER NOT NULL, building BOOLEAN NOT NULL, environment TEXT,
              cancel_requested_at BIGINT, cancelled_by TEXT, phase_since BIGINT, stop_intent TEXT,
              stop_requested_at BIGINT, cleaned_at BIGINT,
              last_seq BIGINT NOT NULL, log_bytes BIGINT NOT NULL, counts TEXT NOT NULL,
              idempotency_key TEXT, body_digest TEXT,
              run_id TEXT, stage TEXT, planned TEXT, retry INTEGER NOT NULL DEFAULT 0)
            """,
            "CREATE UNIQUE INDEX jobs_idempotency ON jobs (user_id, idempotency_key)",
            "CREATE INDEX jobs_newest ON jobs (submitted_at, id)",
            "CREATE INDEX jobs_newest_of_user ON jobs (user_id, submitted_at, id)",
            "CREATE INDEX jobs_ended ON jobs (end_time) WHERE end_time IS NOT NULL",
            # No values in the predicates: SQLite cannot prove that a parameter implies one, and would scan.
            "CREATE INDEX jobs_open ON jobs (submitted_at, id) WHERE end_time IS NULL",
            "CREATE INDEX jobs_open_of_user ON jobs (user_id) WHERE end_time IS NULL",
            """
            CREATE INDEX jobs_uncleaned ON jobs (end_time) WHERE end_time IS NOT NULL AND cleaned_at IS NULL
            """,
            # One job per try, however often a run is asked to start it.
            "CREATE UNIQUE INDEX jobs_of_run ON jobs (run_id, planned, retry) WHERE run_id IS NOT NULL",
            """
            CREATE TABLE events (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, seq BIGINT NOT NULL,
              type TEXT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (job_id, seq))
            """,
            """
            CREATE TABLE spools (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, attempt INTEGER NOT NULL,
              frames BIGINT NOT NULL, stdout BIGINT NOT NULL, stderr BIGINT NOT NULL,
              records BIGINT NOT NULL DEFAULT 0, terminal BIGINT NOT NULL DEFAULT 0,
              PRIMARY KEY (job_id, attempt))
            """,
            """
            CREATE TABLE blob_grants (
              user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE, digest TEXT NOT NULL,
              used_at BIGINT NOT NULL, PRIMARY KEY (user_id, digest))
            """,
            "CREATE INDEX blob_grants_digest ON blob_grants (digest, used_at)",
            """
            CREATE TABLE lease (
              id INTEGER NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, holder TEXT, acquired_at BIGINT,
              heartbeat_at BIGINT)
            """,
            "INSERT INTO lease (id, epoch) VALUES (1, 0)",
            "CREATE TABLE outbox (job_id TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE)",
            """
            CREATE TABLE artifacts (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, path TEXT NOT NULL,
              mode INTEGER NOT NULL, size BIGINT NOT NULL, sha256 TEXT NOT NULL, kept_until BIGINT NOT NULL,
              PRIMARY KEY (job_id, path))
            """,
            "CREATE INDEX artifacts_content ON artifacts (sha256)",
            "CREATE INDEX artifacts_ended ON artifacts (kept_until)",
            # SQLite: stored in the order of the key, without a separate index.
            """
            CREATE TABLE tests (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, node_id TEXT NOT NULL,
              outcome INTEGER NOT NULL, duration BIGINT NOT NULL, reruns INTEGER NOT NULL, at BIGINT NOT NULL,
              PRIMARY KEY (job_id, node_id)) WITHOUT ROWID
            """,
            """
            CREATE TABLE runs (
              id TEXT NOT NULL PRIMARY KEY, user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
              pipeline TEXT NOT NULL, number INTEGER NOT NULL, plan TEXT NOT NULL, workspace TEXT NOT NULL,
              options TEXT NOT NULL, status TEXT NOT NULL, success BOOLEAN, reason TEXT,
              submitted_at BIGINT NOT NULL, start_time BIGINT, end_time BIGINT,
              cancel_requested_at BIGINT, cancelled_by TEXT, stop_intent TEXT, rerun_of TEXT,
              version BIGINT NOT NULL, last_seq BIGINT NOT NULL, idempotency_key TEXT, body_digest TEXT)
            """,
            "CREATE UNIQUE INDEX runs_number ON runs (user_id, pipeline, number)",
            "CREATE UNIQUE INDEX runs_idempotency ON runs (user_id, idempotency_key)",
            "CREATE INDEX runs_newest_of_user ON runs (user_id, submitted_at, id)",
            "CREATE INDEX runs_open ON runs (submitted_at) WHERE end_time IS NULL",
            """
            CREATE TABLE run_jobs (
              run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, name TEXT NOT NULL,
              position INTEGER NOT NULL, stage TEXT NOT NULL, job_id TEXT, retry INTEGER NOT NULL,
              reused BOOLEAN NOT NULL, dropped TEXT, cancelled_by TEXT, PRIMARY KEY (run_id, name))
            """,
            """
            CREATE TABLE run_secrets (
              run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, name TEXT NOT NULL,
              value TEXT NOT NULL, PRIMARY KEY (run_id, name))
            """,
            """
            CREATE TABLE run_feed (
              run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE, seq BIGINT NOT NULL,
              number INTEGER NOT NULL, job_id TEXT, first BIGINT NOT NULL, at BIGINT NOT NULL, body TEXT,
              PRIMARY KEY (run_id, seq))
            """,
        ),
    ),
    Migration(
        "changes of the project",
        (
            "ALTER TABLE artifacts ADD COLUMN requested BOOLEAN NOT NULL DEFAULT TRUE",
            "ALTER TABLE artifacts ADD COLUMN change TEXT",
            "ALTER TABLE artifacts ADD COLUMN before TEXT",
        ),
    ),
    Migration(
        "secrets of jobs",
        (
            """
            CREATE TABLE job_secrets (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, name TEXT NOT NULL,
              value TEXT NOT NULL, PRIMARY KEY (job_id, name))
            """,
        ),
    ),
    Migration("state of the engine", ("ALTER TABLE lease ADD COLUMN engine_silent_since BIGINT",)),
    Migration(
        "indexes of lists",
        (
            # With the name, which searches read.
            "DROP INDEX jobs_newest_of_user",
            "CREATE INDEX jobs_newest_of_user ON jobs (user_id, submitted_at, id, name)",
            "CREATE INDEX jobs_by_status_of_user ON jobs (user_id, status, submitted_at, id, name)",
        ),
    ),
)


def version(database: Database) -> int:
    """Return the number of the newest applied migration; 0 for an empty database."""
    tables = {name for (name,) in database.sql("SELECT name FROM sqlite_master")}
    if "schema_history" not in tables:
        if tables:
            raise StoreError(f"{database.path} is a database of another program")
        return 0
    return database.integer("SELECT COALESCE(MAX(number), 0) FROM schema_history")


def newest(migrations: tuple[Migration, ...] = MIGRATIONS) -> int:
    """Return the number of the schema that `migrations` make."""
    return OLDEST + len(migrations) - 1


def require_current(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Raise `StoreError` unless the database has exactly the schema that `migrations` make."""
    found = version(database)
    _refuse_unknown(database, found, migrations)
    if found < newest(migrations):
        raise StoreError(
            f"{database.path} has an older schema ({found} of {newest(migrations)});"
            " start the runner once to migrate it"
        )


def migrate(
    database: Database,
    migrations: tuple[Migration, ...] = MIGRATIONS,
    *,
    now: dt.datetime | None = None,
) -> None:
    """Bring the schema up to date; safe if several processes start at once.

    Copies a database that has a schema into its backups folder first. Raises `StoreError` and changes nothing if the
    schema is from a newer version, or older than `OLDEST`.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            found = version(database)
            _refuse_unknown(database, found, migrations)
            if found < newest(migrations):
                database.use_wal()
                _apply_all(database, migrations, now or utcnow())
            return
        except RunnerError as error:
            # Switching to write-ahead logging and waiting for a long migration both end in "busy".
            if isinstance(error, StoreError) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _apply_all(database: Database, migrations: tuple[Migration, ...], now: dt.datetime) -> None:
    saved = False
    while True:
        with database.write():
            found = version(database)
            _refuse_unknown(database, found, migrations)
            if found == newest(migrations):
                return
            if found and not saved:
                # The lock is held, so the copy is exactly the state that the migration starts from.
                _back_up(database, found, now)
                saved = True
            database.sql(_HISTORY)
            # A new database is made in one step; else another process would find it half made and back it up.
            first = found + 1 if found else OLDEST
            last = first if found else newest(migrations)
            for number in range(first, last + 1):
                migration = migrations[number - OLDEST]
                for statement in migration.statements:
                    database.sql(statement)
                database.sql(
                    "INSERT INTO schema_history (number, name, applied_at) VALUES (?, ?, ?)",
                    (number, migration.name, to_micros(now)),
                )


def _back_up(database: Database, found: int, now: dt.datetime) -> None:
    database.backups.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    database.backup(database.backups / f"{database.path.stem}-{stamp}-schema{found}.db")


def _refuse_unknown(database: Database, found: int, migrations: tuple[Migration, ...]) -> None:
    if found > newest(migrations):
        raise StoreError(
            f"{database.path} was written by a newer version of the runner (schema {found}, this one knows"
            f" {newest(migrations)}): install that version, or restore a backup"
        )
    if 0 < found < OLDEST:
        raise StoreError(
            f"{database.path} has schema {found}, which this version cannot upgrade (it needs {OLDEST} or later):"
            f" start the runner of commit {LAST_UPGRADER} once, which upgrades it, then this one again"
        )
