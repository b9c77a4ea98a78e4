"""Users, and their deletion: effective at once, complete as soon as none of their jobs runs.

Deletion leaves a tombstone, because files and running containers cannot be removed within a transaction: the
controller ends running jobs, removes the user's files, and then purges the tombstone.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import NamedTuple

import peewee

from ci_runner.errors import Conflict, NotFound
from ci_runner.model.job import Job, User, utcnow
from ci_runner.store.database import Database
from ci_runner.store.jobs import Jobs
from ci_runner.store.rows import Id, StoredUser, UserDeletion
from ci_runner.store.schema import GrantRow, JobRow, KeyRow, RunRow, UserRow
from pytest_remote_ci.wire.protocol import Priority


class _Inactive(NamedTuple):
    id: str


_COLUMNS = tuple(getattr(UserRow, name) for name in User.__dataclass_fields__)


@dataclass(frozen=True)
class Deletion:
    """The result of `Users.delete`."""

    user: User
    #: Jobs that were over: their rows and events are deleted.
    deleted: tuple[Job, ...]
    #: How many jobs were still waiting or running and are being cancelled.
    cancelling: int


class Users:
    """Stored users (`store.users`)."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        self._jobs = jobs
        off = UserRow.select(UserRow.id).where(UserRow.is_active == False)  # noqa: E712  # an expression of peewee's
        self._off = database.compiled(off)  # a query of every tick

    def create(self, user: User) -> User:
        """Store a new user; return it as stored.

        A known id or an e-mail address in use (ignoring case) raises `Conflict`.
        """
        with self._database.write():
            try:
                self._database.insert(
                    UserRow.insert(
                        id=user.id,
                        name=user.name,
                        email=user.email,
                        email_key=email_key(user.email),
                        created_at=user.created_at,
                        is_active=user.is_active,
                        priority_cap=user.priority_cap,
                    )
                )
            except peewee.IntegrityError as error:
                raise Conflict(f"User with email {user.email} already exists") from error
            return self._require(user.id)

    def get(self, user_id: str) -> User | None:
        """Return the user, or None."""
        return self._find(UserRow.id == user_id)

    def by_email(self, email: str) -> User | None:
        """Return the user with that address (ignoring case), or None."""
        return self._find(UserRow.email_key == email_key(email))

    def list(self) -> builtins.list[User]:
        """Return all users, newest first."""
        query = UserRow.select(*_COLUMNS).where(UserRow.deleted_at.is_null())
        query = query.order_by(UserRow.created_at.desc(), UserRow.id)
        return [User(**row) for row in self._database.rows(query, StoredUser)]

    def set_active(self, user_id: str, is_active: bool) -> User:
        """Switch the user, with all its keys, on or off; `NotFound` if unknown.

        The controller cancels the waiting jobs of a user that is off (see `inactive`); others go on.
        """
        return self._change(user_id, is_active=is_active)

    def inactive(self) -> frozenset[str]:
        """Return the ids of the users that are switched off."""
        return frozenset(row.id for row in map(_Inactive._make, self._database.sql(*self._off)))

    def cancel_all(self, user_id: str, by: str) -> int:
        """Cancel all jobs and runs of a user, in the name of `by`; return how many jobs are being cancelled."""
        with self._database.write():
            return self._cancel_inside(user_id, by)

    def _cancel_inside(self, user_id: str, by: str) -> int:
        now = utcnow()
        going = (JobRow.user_id == user_id) & JobRow.end_time.is_null()
        self._database.run(
            JobRow.update(cancel_requested_at=now, cancelled_by=by).where(
                going, JobRow.cancel_requested_at.is_null()
            )
        )
        self._database.run(
            RunRow.update(cancel_requested_at=now, cancelled_by=by, version=RunRow.version + 1).where(
                RunRow.user_id == user_id, RunRow.end_time.is_null(), RunRow.cancel_requested_at.is_null()
            )
        )
        return self._database.integer(JobRow.select(peewee.fn.COUNT(JobRow.id)).where(going))

    def set_cap(self, user_id: str, priority_cap: Priority) -> User:
        """Change the highest priority that the user's jobs may have; `NotFound` if unknown."""
        return self._change(user_id, priority_cap=priority_cap)

    def delete(self, user_id: str, by: str = "an administrator") -> Deletion:
        """Delete a user: keys, grants and ended jobs at once; other jobs are cancelled (in the name of `by`).

        When this returns, the user cannot be found any more; its files are removed when the controller has read
        `deleted`. Raises `NotFound` if the user is unknown.
        """
        now = utcnow()
        with self._database.write():
            user = self._require(user_id)
            deleted = self._jobs.delete_of_user(user_id)
            self._database.run(
                RunRow.delete().where(RunRow.user_id == user_id, RunRow.end_time.is_null(False))
            )
            cancelling = self._cancel_inside(user_id, by)
            self._database.run(KeyRow.delete().where(KeyRow.user_id == user_id))
            self._database.run(GrantRow.delete().where(GrantRow.user_id == user_id))
            self._database.run(
                UserRow.update(name="", email="", email_key=None, is_active=False, deleted_at=now).where(
                    UserRow.id == user_id
                )
            )
        return Deletion(user, tuple(deleted), cancelling)

    def deleted(self) -> builtins.list[str]:
        """Return ids of deleted users that may still have files, or jobs that are being cancelled."""
        query = UserRow.select(UserRow.id).where(UserRow.deleted_at.is_null(False))
        return [row["id"] for row in self._database.rows(query.order_by(UserRow.deleted_at), Id)]

    def purge(self, user_id: str) -> bool:
        """Purge a deleted user after its files are removed; False while a job is not over or not cleaned.

        An unknown user counts as purged; a user that was not deleted raises `Conflict`.
        """
        with self._database.write():
            row = self._database.first(
                UserRow.select(UserRow.deleted_at).where(UserRow.id == user_id), UserDeletion
            )
            if row is None:
                return True
            if row["deleted_at"] is None:
                raise Conflict(f"User {user_id} is not deleted")
            busy = JobRow.select(JobRow.id).where(JobRow.user_id == user_id, JobRow.cleaned_at.is_null())
            if self._database.first(busy, Id) is not None:
                return False
            self._database.run(UserRow.delete().where(UserRow.id == user_id))  # other tables cascade
            self._database.must_checkpoint = True
        return True

    def _find(self, condition: peewee.Expression) -> User | None:
        row = self._database.first(
            UserRow.select(*_COLUMNS).where(condition, UserRow.deleted_at.is_null()), StoredUser
        )
        return User(**row) if row else None

    def _change(self, user_id: str, **changes: object) -> User:
        with self._database.write():
            changed = self._database.run(
                UserRow.update(**changes).where(UserRow.id == user_id, UserRow.deleted_at.is_null())
            )
            if not changed:
                raise NotFound("User not found", user_id)
            return self._require(user_id)

    def _require(self, user_id: str) -> User:
        user = self.get(user_id)
        if user is None:
            raise NotFound("User not found", user_id)
        return user


def email_key(email: str) -> str:
    """Return the form of an e-mail address by which two addresses are compared."""
    return email.strip().casefold()
