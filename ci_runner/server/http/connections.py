"""Which connections may stay: bounded per address and in all, at the cost of those that do nothing.

A connection is idle while it holds nothing but an unfinished request that no key vouches for, or no request at all.
When an address has too many, its oldest idle one goes; when there are too many in all, the oldest idle one of the
address with the most idle ones. So whoever floods the runner displaces himself, and there is room for one more. Only
where nothing is idle a new connection is turned away: its requests are answered 429 or 503, unless for `/health`.
"""

from __future__ import annotations

from typing import Final, Protocol

from ci_runner.server.http.refusals import Refusal, busy, too_many

_RETRY: Final = 5


class Connection(Protocol):
    """What is known of one connection."""

    #: The client's address, as `network_of` has it; None: a trusted proxy.
    network: str | None
    #: When it last did something useful: it was opened, or a request was answered.
    useful_at: float
    #: What its requests are answered with, when there was no room for it.
    turned_away: Refusal | None

    def is_idle(self) -> bool:
        """Whether closing it harms no work."""

    def drop(self) -> None:
        """Close it at once."""


class Connections:
    """All connections; the I/O thread only."""

    def __init__(self, most: int, per_network: int) -> None:
        self.most = most
        self._per_network = per_network
        self._all: dict[str | None, dict[Connection, None]] = {}
        self._count = 0
        self._dropping: list[Connection] = []

    def opened(self, connection: Connection) -> None:
        """Count a new connection, and choose who goes for it."""
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
        """Count it no more."""
        group = self._all.get(connection.network, {})
        if connection in group:
            del group[connection]
            self._count -= 1
            if not group:
                del self._all[connection.network]

    def make_room(self, besides: Connection | None = None) -> bool:
        """Choose an idle connection of the address with the most of them; False when there is none."""
        groups = ([item for item in group if item is not besides] for group in self._all.values())
        idle = [[item for item in group if item.is_idle() and item not in self._dropping] for group in groups]
        return self._displace(max(idle, key=len, default=[]))

    def drop_chosen(self) -> None:
        """Close those that were chosen; not while events of this turn still name their descriptors."""
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
