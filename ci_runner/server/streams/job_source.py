"""The events of one job, for its stream."""

from __future__ import annotations

import json
import math
from typing import Final

from ci_runner.model.job import Job, format_time, utcnow
from ci_runner.server.parameters import View
from ci_runner.server.streams.place import Place
from ci_runner.server.streams.source import Source, belongs, frame, framed
from ci_runner.store import Sendable, Store

_ALREADY_COMPLETED: Final = "Job already completed.\n"


class JobSource(Source):
    """The events of one job."""

    def __init__(
        self, store: Store, job_id: str, cursor: int, view: View, first: tuple[bytes, ...] = ()
    ) -> None:
        """See `Source`."""
        super().__init__(job_id, cursor, view, first)
        self._store = store
        self._place = Place(store, job_id) if view != "log" else None

    def _at_the_end(self) -> list[bytes]:
        frames = super()._at_the_end()
        if frames or self._place is None:
            return frames
        frames = self._place.changes()
        self.look_again = self._place.look_again
        if math.isinf(self.look_again):
            self._place = None
        return frames

    def _read(self, frames: list[bytes], budget: int) -> bool:
        events = self._store.events.sendable(self.subject, self._cursor, max_bytes=budget)
        for event in events:
            self._cursor = event.seq
            self.done = self.done or event.type == "complete"
            if self._shows(event):
                frames.append(framed(event.text, event.seq))
        return bool(events)

    def _shows(self, event: Sendable) -> bool:
        """Return the same as `is_visible`, but parse the event only if necessary."""
        return belongs(event.type, self._view, lambda: json.loads(event.text).get("stream"))

    def _ending(self) -> list[bytes] | None:
        job = self._store.get_job(self.subject, events=False)
        if job is None:
            lost = {"type": "complete", "success": False, "status": "failed", "exit_code": None}
            lost["reason"] = "the job was deleted"
            return [frame({"type": "log", "data": "Job disappeared.\n", "stream": "runner"}), frame(lost)]
        if not job.is_over:
            return None
        last = self._store.events.after(self.subject, job.last_seq - 1)
        if last and last[-1].type == "complete":
            return [frame(last[-1].to_dict(), last[-1].seq)]
        return [frame(_complete_of(job))]


def already_completed(job: Job) -> bytes:
    """Return the frame for a client that wants only new events of a job that is over; `complete` follows."""
    log = {"type": "log", "data": _ALREADY_COMPLETED, "stream": "runner"}
    return frame(log | {"timestamp": format_time(job.end_time)})


def _complete_of(job: Job) -> dict[str, object]:
    """Return a `complete` event made from a job that is over, for a job without a stored one."""
    data: dict[str, object] = {"type": "complete", "success": job.success is True, "status": job.status}
    data |= {
        "exit_code": job.exit_code,
        "reason": job.reason,
        "timestamp": format_time(job.end_time or utcnow()),
    }
    return data | {"cancelled": True} if job.status == "cancelled" else data
