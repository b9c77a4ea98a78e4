"""Packet filter rules that keep containers away from the host and from private networks.

There are two chains per install. Packets from the install's bridge to this machine (INPUT) enter the first. It
rejects all but name resolution, the services that the operator named (`allowed_hosts`) and single addresses that the
operator opened. Forwarded packets (DOCKER-USER) enter the second. It rejects those to a closed network
(`private_networks`), with the same exceptions and the networks that the operator opened. IPv6 is rejected altogether:
the bridge has none. One call of ``iptables-restore --noflush`` replaces the rules of each family, so there is never a
moment without them; foreign rules are never touched. Every rule carries a comment with the install's id.

Works only if the runner is root and Docker's own rules are iptables rules; otherwise `Firewall.problem` names what is
missing.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from ci_runner.controller.engines.docker.allowed_hosts import Service, behind_the_firewall
from ci_runner.controller.engines.docker.container_profile import short_install
from ci_runner.controller.engines.docker.private_networks import CLOSED

log = logging.getLogger(__name__)

#: Docker leaves this chain to its users and never changes it.
_DOCKER_USER: Final = "DOCKER-USER"
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
#: Docker reads this file if the usual one names only systemd's own resolver.
_UPLINK_RESOLV_CONF: Final = Path("/run/systemd/resolve/resolv.conf")
_DAEMON_JSON: Final = Path("/etc/docker/daemon.json")
#: The kernel's list of IPv6 addresses; absent without IPv6.
_IPV6: Final = Path("/proc/net/if_inet6")
#: Number of tries: another program of the same install may replace the rules between two calls.
_ATTEMPTS: Final = 3

Program = Literal["iptables", "iptables-restore", "ip6tables", "ip6tables-restore"]
Run = Callable[[Program, Sequence[str], str], str]


def chain_name(install: str) -> str:
    """Return the chain for packets to this machine; at most 28 characters."""
    return f"CI-RUNNER-{short_install(install)}"


def forward_chain_name(install: str) -> str:
    """Return the chain for packets to other machines."""
    return f"{chain_name(install)}-FWD"


def host_rules(resolvers: Iterable[str], services: Iterable[Service], allowed: Iterable[str]) -> list[str]:
    """Return the first chain's rules, in order; of the `allowed` networks it uses only single addresses."""
    single = [network for network in allowed if ipaddress.ip_network(network).num_addresses == 1]
    return [*_doors(resolvers, services, single), "-j REJECT"]


def forward_rules(resolvers: Iterable[str], services: Iterable[Service], allowed: Iterable[str]) -> list[str]:
    """Return the second chain's rules, in order."""
    closed = [f"-d {network} -j REJECT" for network in CLOSED]
    return [*_doors(resolvers, services, allowed), *closed]


def _doors(resolvers: Iterable[str], services: Iterable[Service], networks: Iterable[str]) -> list[str]:
    return [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
        *(
            f"-d {resolver} -p {protocol} --dport 53 -j RETURN"
            for resolver in resolvers
            for protocol in ("udp", "tcp")
        ),
        *(f"-d {address} -p tcp --dport {port} -j RETURN" for address, port in services),
        *(f"-d {network} -j RETURN" for network in networks),
    ]


def name_servers(
    resolv_conf: Path = _RESOLV_CONF, uplink: Path = _UPLINK_RESOLV_CONF, daemon: Path = _DAEMON_JSON
) -> list[str]:
    """Return the IPv4 name servers that Docker may configure in a container; Docker itself queries loopback ones."""
    texts = [_text_of(resolv_conf)]
    if "127.0.0.53" in texts[0]:
        texts.append(_text_of(uplink))
    words = [line.split() for text in texts for line in text.splitlines()]
    named = [each[1] for each in words if len(each) >= 2 and each[0] == "nameserver"]
    found = [address for address in (*named, *_dns_of_daemon(daemon)) if _is_ordinary(address)]
    return list(dict.fromkeys(found))


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, ValueError):
        return ""


def _dns_of_daemon(path: Path) -> list[str]:
    try:
        settings = json.loads(path.read_text())
        return [str(address) for address in settings.get("dns", ())]
    except (OSError, ValueError, AttributeError, TypeError):
        return []


