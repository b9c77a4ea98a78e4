"""The network of an install.

Its containers reach the internet, but not each other nor, where possible, the host or private networks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ci_runner.controller.engine import LABEL_INSTALL
from ci_runner.controller.engines.docker import container_profile, docker_json
from ci_runner.controller.engines.docker.allowed_hosts import Service
from ci_runner.controller.engines.docker.api import DockerAPI, status_of, translated
from ci_runner.controller.engines.docker.firewall import Firewall
from ci_runner.errors import EngineUnavailable, PermanentError

#: Seconds between two checks that the rules still exist (a firewall may be reloaded).
_FRESH: Final = 30.0
_DEFAULT_MTU: Final = 1500


class DockerNetwork:
    """The network of one install, created when the first container needs it."""

    def __init__(
        self, api: DockerAPI, install: str, services: Sequence[Service] = (), allowed: Sequence[str] = ()
    ) -> None:
        """Set up the network without creating it.

        `services`: what containers may reach in closed networks (`allowed_hosts`); `allowed`: networks that the
        operator opened.
        """
        self._api = api
        self.install = install
        self.name = container_profile.network_name(install)
        self.firewall = Firewall(
            install, container_profile.bridge_name(install), services=services, allowed=allowed
        )
        self._lock = threading.Lock()
        self._checked: float | None = None
        #: What an earlier process of this install left was looked at.
        self._swept = False
        #: Why containers can reach the host and private networks, or None; known after `ensure`.
        self.problem: str | None = None

    def ensure(self) -> None:
        """Create the network and set missing rules. Raises `EngineUnavailable`."""
        with self._lock:
            if self.inspect() is None:
                self._create()
                self._checked = None
            self._check()

    def refresh(self) -> None:
        """Set missing rules if the network exists: containers may be running when a firewall is reloaded.

        What a killed process left, and no container uses, is removed the first time.
        """
        with self._lock:
            if self._checked is not None or (self.inspect() is not None and not self._sweep()):
                self._check()
            elif not self._swept:
                self.firewall.remove()
            self._swept = True

    def _sweep(self) -> bool:
        """Remove the network of an earlier process; return whether that was possible."""
        if self._swept:
            return False
        try:
            with translated("remove the network"):
                self._api.client.remove_network(self.name)
        except (PermanentError, EngineUnavailable):  # a container uses it
            return False
        return True

    def _check(self) -> None:
        now = time.monotonic()
        if self._checked is None or now - self._checked > _FRESH:
            self.problem = self.firewall.ensure()
            self._checked = now

    def inspect(self) -> docker_json.Network | None:
        """Return the engine's description of the network, or None if it does not exist."""
        with translated("look up the network"):
            found = self._api.client.networks(names=[self.name])
        return next((network for network in found if network["Name"] == self.name), None)

    def gateway(self) -> str | None:
        """Return the host's address on the network."""
        found = self.inspect()
        pools = found.get("IPAM", {}).get("Config") or () if found is not None else ()
        return next((pool["Gateway"] for pool in pools if "Gateway" in pool), None)

    def release(self) -> None:
        """Remove the network that this process made or used, unless a container uses it.

        Engines have few address ranges.
        """
        with self._lock:
            if self._checked is None:
                return
            self._checked = None
            try:
                with translated("remove the network"):
                    self._api.client.remove_network(self.name)
            except (PermanentError, EngineUnavailable):
                return  # in use, already removed, or the engine does not answer
            self.firewall.remove()

    def remove(self) -> None:
        """Remove the network (and any other of this install) and its rules."""
        with self._lock:
            self._checked = None
            with translated("list networks"):
                label = f"{LABEL_INSTALL}={self.install}"
                networks = self._api.client.networks(filters={"label": label})
            for network in networks:
                with translated("remove the network"):
                    self._api.client.remove_network(network["Id"])
            self.firewall.remove()

    def _create(self) -> None:
        try:
            with translated("create the network"):
                self._api.client.create_network(
                    **container_profile.network_config(self.install, uplink_mtu())
                )
        except PermanentError as error:
            if status_of(error) != 409:
                # Usually no address range is left. The job itself is not at fault.
                raise EngineUnavailable(str(error), retry_after=5.0) from error


def uplink_mtu(
    routes: Path = Path("/proc/net/route"), interfaces: Path = Path("/sys/class/net")
) -> int | None:
    """Return the MTU of this machine's uplink if it is smaller than usual, else None.

    Bridges do not learn it by themselves, and large answers would then never arrive.
    """
    try:
        for line in routes.read_text().splitlines()[1:]:
            interface, destination = line.split()[:2]
            if destination == "00000000":
                mtu = int((interfaces / interface / "mtu").read_text())
                return mtu if mtu < _DEFAULT_MTU else None
    except (OSError, ValueError):
        return None
    return None
