"""The stream of a whole run: the tagged events of all its jobs, and its own, resumable by one number."""

from __future__ import annotations

import time
from typing import Final

from ci_runner.model.job import format_time
from ci_runner.server.parameters import View
from ci_runner.server.streams.job_stream import frame, is_visible
from ci_runner.store import Store

#: Seconds between looks at a silent run: its end is an event, so only a deletion is found this way.
_LOOK_EVERY: Final = 5.0


class RunSource:
    """The events of one run after a cursor; see `job_stream.Source`. For one thread only."""

    def __init__(self, store: Store, run_id: str, cursor: int, view: View) -> None:
        self.done = False
        self._store = store
        self._run_id = run_id
        self._cursor = cursor
        self._view = view
        self._looked = -_LOOK_EVERY

    def pull(self, budget: int) -> list[bytes]:
        """See `Source`."""
        frames: list[bytes] = []
        while not frames and not self.done:
            items = self._store.feed.after(self._run_id, self._cursor, max_bytes=budget)
            if not items:
                return self._at_the_end()
            for item in items:
                self._cursor = item.seq
                self.done = self.done or item.event.type == "run_complete"
                if item.job_id is None or is_visible(item.event, self._view):
                    frames.append(frame(item.to_dict(), item.seq))
        return frames

    def _at_the_end(self) -> list[bytes]:
        """Handle the end of the stored events: wait, unless the run is over or deleted."""
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return []
        self._looked = now
        run = self._store.runs.get(self._run_id)
        if run is not None and not run.is_over:
            return []
        self.done = True
        lost = {"status": "failed", "success": False, "reason": "the run was deleted"}
        if run is not None:  # the client already has its last event
            lost = {"status": run.status, "success": run.success is True, "reason": run.reason}
        moment = {} if run is None else {"timestamp": format_time(run.end_time)}
        return [frame({"type": "run_complete", "run_id": self._run_id, **lost, **moment})]
