"""Services at addresses that are closed to containers, which may reach them all the same.

A package index or a proxy that the operator names in the settings may run on this very machine or in a private network;
then exactly its address and port are let through (by `firewall`), for builds and jobs alike.
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
    """The indexes and proxies of the settings, each once; what is no URL of a host is left out."""
    urls = [settings.index_url, *settings.extra_index_urls, settings.http_proxy, settings.https_proxy]
    return tuple(dict.fromkeys(found for url in urls if url and (found := _service(url)) is not None))


def _service(url: str) -> Service | None:
    try:
        parts = urlsplit(
            url if "://" in url else f"http://{url}"
        )  # proxies are also written without a scheme
        port = parts.port or _PORTS.get(parts.scheme)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def behind_the_firewall(services: Iterable[Service]) -> list[Service]:
    """IPv4 addresses of these hosts, with their ports, as far as they are this machine's own or in a closed network.

    Loopback is none of them: a container that asks for it means itself.
    """
    found = [
        (address, port)
        for host, port in services
        for address in _addresses(host)
        if not is_loopback(address) and (is_closed(address) or _is_own(address))
    ]
    return list(dict.fromkeys(found))


def is_loopback(host: str) -> bool:
    """Whether a host is the asking machine itself, by its address or its usual name."""
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
