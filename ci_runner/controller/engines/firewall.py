"""Packet filter rules that keep containers away from the host and from its cloud's metadata service.

One chain per install, entered for whatever comes out of the install's bridge towards this machine (INPUT)
or towards link-local addresses (DOCKER-USER). It lets answers through, name resolution by the resolvers of
this machine, and the services that the operator named (`services`); everything else is rejected. Every rule
carries a comment with the install's id. Only where the runner is root and Docker's own rules are iptables';
elsewhere `Firewall.problem` says what is missing.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from ci_runner.controller.engines.convert import short_install
from ci_runner.controller.engines.services import Service, on_this_machine

log = logging.getLogger(__name__)

#: Metadata services of clouds, and nothing that a test needs.
LINK_LOCAL: Final = "169.254.0.0/16"
#: Filled by Docker's users, never touched by Docker.
_DOCKER_USER: Final = "DOCKER-USER"
_RESOLV_CONF: Final = Path("/etc/resolv.conf")

Rule = tuple[str, ...]


def chain_name(install: str) -> str:
    """At most 28 characters."""
    return f"CI-RUNNER-{short_install(install)}"


def chain_rules(install: str, resolvers: Iterable[str], services: Iterable[Service] = ()) -> list[Rule]:
    """What the install's chain holds, in order; `services` are addresses and TCP ports of this machine."""
    rules: list[Rule] = [("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "RETURN")]
    for resolver in resolvers:
        for protocol in ("udp", "tcp"):
            rules.append(("-d", resolver, "-p", protocol, "--dport", "53", "-j", "RETURN"))
    for address, port in services:
        rules.append(("-d", address, "-p", "tcp", "--dport", str(port), "-j", "RETURN"))
    rules.append(("-j", "REJECT"))
    return [(*_comment(install), *rule) for rule in rules]


def entry_rules(install: str, bridge: str) -> list[tuple[str, Rule]]:
    """By which packets get into the chain: (chain, rule)."""
    jump = ("-j", chain_name(install))
    return [
        ("INPUT", ("-i", bridge, *_comment(install), *jump)),
        (_DOCKER_USER, ("-i", bridge, "-d", LINK_LOCAL, *_comment(install), *jump)),
    ]


def _comment(install: str) -> Rule:
    return ("-m", "comment", "--comment", f"ci-runner {short_install(install)}")


def resolvers(resolv_conf: str) -> list[str]:
    """IPv4 name servers of a resolv.conf that a container could be sent to; loopback ones it never is."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                address = ipaddress.ip_address(words[1])
            except ValueError:
                continue
            if address.version == 4 and not address.is_loopback:
                found.append(str(address))
    return found


def run_iptables(arguments: Sequence[str]) -> str:
    """Call iptables, waiting for whoever else does; its output. Raises `subprocess.CalledProcessError`, OSError."""
    command = ["iptables", "-w", "5", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=15).stdout


class Firewall:
    """The rules of one install's bridge."""

    def __init__(
        self,
        install: str,
        bridge: str,
        run: Callable[[Sequence[str]], str] = run_iptables,
        services: Sequence[Service] = (),
    ) -> None:
        """`services`: hosts and ports that are let through where they are this machine's own."""
        self.install = install
        self.bridge = bridge
        self.services = services
        self._run = run

    def problem(self) -> str | None:
        """Why rules cannot be set here, or None."""
        if os.geteuid() != 0:
            return "the runner is not root"
        if shutil.which("iptables") is None:
            return "there is no iptables program"
        if self._try("-n", "-L", _DOCKER_USER) is None:
            return "Docker has no DOCKER-USER chain here"
        return None

    def ensure(self) -> str | None:
        """Set whatever rule is missing; the reason when that cannot be done, else None."""
        problem = self.problem()
        if problem is not None:
            return problem
        rules = self._rules()
        if self._is_complete(rules):
            return None
        try:
            self._fill(rules)
        except (OSError, subprocess.SubprocessError) as error:
            words = getattr(error, "stderr", None) or error
            log.warning("firewall rules for %s could not be set: %s", self.bridge, words)
            return f"iptables refused the rules: {str(words).strip()}"
        return None

    def remove(self) -> None:
        """Remove every rule of this install; harmless where there is none."""
        if self.problem() is not None:
            return
        for chain, rule in entry_rules(self.install, self.bridge):
            while self._try("-C", chain, *rule) is not None:
                self._run(("-D", chain, *rule))
        if self._try("-F", chain_name(self.install)) is not None:
            self._run(("-X", chain_name(self.install)))

    def _is_complete(self, rules: list[Rule]) -> bool:
        name = chain_name(self.install)
        listed = self._try("-S", name)
        if listed is None or listed.count(f"-A {name} ") != len(rules):  # one too many lets something through
            return False
        wanted = [*((name, rule) for rule in rules), *entry_rules(self.install, self.bridge)]
        return all(self._try("-C", chain, *rule) is not None for chain, rule in wanted)

    def _rules(self) -> list[Rule]:
        text = _RESOLV_CONF.read_text() if _RESOLV_CONF.exists() else ""
        return chain_rules(self.install, resolvers(text), on_this_machine(self.services))

    def _fill(self, rules: list[Rule]) -> None:
        name = chain_name(self.install)
        if self._try("-F", name) is None:
            self._run(("-N", name))
        for rule in rules:
            self._run(("-A", name, *rule))
        for chain, rule in entry_rules(self.install, self.bridge):
            if self._try("-C", chain, *rule) is None:
                self._run(("-I", chain, "1", *rule))

    def _try(self, *arguments: str) -> str | None:
        """The output, or None when iptables says no."""
        try:
            return self._run(arguments)
        except (OSError, subprocess.SubprocessError):
            return None
