"""Users, and how they go: at once for everybody who asks, completely as soon as nothing of theirs runs.

Deleting leaves a tombstone, because files and running containers cannot go within a transaction: the
controller ends what runs, removes the user's files, and then purges the tombstone.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass

import peewee

from ci_runner.errors import Conflict, NotFound
from ci_runner.model.job import Job, User, utcnow
from ci_runner.store.database import Database
from ci_runner.store.jobs import Jobs
from ci_runner.store.schema import GrantRow, JobRow, KeyRow, RunRow, UserRow
from pytest_remote_ci.wire.protocol import Priority

_COLUMNS = tuple(getattr(UserRow, name) for name in User.__dataclass_fields__)


@dataclass(frozen=True)
class Deletion:
    """What `Users.delete` did."""

    user: User
    #: Jobs that were over: their rows and events are gone.
    deleted: tuple[Job, ...]
    #: How many jobs were still waiting or running: they are being cancelled.
    cancelling: int


class Users:
    """`store.users`."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        self._jobs = jobs

    def create(self, user: User) -> User:
        """Store a new user; a known id or an e-mail address in use (whatever its case) raises `Conflict`."""
        with self._database.write():
            try:
                self._database.insert(
                    UserRow.insert(
                        id=user.id, name=user.name, email=user.email, email_key=email_key(user.email),
                        created_at=user.created_at, is_active=user.is_active, priority_cap=user.priority_cap,
                    )
                )  # fmt: skip
            except peewee.IntegrityError as error:
                raise Conflict(f"User with email {user.email} already exists") from error
        return user

    def get(self, user_id: str) -> User | None:
        """The user, or None."""
        return self._find(UserRow.id == user_id)

    def by_email(self, email: str) -> User | None:
        """The user with that address, whatever its case, or None."""
        return self._find(UserRow.email_key == email_key(email))

    def list(self) -> builtins.list[User]:
        """All users, newest first."""
        query = UserRow.select(*_COLUMNS).where(UserRow.deleted_at.is_null())
        return [
            User(**row) for row in self._database.rows(query.order_by(UserRow.created_at.desc(), UserRow.id))
        ]

    def set_active(self, user_id: str, is_active: bool) -> User:
        """Switch the user, and with it all its keys, on or off; `NotFound` for an unknown one."""
        return self._change(user_id, is_active=is_active)

    def set_cap(self, user_id: str, priority_cap: Priority) -> User:
        """Change the most that the user's jobs may ask for; `NotFound` for an unknown one."""
        return self._change(user_id, priority_cap=priority_cap)

    def delete(self, user_id: str, by: str = "an administrator") -> Deletion:
        """Take the user out: keys, grants and jobs that are over go now, other jobs are cancelled (in the
        name of `by`).

        From the moment of return the user cannot be found; its files go when the controller has seen
        `deleted`. Raises `NotFound` for an unknown user.
        """
        now = utcnow()
        with self._database.write():
            user = self.get(user_id)
            if user is None:
                raise NotFound(f"User not found: {user_id}")
            deleted = self._jobs.delete_of_user(user_id)
            left = JobRow.user_id == user_id
            self._database.run(
                JobRow.update(cancel_requested_at=now, cancelled_by=by).where(
                    left, JobRow.cancel_requested_at.is_null()
                )
            )
            self._database.run(
                RunRow.delete().where(RunRow.user_id == user_id, RunRow.end_time.is_null(False))
            )
            self._database.run(
                RunRow.update(cancel_requested_at=now, cancelled_by=by, version=RunRow.version + 1).where(
                    RunRow.user_id == user_id
                )
            )
            cancelling = int(self._database.scalar(JobRow.select(peewee.fn.COUNT(JobRow.id)).where(left)))
            self._database.run(KeyRow.delete().where(KeyRow.user_id == user_id))
            self._database.run(GrantRow.delete().where(GrantRow.user_id == user_id))
            self._database.run(
                UserRow.update(name="", email="", email_key=None, is_active=False, deleted_at=now).where(
                    UserRow.id == user_id
                )
            )
        return Deletion(user, tuple(deleted), cancelling)

    def deleted(self) -> builtins.list[str]:
        """Ids of deleted users of whom something may be left: files, or jobs that are being cancelled."""
        query = UserRow.select(UserRow.id).where(UserRow.deleted_at.is_null(False))
        return [row["id"] for row in self._database.rows(query.order_by(UserRow.deleted_at))]

    def purge(self, user_id: str) -> bool:
        """Forget a deleted user whose files are gone; False while one of its jobs is not over, or is not
        cleaned.

        An unknown user counts as purged; one that was not deleted raises `Conflict`.
        """
        with self._database.write():
            row = self._database.first(UserRow.select(UserRow.deleted_at).where(UserRow.id == user_id))
            if row is None:
                return True
            if row["deleted_at"] is None:
                raise Conflict(f"User {user_id} is not deleted")
            busy = JobRow.select(JobRow.id).where(JobRow.user_id == user_id, JobRow.cleaned_at.is_null())
            if self._database.first(busy) is not None:
                return False
            self._database.run(UserRow.delete().where(UserRow.id == user_id))  # the rest cascades
            self._database.must_checkpoint = True
        return True

    def _find(self, condition: peewee.Expression) -> User | None:
        row = self._database.first(UserRow.select(*_COLUMNS).where(condition, UserRow.deleted_at.is_null()))
        return User(**row) if row else None

    def _change(self, user_id: str, **changes: object) -> User:
        with self._database.write():
            changed = self._database.run(
                UserRow.update(**changes).where(UserRow.id == user_id, UserRow.deleted_at.is_null())
            )
            user = self.get(user_id)
        if not changed or user is None:
            raise NotFound(f"User not found: {user_id}")
        return user


def email_key(email: str) -> str:
    """What makes two e-mail addresses the same."""
    return email.strip().casefold()
