"""Which controller may write: a row with an epoch that grows with every holder.

The lock that keeps a second controller from starting is a file lock, taken elsewhere; the epoch is what stops
one that was suspended, lost its lock and wakes up: its writes touch nothing.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from ci_runner.errors import LeaseLost
from ci_runner.model.job import utcnow
from ci_runner.store.database import Database
from ci_runner.store.schema import LeaseRow


@dataclass(frozen=True)
class LeaseState:
    """Who holds the lease; epoch 0 means that nobody ever did."""

    epoch: int = 0
    #: Words for people: host, process, start.
    holder: str | None = None
    acquired_at: dt.datetime | None = None
    heartbeat_at: dt.datetime | None = None


class Lease:
    """`store.lease`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, holder: str) -> int:
        """Become the one that writes; returns the new epoch. Whoever held the lease gets `LeaseLost` from now
        on.
        """
        now = utcnow()
        with self._database.write():
            self._database.run(
                LeaseRow.update(epoch=LeaseRow.epoch + 1, holder=holder, acquired_at=now, heartbeat_at=now)
            )
            self._database.must_checkpoint = True  # whoever had the lease before may have owed it
            return int(self._database.scalar(LeaseRow.select(LeaseRow.epoch)))

    def heartbeat(self, epoch: int) -> None:
        """Say that the holder of `epoch` lives, and tidy the write-ahead log, which is the holder's to do.

        Raises `LeaseLost` when there is a newer epoch. To be called every few seconds.
        """
        with self._database.write(durable=False):
            self.require(epoch)
            self._database.run(LeaseRow.update(heartbeat_at=utcnow()))
        self._database.checkpoint()

    def read(self) -> LeaseState:
        """The lease as it is now."""
        row = self._database.first(LeaseRow.select())
        assert row is not None, "made by the first migration"
        return LeaseState(row["epoch"], row["holder"], row["acquired_at"], row["heartbeat_at"])

    def require(self, epoch: int | None) -> None:
        """Inside a transaction: raise `LeaseLost` unless `epoch` is the present one.

        None is not checked: `JobRepository` knows no lease. A controller always passes its epoch.

        The write lock is held, so nobody can acquire the lease before the transaction ends.
        """
        if epoch is None:
            return
        present = self._database.scalar(LeaseRow.select(LeaseRow.epoch))
        if present != epoch:
            raise LeaseLost(f"the lease of epoch {epoch} is lost: the present epoch is {present}")
