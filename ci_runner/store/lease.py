"""The lease: a row with an epoch that grows with every holder, to decide which controller may write.

A file lock, taken elsewhere, keeps a second controller from starting. The epoch stops a controller that was
suspended, lost its lock and wakes up: its writes change nothing.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from ci_runner.errors import LeaseLost
from ci_runner.model.job import utcnow
from ci_runner.store.database import Database
from ci_runner.store.rows import StoredLease
from ci_runner.store.schema import LeaseRow


@dataclass(frozen=True)
class LeaseState:
    """The present holder of the lease; epoch 0 means that it was never held."""

    epoch: int = 0
    #: For display: host, process, start.
    holder: str | None = None
    acquired_at: dt.datetime | None = None
    heartbeat_at: dt.datetime | None = None
    #: Since when the engine does not answer the holder; None if it does.
    engine_silent_since: dt.datetime | None = None


class Lease:
    """The stored lease (`store.lease`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def acquire(self, holder: str) -> int:
        """Take the lease and return the new epoch; the previous holder gets `LeaseLost` from now on."""
        now = utcnow()
        with self._database.write():
            self._database.run(
                LeaseRow.update(
                    epoch=LeaseRow.epoch + 1,
                    holder=holder,
                    acquired_at=now,
                    heartbeat_at=now,
                    engine_silent_since=None,
                )
            )
            self._database.must_checkpoint = True  # the previous holder may have left a due checkpoint
            return self._database.integer(LeaseRow.select(LeaseRow.epoch))

    def heartbeat(self, epoch: int) -> None:
        """Store that the holder of `epoch` is alive, and checkpoint the write-ahead log (the holder's duty).

        Call this every few seconds. Raises `LeaseLost` if there is a newer epoch.
        """
        with self._database.write(durable=False):
            self.require(epoch)
            self._database.run(LeaseRow.update(heartbeat_at=utcnow()))
        self._database.checkpoint()

    def set_engine_silent(self, epoch: int, since: dt.datetime | None) -> None:
        """Store since when the engine does not answer, or None if it does. Raises `LeaseLost`."""
        with self._database.write(durable=False):
            self.require(epoch)
            self._database.run(LeaseRow.update(engine_silent_since=since))

    def read(self) -> LeaseState:
        """Return the present lease."""
        row = self._database.first(LeaseRow.select(), StoredLease)
        assert row is not None, "made by the first migration"
        return LeaseState(
            row["epoch"], row["holder"], row["acquired_at"], row["heartbeat_at"], row["engine_silent_since"]
        )

    def require(self, epoch: int | None) -> None:
        """Raise `LeaseLost`, inside a transaction, unless `epoch` is the present one.

        None is not checked: `JobRepository` has no lease. A controller always passes its epoch. As the write lock is
        held, the lease cannot change hands before the transaction ends.
        """
        if epoch is None:
            return
        present = self._database.integer(LeaseRow.select(LeaseRow.epoch))
        if present != epoch:
            raise LeaseLost(f"the lease of epoch {epoch} is lost: the present epoch is {present}")
