"""`Store`: the database of one runner, by subject, and an implementation of `JobRepository`."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from ci_runner.errors import Conflict, NotFound
from ci_runner.model.job import APIKey, Job, JobEvent, User
from ci_runner.model.verdict import Verdict
from ci_runner.store import migrations
from ci_runner.store.artifacts import Artifacts
from ci_runner.store.blobs import Blobs
from ci_runner.store.database import Database, Doorbell, StoreError, create_private
from ci_runner.store.events import Events
from ci_runner.store.jobs import Jobs
from ci_runner.store.keys import Keys
from ci_runner.store.lease import Lease
from ci_runner.store.rows import JobChanges
from ci_runner.store.run_events import Feed
from ci_runner.store.runs import Runs
from ci_runner.store.statistics import Statistics
from ci_runner.store.test_results import Tests
from ci_runner.store.users import Users
from pytest_remote_ci.wire.protocol import TERMINAL_STATUSES, Status


class Store:
    """The runner's database; open it with `Store.open`. Any thread and several processes may use it at once.

    The methods of `JobRepository` are what it shares with other implementations; they check no lease. What needs this
    store is in the attributes `jobs`, `runs`, `feed`, `events`, `artifacts`, `tests`, `statistics`, `users`,
    `keys`, `blobs` and `lease`.
    """

    def __init__(self, database: Database) -> None:
        self.path = database.path
        self._database = database
        self.lease = Lease(database)
        self.jobs = Jobs(database, self.lease)
        self.events = Events(database, self.lease)
        self.users = Users(database, self.jobs)
        self.keys = Keys(database)
        self.blobs = Blobs(database)
        self.runs = Runs(database, self.lease)
        self.feed = Feed(database, self.events)
        self.artifacts = Artifacts(database)
        self.tests = Tests(database)
        self.statistics = Statistics(database)

    @classmethod
    def open(
        cls,
        path: Path | str,
        backups: Path | str | None = None,
        *,
        migrate: bool = True,
        busy_timeout: float = 5.0,
    ) -> Store:
        """Open the database, making or migrating it first; several processes may do so at once.

        `backups`: folder for the copy made before a migration, by default ``backups`` next to the file.
        `migrate=False` refuses a missing or older schema instead. `busy_timeout`: seconds to wait for another
        process's write. Raises `StoreError`.
        """
        file = Path(path)
        folder = Path(backups) if backups is not None else file.parent / "backups"
        try:
            if migrate:
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                create_private(file)
            elif not file.is_file():
                raise StoreError(f"{file}: no such database; start the runner once to create it")
        except OSError as error:
            raise StoreError(f"{file}: {error.strerror}") from error
        store = cls(Database(file, folder, busy_timeout=busy_timeout))
        try:
            if migrate:
                store.initialize()
            else:
                migrations.require_current(store._database)
        except BaseException:
            store.close()
            raise
        return store

    def doorbell(self) -> Doorbell:
        """Return a new bell, a cheap check for writes to the database."""
        return self._database.doorbell()

    def release(self) -> None:
        """Close this thread's connection; the next use in this thread opens a new one."""
        self._database.release()

    def backup(self, target: Path) -> None:
        """Copy the database to a new, checked file, while other work goes on."""
        self._database.backup(target)

    def check(self) -> str | None:
        """Return the first damage found in the file, or None; reads the whole file."""
        return self._database.check()

    # -- JobRepository

    def initialize(self) -> None:
        """Create or migrate the schema; any process may call this, more than once."""
        migrations.migrate(self._database)

    def secrets_of(self, job: Job) -> dict[str, str]:
        """Return the values of the secrets that the job, or its run, was submitted with.

        Empty if it names none, and once that is over. Raises `SecretsUnreadable`.
        """
        if not job.options.secrets:
            return {}
        return self.jobs.secrets(job.id) if job.run_id is None else self.runs.secrets(job.run_id)

    def close(self) -> None:
        """Close all connections and doorbells; later use raises `StoreError`."""
        self._database.close()

    def create_job(self, job: Job) -> Job:
        """See `JobRepository`."""
        return self.jobs.create(job)

    def get_job(self, job_id: str, user_id: str | None = None, *, events: bool = True) -> Job | None:
        """See `JobRepository`."""
        job = self.jobs.get(job_id, user_id)
        if job is None or not events:
            return job
        return Job(**{**vars(job), "events": tuple(self.get_events(job_id))})

    def update_job_status(
        self,
        job_id: str,
        status: Status,
        start_time: dt.datetime | None = None,
        container_id: str | None = None,
    ) -> None:
        """See `JobRepository`."""
        if status in TERMINAL_STATUSES:
            changed = self.jobs.finish(job_id, None, Verdict(status, None))
        else:
            changes: JobChanges = {"status": status}
            if start_time is not None:
                changes["start_time"] = start_time
            if container_id is not None:
                changes["container_id"] = container_id
            changed = self.jobs.update(job_id, **changes)
        self._require_changed(changed, job_id)

    def complete_job(self, job_id: str, success: bool, end_time: dt.datetime | None = None) -> None:
        """See `JobRepository`."""
        verdict = Verdict("completed", success)
        self._require_changed(self.jobs.finish(job_id, None, verdict, end_time=end_time), job_id)

    def list_jobs(
        self,
        user_id: str | None = None,
        *,
        status: Status | None = None,
        since: dt.datetime | None = None,
        query: str | None = None,
        limit: int = 1000,
        before: str | None = None,
    ) -> list[Job]:
        """See `JobRepository`."""
        return self.jobs.list(user_id, status=status, since=since, query=query, limit=limit, before=before)

    def add_event(self, job_id: str, event: JobEvent) -> int:
        """See `JobRepository`; a job that is over raises `Conflict`."""
        return self.events.add(job_id, event)

    def get_events(self, job_id: str, from_index: int = 0, user_id: str | None = None) -> list[JobEvent]:
        """See `JobRepository`."""
        return self.get_events_since(job_id, 0, user_id)[from_index:]

    def get_events_since(self, job_id: str, seq: int, user_id: str | None = None) -> list[JobEvent]:
        """See `JobRepository`."""
        if user_id is not None and self.jobs.get(job_id, user_id) is None:
            return []
        found: list[JobEvent] = []
        while piece := self.events.after(job_id, found[-1].seq if found else seq):
            found += piece
        return found

    def create_user(self, user: User) -> User:
        """See `JobRepository`."""
        return self.users.create(user)

    def get_user(self, user_id: str) -> User | None:
        """See `JobRepository`."""
        return self.users.get(user_id)

    def get_user_by_email(self, email: str) -> User | None:
        """See `JobRepository`."""
        return self.users.by_email(email)

    def list_users(self) -> list[User]:
        """See `JobRepository`."""
        return self.users.list()

    def update_user_active_status(self, user_id: str, is_active: bool) -> User:
        """See `JobRepository`."""
        return self.users.set_active(user_id, is_active)

    def create_api_key(self, key: APIKey) -> APIKey:
        """See `JobRepository`."""
        return self.keys.create(key)

    def get_api_key_by_hash(self, key_hash: str) -> APIKey | None:
        """See `JobRepository`."""
        return self.keys.by_hash(key_hash)

    def list_api_keys(self, user_id: str | None = None) -> list[APIKey]:
        """See `JobRepository`."""
        return self.keys.list(user_id)

    def revoke_api_key(self, key_id: str) -> APIKey:
        """See `JobRepository`."""
        return self.keys.revoke(key_id)

    def update_api_key_last_used(self, key_id: str, moment: dt.datetime) -> None:
        """See `JobRepository`."""
        self.keys.touch(key_id, moment)

    def _require_changed(self, changed: bool, job_id: str) -> None:
        if changed:
            return
        job = self.jobs.get(job_id)
        if job is None:
            raise NotFound("Job not found", job_id)
        raise Conflict(f"Job is already {job.status}")
