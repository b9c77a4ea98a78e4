"""The place of a waiting job in the queue, for its stream: computed for who listens, never stored."""

from __future__ import annotations

import math
import time
from typing import Final

from ci_runner.model.job import format_time, utcnow
from ci_runner.server.resources.waiting import reason_to_wait
from ci_runner.server.streams.source import frame
from ci_runner.store import Store

#: Seconds between two looks at a place: near the front, where it matters to who watches, and farther behind.
_NEAR: Final = 2.0
_FAR: Final = 15.0
_FRONT: Final = 10


class Place:
    """Frames with a waiting job's place, each time that it has changed."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store = store
        self._job_id = job_id
        self._sent: tuple[int | None, str | None] | None = None
        self._next = -math.inf
        #: Seconds until the next look; infinite once the job does not wait any more.
        self.look_again = 0.0

    def changes(self) -> list[bytes]:
        """Return a `state` frame without a number if the place, or the reason to wait, has changed."""
        now = time.monotonic()
        if now < self._next:
            self.look_again = self._next - now
            return []
        job = self._store.get_job(self._job_id, events=False)
        if job is None or job.is_over or job.phase != "queued":
            self.look_again = math.inf
            return []
        is_near = job.queue_position is None or job.queue_position <= _FRONT
        self.look_again = _NEAR if is_near else _FAR
        self._next = now + self.look_again
        state = (job.queue_position, reason_to_wait(self._store))
        if state == self._sent or job.cancel_requested_at is not None:
            return []
        self._sent = state
        fields: dict[str, object] = {"type": "state", "phase": "queued"}
        if state[0] is not None:
            fields["queue_position"] = state[0]
        if state[1] is not None:
            fields["detail"] = state[1]
        return [frame(fields | {"timestamp": format_time(utcnow())})]
