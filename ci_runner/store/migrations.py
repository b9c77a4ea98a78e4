"""Ordered changes of the schema: each named, each one transaction (a new database is made in one), with a
backup of what was there before.

Whoever starts first migrates; others wait for the write lock and find it done. A migration that was released
is never edited: the next one changes what it did.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ci_runner.errors import RunnerError
from ci_runner.models import utcnow
from ci_runner.store.database import Database, StoreError
from ci_runner.store.schema import to_micros

#: Seconds to wait for another process that migrates.
_PATIENCE: Final = 60.0

_HISTORY: Final = """
CREATE TABLE IF NOT EXISTS schema_history (
  number INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_at BIGINT NOT NULL)
"""


@dataclass(frozen=True)
class Migration:
    """One step of the schema; its number is its place in `MIGRATIONS`, from 1."""

    name: str
    #: Standard SQL where possible: what PostgreSQL would not take must say why.
    statements: tuple[str, ...]
    #: What statements cannot do; after them, in the same transaction.
    change: Callable[[Database], None] | None = None
    #: Write the whole file anew before, so that nothing is left of what was ever deleted.
    rewrites: bool = False


def _encrypt_secrets(database: Database) -> None:
    for run_id, name, value in database.sql("SELECT run_id, name, value FROM run_secrets"):
        database.sql(
            "UPDATE run_secrets SET value = ? WHERE run_id = ? AND name = ?",
            (database.encryption.encrypt(value), run_id, name),
        )


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
              idempotency_key TEXT, body_digest TEXT)
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
            """
            CREATE TABLE events (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, seq BIGINT NOT NULL,
              type TEXT NOT NULL, at BIGINT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (job_id, seq))
            """,
            """
            CREATE TABLE spools (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, attempt INTEGER NOT NULL,
              frames BIGINT NOT NULL, stdout BIGINT NOT NULL, stderr BIGINT NOT NULL,
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
        ),
    ),
    Migration(
        "outbox",
        ("CREATE TABLE outbox (job_id TEXT NOT NULL PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE)",),
    ),
    Migration(
        "records of sessions",
        (
            "ALTER TABLE spools ADD COLUMN records BIGINT NOT NULL DEFAULT 0",
            "ALTER TABLE spools ADD COLUMN terminal BIGINT NOT NULL DEFAULT 0",
        ),
    ),
    Migration(
        "artifacts",
        (
            """
            CREATE TABLE artifacts (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, path TEXT NOT NULL,
              mode INTEGER NOT NULL, size BIGINT NOT NULL, sha256 TEXT NOT NULL, kept_until BIGINT NOT NULL,
              PRIMARY KEY (job_id, path))
            """,
            "CREATE INDEX artifacts_content ON artifacts (sha256)",
            "CREATE INDEX artifacts_ended ON artifacts (kept_until)",
        ),
    ),
    Migration(
        "results of tests",
        (
            # SQLite: in the order of their key, without an index beside the table.
            """
            CREATE TABLE tests (
              job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE, node_id TEXT NOT NULL,
              outcome INTEGER NOT NULL, duration BIGINT NOT NULL, reruns INTEGER NOT NULL, at BIGINT NOT NULL,
              PRIMARY KEY (job_id, node_id)) WITHOUT ROWID
            """,
        ),
    ),
    Migration(
        "runs of pipelines",
        (
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
            "ALTER TABLE jobs ADD COLUMN run_id TEXT",
            "ALTER TABLE jobs ADD COLUMN stage TEXT",
            "ALTER TABLE jobs ADD COLUMN planned TEXT",
            "ALTER TABLE jobs ADD COLUMN retry INTEGER NOT NULL DEFAULT 0",
            # However often a run is asked to start a job: there is one of each try.
            "CREATE UNIQUE INDEX jobs_of_run ON jobs (run_id, planned, retry) WHERE run_id IS NOT NULL",
        ),
    ),
    Migration("encrypted secrets", (), _encrypt_secrets, rewrites=True),
)


def version(database: Database) -> int:
    """The number of the newest migration that was applied; 0 for an empty database."""
    tables = {name for (name,) in database.sql("SELECT name FROM sqlite_master")}
    if "schema_history" not in tables:
        if tables:
            raise StoreError(f"{database.path} is a database of another program")
        return 0
    return int(database.sql("SELECT COALESCE(MAX(number), 0) FROM schema_history")[0][0])


def require_current(database: Database, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
    """Raise `StoreError` unless exactly `migrations` were applied."""
    found = version(database)
    _refuse_newer(database, found, migrations)
    if found < len(migrations):
        raise StoreError(
            f"{database.path} has an older schema ({found} of {len(migrations)});"
            " start the runner once to migrate it"
        )


def migrate(
    database: Database,
    migrations: tuple[Migration, ...] = MIGRATIONS,
    *,
    now: dt.datetime | None = None,
) -> None:
    """Bring the schema up to date; safe when several processes start at once.

    A database that holds a schema already is copied into its backups folder first. Raises `StoreError` when
    it was written by a newer version.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            if version(database) < len(migrations):
                database.use_wal()
                _apply_all(database, migrations, now or utcnow())
            _refuse_newer(database, version(database), migrations)
            return
        except RunnerError as error:
            # Switching to write-ahead logging and waiting for a long migration both end in "busy".
            if isinstance(error, StoreError) or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _apply_all(database: Database, migrations: tuple[Migration, ...], now: dt.datetime) -> None:
    saved, found = False, version(database)
    if found and any(migration.rewrites for migration in migrations[found:]):
        database.sql(
            "VACUUM"
        )  # not possible in a transaction; done again if this process dies before the next one
    while True:
        with database.write():
            found = version(database)
            _refuse_newer(database, found, migrations)
            if found == len(migrations):
                return
            if found and not saved:
                # The lock is held, so the copy is exactly what the migration starts from.
                _back_up(database, found, now)
                saved = True
            database.sql(_HISTORY)
            # A new database is made at once, or somebody else would find it half made and keep a copy.
            for number in range(found, found + 1 if found else len(migrations)):
                for statement in migrations[number].statements:
                    database.sql(statement)
                change = migrations[number].change
                if change is not None:
                    change(database)
                database.sql(
                    "INSERT INTO schema_history (number, name, applied_at) VALUES (?, ?, ?)",
                    (number + 1, migrations[number].name, to_micros(now)),
                )


def _back_up(database: Database, found: int, now: dt.datetime) -> None:
    database.backups.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    database.backup(database.backups / f"{database.path.stem}-{stamp}-schema{found}.db")


def _refuse_newer(database: Database, found: int, migrations: tuple[Migration, ...]) -> None:
    if found > len(migrations):
        raise StoreError(
            f"{database.path} was written by a newer version of the runner (schema {found}, this one knows"
            f" {len(migrations)}): install that version, or restore a backup"
        )