def _is_ordinary(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.version == 4 and not address.is_loopback


def run_iptables(program: Program, arguments: Sequence[str], text: str = "") -> str:
    """Run a program of iptables, waiting for other callers' lock, and return its output.

    `text` is its standard input. Raises `subprocess.CalledProcessError`, OSError.
    """
    command = [program, "-w", "5", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True, timeout=15).stdout


class Firewall:
    """The rules of one install's bridge."""

    def __init__(
        self,
        install: str,
        bridge: str,
        run: Run = run_iptables,
        services: Sequence[Service] = (),
        allowed: Sequence[str] = (),
    ) -> None:
        """Set up the rules; nothing is changed yet.

        `services`: hosts and ports to let through; `allowed`: IPv4 networks that the operator opened.
        """
        self.install = install
        self.bridge = bridge
        self.services = services
        self.allowed = allowed
        self._run = run
        #: Program → the script that set the rules, and the listing after that.
        self._set: dict[Program, tuple[str, tuple[str, ...]]] = {}
        #: Why IPv6 is not filtered, or None; known after `ensure`. Containers have no IPv6 anyway.
        self.ipv6_problem: str | None = None

    def problem(self) -> str | None:
        """Return why rules cannot be set on this machine, or None."""
        if os.geteuid() != 0:
            return "the runner is not root"
        if shutil.which("iptables") is None or shutil.which("iptables-restore") is None:
            return "iptables is not installed"
        if self._try("iptables", "-n", "-L", _DOCKER_USER) is None:
            return "Docker has no DOCKER-USER chain here"
        return None

    def ensure(self) -> str | None:
        """Set missing rules; return the reason if that is impossible, else None."""
        problem = self.problem()
        if problem is not None:
            return problem
        self.ipv6_problem = self._ensure_ipv6()
        return self._replace("iptables", self._chains(), ("INPUT", _DOCKER_USER))

    def chains(self) -> list[str]:
        """Return the names of this install's chains that exist."""
        programs: tuple[Program, ...] = ("iptables", "ip6tables")
        listed = [line for program in programs if shutil.which(program) for line in self._listed(program)]
        return list(dict.fromkeys(line.removeprefix("-N ") for line in listed if line.startswith("-N ")))

    def remove(self) -> None:
        """Remove all rules of this install, of any version; harmless if there are none."""
        if os.geteuid() != 0:
            return
        programs: tuple[Program, ...] = ("iptables", "ip6tables")
        for program in programs:
            self._set.pop(program, None)
            if shutil.which(program) is None:
                continue
            listed = self._listed(program)
            chains = [line.removeprefix("-N ") for line in listed if line.startswith("-N ")]
            if listed:
                lines = [*self._deletions(listed), *(f"-F {each}" for each in chains)]
                self._restore(program, [*lines, *(f"-X {each}" for each in chains)])

    def _ensure_ipv6(self) -> str | None:
        if not _IPV6.exists():
            return None
        if shutil.which("ip6tables") is None or shutil.which("ip6tables-restore") is None:
            return "ip6tables is not installed"
        chain = chain_name(self.install)
        return self._replace("ip6tables", {chain: ["-j REJECT"]}, ("INPUT", "FORWARD"))

    def _chains(self) -> dict[str, list[str]]:
        """Return chain → rules, in the order of the built-in chains that lead to them."""
        resolvers, services = name_servers(), behind_the_firewall(self.services)
        return {
            chain_name(self.install): host_rules(resolvers, services, self.allowed),
            forward_chain_name(self.install): forward_rules(resolvers, services, self.allowed),
        }

    def _replace(
        self, program: Program, chains: dict[str, list[str]], entered_from: tuple[str, ...]
    ) -> str | None:
        """Replace all rules of this install by these chains and one entry to each."""
        rules = [f":{chain} - [0:0]" for chain in chains]
        rules += [f"-A {chain} {self._comment} {rule}" for chain in chains for rule in chains[chain]]
        targets = [*chains] * (len(entered_from) // len(chains))
        entries = [
            f"-I {builtin} 1 -i {self.bridge} {self._comment} -j {chain}"
            for builtin, chain in zip(entered_from, targets, strict=True)
        ]
        script, words = "\n".join([*rules, *entries]), ""
        if self._set.get(program) == (script, self._listed(program)):
            return None
        for _ in range(_ATTEMPTS):
            try:
                self._restore(program, [*rules, *self._deletions(self._listed(program)), *entries])
            except (OSError, subprocess.SubprocessError) as error:
                words = " ".join(str(getattr(error, "stderr", None) or error).split())
                continue
            self._set[program] = (script, self._listed(program))
            return None
        log.warning("%s rules for %s could not be set: %s", program, self.bridge, words)
        return f"{program} refused the rules: {words}"

    def _restore(self, program: Program, lines: Sequence[str]) -> None:
        restore: Program = "iptables-restore" if program == "iptables" else "ip6tables-restore"
        self._run(restore, ("--noflush",), "\n".join(["*filter", *lines, "COMMIT", ""]))

    @property
    def _comment(self) -> str:
        return f'-m comment --comment "ci-runner {short_install(self.install)}"'

    def _listed(self, program: Program) -> tuple[str, ...]:
        """Return this install's chains and rules, and all rules that lead into them, as iptables lists them."""
        name, comment = chain_name(self.install), f'"ci-runner {short_install(self.install)}"'
        listed = self._try(program, "-S") or ""
        return tuple(line for line in listed.splitlines() if name in line or comment in line)

    def _deletions(self, listed: Iterable[str]) -> list[str]:
        """Return commands that delete the listed rules outside this install's own chains."""
        own = f"-A {chain_name(self.install)}"
        return [
            f"-D {line.removeprefix('-A ')}"
            for line in listed
            if line.startswith("-A ") and not line.startswith(own)
        ]

    def _try(self, program: Program, *arguments: str) -> str | None:
        """Return the output, or None if iptables fails."""
        try:
            return self._run(program, arguments, "")
        except (OSError, subprocess.SubprocessError):
            return None
