"""Hosts that containers may reach although their network is closed.

A package index or proxy that the operator names in the settings may run on the runner's machine or in a private
network. `firewall` then opens exactly its address and port, for builds and jobs alike.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from ci_runner.controller.engines.docker.private_networks import is_closed
from ci_runner.settings.groups import EnvironmentSettings

log = logging.getLogger(__name__)

_PORTS: Final = {"http": 80, "https": 443}

#: Host (name or address) and port.
Service = tuple[str, int]


def named(settings: EnvironmentSettings) -> tuple[Service, ...]:
    """Return the indexes and proxies of the settings, each once; skip values that are not a host's URL."""
    urls = [settings.index_url, *settings.extra_index_urls, settings.http_proxy, settings.https_proxy]
    return tuple(dict.fromkeys(found for url in urls if url and (found := _service(url)) is not None))


def _service(url: str) -> Service | None:
    try:
        parts = urlsplit(
            url if "://" in url else f"http://{url}"
        )  # proxies may also be written without a scheme
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def behind_the_firewall(services: Iterable[Service]) -> list[Service]:
    """Return the IPv4 addresses and ports of hosts on this machine or in a closed network.

    Loopback addresses are skipped: inside a container they mean the container itself.
    """
    found = [
        (address, port)
        for host, port in services
        for address in _addresses(host)
        if not is_loopback(address) and (is_closed(address) or _is_own(address))
    ]
    return list(dict.fromkeys(found))


def is_loopback(host: str) -> bool:
    """Return whether a host is loopback, by its address or its usual name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _addresses(host: str) -> list[str]:
    try:
        entries = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        log.debug("%s is not resolved: %s", host, error)
        return []
    return sorted({str(entry[4][0]) for entry in entries})


def _is_own(address: str) -> bool:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
            return True
    except OSError:
        return False
