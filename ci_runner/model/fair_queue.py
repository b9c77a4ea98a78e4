"""Order of the queue: users take turns, so that nothing waits behind another user's hundred jobs.

A pure function of the waiting jobs and past turns. The controller starts jobs in this order, and the store derives
queue positions from it. How many jobs may run at once is decided elsewhere.
"""

from __future__ import annotations

import datetime as dt
import heapq
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ci_runner.model.job import Job
from ci_runner.settings.groups import PRIORITY_RANK

_LONG_AGO: Final = dt.datetime.min.replace(tzinfo=dt.timezone.utc)


def fair_order(
    jobs: Iterable[Job],
    served: Mapping[str, dt.datetime],
    running: Mapping[str, int] | None = None,
) -> list[Job]:
    """Return the waiting `jobs`, the next to start first.

    Priority comes first. Within a priority, the next job is of the user with the fewest jobs taken up (`running`:
    user id → number, as from `running_per_user`), then of the one served longest ago (`served`: user id → when a job
    of their jobs was last started; missing users were never served), then of the one with the job that has waited
    longest. Within a user, submission order decides. Each placed job counts as taken up for the places after it, so
    the order is the real one if all jobs run equally long. All `jobs` are ordered, in any phase.
    """
    users: dict[str, _Turns] = {}
    levels: dict[int, dict[str, deque[Job]]] = {}
    for job in sorted(jobs, key=_submission):
        name = job.user_id or ""
        if name not in users:
            users[name] = _Turns((running or {}).get(name, 0), served.get(name, _LONG_AGO))
        levels.setdefault(PRIORITY_RANK[job.priority], {}).setdefault(name, deque()).append(job)
    order: list[Job] = []
    for _, waiting in sorted(levels.items()):
        heap = [(users[name].key, _submission(queue[0]), name) for name, queue in waiting.items()]
        heapq.heapify(heap)
        while heap:
            _, _, name = heapq.heappop(heap)
            queue = waiting[name]
            order.append(queue.popleft())
            users[name].add_turn(len(order))
            if queue:
                heapq.heappush(heap, (users[name].key, _submission(queue[0]), name))
    return order


def running_per_user(jobs: Iterable[Job]) -> dict[str, int]:
    """Return user id → number of open `jobs` taken up; jobs with an environment being built do not count."""
    count: dict[str, int] = {}
    for job in jobs:
        if not job.is_over and job.phase != "queued" and not job.building:
            count[job.user_id or ""] = count.get(job.user_id or "", 0) + 1
    return count


@dataclass
class _Turns:
    """A user's progress while an order is made."""

    taken: int
    served: dt.datetime
    #: The user's last place in the order: later than anything in `served`.
    place: int = field(default=0)

    @property
    def key(self) -> tuple[int, int, dt.datetime]:
        return (self.taken, self.place, self.served)

    def add_turn(self, place: int) -> None:
        self.taken += 1
        self.place = place


def _submission(job: Job) -> tuple[dt.datetime, str]:
    return (job.submitted_at or _LONG_AGO, job.id)
