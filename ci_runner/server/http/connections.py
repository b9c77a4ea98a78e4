"""Limit connections per address and in total, by closing those that do nothing.

A connection is idle if it has no request, or only an unfinished request without a known key. If an address has too
many connections, its oldest idle one is closed; if there are too many in total, the oldest idle one of the address
with the most idle ones. So a client that floods the runner displaces only itself. A new connection is turned away
only if none is idle: its requests are answered with 429 or 503, except for `/health`.
"""

from __future__ import annotations

from typing import Final, Protocol

from ci_runner.server.http.refusals import Refusal, busy, too_many

_RETRY: Final = 5


class Connection(Protocol):
    """The state of one connection."""

    #: The client's address as `network_of` returns it; None for a trusted proxy.
    network: str | None
    #: Time of its last useful work: it was opened, or a request was answered.
    useful_at: float
    #: The response to its requests if there was no room for it.
    turned_away: Refusal | None

    def is_idle(self) -> bool:
        """Return whether closing it interrupts no work."""

    def drop(self) -> None:
        """Close it at once."""


class Connections:
    """All connections; for the I/O thread only."""

    def __init__(self, most: int, per_network: int) -> None:
        self.most = most
        self._per_network = per_network
        self._all: dict[str | None, dict[Connection, None]] = {}
        self._count = 0
        self._dropping: list[Connection] = []

    def opened(self, connection: Connection) -> None:
        """Count a new connection; if there are too many, choose one to close or turn the new one away."""
        group = self._all.setdefault(connection.network, {})
        group[connection] = None
        self._count += 1
        if connection.network is not None and len(group) > self._per_network:
            if not self._displace([item for item in group if item is not connection]):
                text = f"Your address has {self._per_network} connections open, which is the most for one address"
                connection.turned_away = too_many(text, _RETRY)
        elif self._count > self.most and not self.make_room(connection):
            connection.turned_away = busy("All connections of the runner are in use", _RETRY)

    def closed(self, connection: Connection) -> None:
        """Stop counting a connection."""
        group = self._all.get(connection.network, {})
        if connection in group:
            del group[connection]
            self._count -= 1
            if not group:
                del self._all[connection.network]

    def make_room(self, besides: Connection | None = None) -> bool:
        """Choose an idle connection of the address with the most idle ones; False if there is none."""
        groups = ([item for item in group if item is not besides] for group in self._all.values())
        idle = [[item for item in group if item.is_idle() and item not in self._dropping] for group in groups]
        return self._displace(max(idle, key=len, default=[]))

    def drop_chosen(self) -> None:
        """Close the chosen connections; not while events of this turn still refer to their descriptors."""
        chosen, self._dropping = self._dropping, []
        for connection in chosen:
            if connection.is_idle():
                connection.drop()

    def __len__(self) -> int:
        return self._count

    def _displace(self, candidates: list[Connection]) -> bool:
        idle = [item for item in candidates if item.is_idle() and item not in self._dropping]
        if not idle:
            return False
        self._dropping.append(min(idle, key=lambda item: item.useful_at))
        return True
