"""Limits on concurrent use of the runner, per user and in total.

Each stream occupies a thread, so streams are limited in number and ordinary requests always find a thread. All counts
are in memory and per server process; the length of the queue is read from the store.
"""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Final

import falcon

from ci_runner.errors import StorageFull, TemporaryError, TooManyRequests
from ci_runner.server.context import Services
from ci_runner.server.http.addresses import network_of
from ci_runner.server.http.auth import caller_of

#: Seconds that a client should wait before the next try.
STREAM_RETRY: Final = 5
QUEUE_RETRY: Final = 30
RECEIVE_RETRY: Final = 2


class Slot:
    """The right to one stream; `close` releases it and may be called twice."""

    def __init__(self, slots: StreamSlots, user_id: str, network: str) -> None:
        self._slots: StreamSlots | None = slots
        self._user_id = user_id
        self._network = network

    def close(self) -> None:
        """Release the slot."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots._release(self._user_id, self._network)

    def __enter__(self) -> Slot:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class StreamSlots:
    """Counts open streams."""

    def __init__(self, total: int, per_user: int, per_network: int) -> None:
        self._total = total
        self._per_user = per_user
        self._per_network = per_network
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()
        self._networks: Counter[str] = Counter()

    def acquire(self, user_id: str, network: str) -> Slot:
        """Return a slot; raises `TooManyRequests` (the user's or address's limit) or `TemporaryError` (the total)."""
        with self._lock:
            if self._networks[network] >= self._per_network:
                text = f"Your address has {self._per_network} event streams open, which is the most for one address"
                raise TooManyRequests(text, retry_after=STREAM_RETRY)
            if self._open[user_id] >= self._per_user:
                text = f"You have {self._per_user} event streams open, which is the most for one user"
                raise TooManyRequests(text, retry_after=STREAM_RETRY)
            if self._open.total() >= self._total:
                raise TemporaryError("All event streams of the runner are in use", retry_after=STREAM_RETRY)
            self._open[user_id] += 1
            self._networks[network] += 1
        return Slot(self, user_id, network)

    def __len__(self) -> int:
        with self._lock:
            return self._open.total()

    def _release(self, user_id: str, network: str) -> None:
        with self._lock:
            for counter, key in ((self._open, user_id), (self._networks, network)):
                counter[key] -= 1
                if not counter[key]:
                    del counter[key]


def acquire_slot(slots: StreamSlots, req: falcon.Request) -> Slot:
    """Return a slot for the caller of `req` and stop counting the request as an ordinary one.

    Raises as `StreamSlots.acquire` does.
    """
    slot = slots.acquire(caller_of(req).user.id, network_of(req.remote_addr))
    req.env.get("ci_runner.detach", lambda: None)()
    return slot


def check_queue(services: Services, user_id: str) -> None:
    """Raise `TooManyRequests` if the user has the maximum number of waiting jobs."""
    limit = services.serve.max_queued_per_user
    if services.store.jobs.count_waiting(user_id) >= limit:
        raise TooManyRequests(
            f"You have {limit} jobs waiting, which is the most for one user", retry_after=QUEUE_RETRY
        )


def check_disk(services: Services, needed: int) -> None:
    """Raise `StorageFull` if `needed` more bytes would use the disk reserve."""
    if services.blobs.free_bytes() - needed < services.storage.disk_reserve:
        raise StorageFull("The runner's disk is full; nothing was stored", retry_after=QUEUE_RETRY)
