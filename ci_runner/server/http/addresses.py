"""Identify clients without a valid key: client addresses, trusted proxies, and wrong keys counted per address.

An IPv6 client owns at least a /64, so all addresses of one /64 count as one. Behind a reverse proxy, the address is
the one that the proxy forwards; `X-Forwarded-For` is used only from proxies that the operator names.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from ci_runner.errors import SettingsError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Maximum number of proxies followed in one chain.
_MOST_HOPS: Final = 16
#: Seconds for which a wrong key counts.
WINDOW: Final = 60.0
#: Maximum number of addresses tracked at once; the one longest without a wrong key is dropped first.
MOST_ADDRESSES: Final = 4096


def parse_address(text: str) -> Address | None:
    """Return the address in `text`, with or without a port or brackets; None if there is no valid one."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


@lru_cache(MOST_ADDRESSES)
def network_of(text: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address) if address is not None else text


class TrustedProxies:
    """The reverse proxies with a trusted `X-Forwarded-For`."""

    def __init__(self, entries: Iterable[str]) -> None:
        """`entries`: addresses or networks. Raises `SettingsError`."""
        self._networks = []
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry, strict=False))
            except ValueError as error:
                text = f"serve.trusted-proxies: {entry!r} is not an address or network such as 10.0.0.2 or 10.0.0.0/24"
                raise SettingsError(text) from error

    def trusts(self, text: str) -> bool:
        """Return whether the peer at this address is one of the proxies."""
        if not self._networks:
            return False
        address = parse_address(text)
        return address is not None and self._covers(address)

    def client(self, peer: str, forwarded: str | None) -> str:
        """Return the client's address: `peer`, or the one that trusted proxies give in `X-Forwarded-For`.

        Entries are read from the right: the first that is not a trusted proxy is the client. Entries left of it may
        be invented by the client.
        """
        if not forwarded or not self.trusts(peer):
            return peer
        client = peer
        for part in forwarded.rsplit(",", _MOST_HOPS)[: -_MOST_HOPS - 1 : -1]:
            address = parse_address(part)
            if address is None:
                break
            client = str(address)
            if not self._covers(address):
                break
        return client

    def _covers(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


class WrongKeys:
    """Counts wrong keys per address in a sliding window; bounded memory, any thread."""

    def __init__(
        self, limit: int, *, most: int = MOST_ADDRESSES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, network: str) -> float:
        """Count one wrong key; return 0, or the seconds to wait when the address is over the limit."""
        now = self._clock()
        with self._lock:
            moments = self._seen.setdefault(network, deque())
            self._seen.move_to_end(network)
            while len(self._seen) > self._most:
                self._seen.popitem(last=False)
            while moments and now - moments[0] >= WINDOW:
                moments.popleft()
            if len(moments) >= self._limit:
                return moments[0] + WINDOW - now
            moments.append(now)
        return 0.0

    def __len__(self) -> int:
        with self._lock:
            return len(self._seen)
