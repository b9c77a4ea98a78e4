"""Networks that containers with egress cannot reach unless the operator opens them.

The rest is the internet. Networks reserved for documentation (192.0.2.0/24 and its like) need no protection and stay
open. There is no list for IPv6: containers have none, and the firewall rejects all of it.
"""

from __future__ import annotations

import ipaddress
from typing import Final

#: Metadata services of clouds; no test needs them.
LINK_LOCAL: Final = "169.254.0.0/16"
#: All addresses that are not globally reachable by the registry of special-purpose addresses (RFC 6890), and
#: multicast.
CLOSED: Final[tuple[str, ...]] = (
    "0.0.0.0/8",  # this network
    "10.0.0.0/8",  # private (RFC 1918)
    "100.64.0.0/10",  # shared by the customers of a provider (RFC 6598)
    "127.0.0.0/8",  # loopback
    LINK_LOCAL,
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # assigned to protocols
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarks of network devices
    "224.0.0.0/4",  # multicast
    "240.0.0.0/4",  # reserved, and broadcast
)
_CLOSED: Final = tuple(ipaddress.IPv4Network(network) for network in CLOSED)


def is_closed(address: str) -> bool:
    """Return whether an IPv4 address is in one of the closed networks."""
    return any(ipaddress.IPv4Address(address) in network for network in _CLOSED)
