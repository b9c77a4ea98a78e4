"""Whether the engine answers, for the log, for `/ready` and for the users of waiting jobs."""

from __future__ import annotations

import datetime as dt
import logging

from ci_runner.errors import TemporaryError
from ci_runner.store import Store

_log = logging.getLogger(__name__)


class EngineState:
    """Logs and stores once that the engine stopped answering, and that it answers again."""

    def __init__(self, store: Store, epoch: int) -> None:
        self._store = store
        self._epoch = epoch
        self._silent_since: dt.datetime | None = None
        #: What the store has.
        self._stored: dt.datetime | None = None

    def note(self, now: dt.datetime, *, answers: bool) -> bool:
        """Note whether the engine answers; return whether that changed. Raises `LeaseLost`."""
        changed = answers == (self._silent_since is not None)
        if changed and answers:
            _log.warning("the engine answers again, after %d s", self._seconds(now))
            self._silent_since = None
        elif changed:
            _log.warning("the engine does not answer; trying again")
            self._silent_since = now
        if self._stored != self._silent_since:
            self._save()
        return changed

    def _seconds(self, now: dt.datetime) -> int:
        return int((now - self._silent_since).total_seconds()) if self._silent_since is not None else 0

    def _save(self) -> None:
        try:
            self._store.lease.set_engine_silent(self._epoch, self._silent_since)
        except TemporaryError:  # the next tick tries again
            return
        self._stored = self._silent_since
