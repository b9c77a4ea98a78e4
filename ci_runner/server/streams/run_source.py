"""The events of a whole run: those of all its jobs, each with its job, and its own, resumable by one number."""

from __future__ import annotations

from ci_runner.model.job import format_time
from ci_runner.server.parameters import View
from ci_runner.server.streams.source import Source, frame, is_visible
from ci_runner.store import Store


class RunSource(Source):
    """The events of one run."""

    def __init__(self, store: Store, run_id: str, cursor: int, view: View) -> None:
        """See `Source`."""
        super().__init__(run_id, cursor, view)
        self._store = store

    def _read(self, frames: list[bytes], budget: int) -> bool:
        items = self._store.feed.after(self.subject, self._cursor, max_bytes=budget)
        for item in items:
            self._cursor = item.seq
            self.done = self.done or item.event.type == "run_complete"
            if item.job_id is None or is_visible(item.event, self._view):
                frames.append(frame(item.to_dict(), item.seq))
        return bool(items)

    def _ending(self) -> list[bytes] | None:
        run = self._store.runs.get(self.subject)
        end = {"type": "run_complete", "run_id": self.subject}
        if run is None:
            lost = {"status": "failed", "success": False, "reason": "the run was deleted"}
            return [frame(end | lost)]
        if not run.is_over:
            return None
        # The client already has its last event.
        verdict = {"status": run.status, "success": run.success is True, "reason": run.reason}
        return [frame(end | verdict | {"timestamp": format_time(run.end_time)})]
