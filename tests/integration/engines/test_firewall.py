"""Packet filter rules in a network namespace of the test's own, by the real iptables."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from support.needs import skip
from support.waiting import wait_until

from ci_runner.controller.engines.docker import firewall
from ci_runner.controller.engines.docker.firewall import Firewall
from ci_runner.controller.engines.docker.private_networks import CLOSED

INSTALL = "0123456789ab"
OTHER = "ba9876543210"
BRIDGE = "cir0123456789ab"
CHAIN = "CI-RUNNER-0123456789ab"
FORMER = f'-m comment --comment "ci-runner {INSTALL}" -j {CHAIN}'

Iptables = Callable[..., str]


@pytest.fixture
def namespace() -> Iterator[list[str]]:
    """The words before a command that runs in a network namespace of its own."""
    if os.geteuid() != 0 or not all(
        map(shutil.which, ("unshare", "nsenter", "iptables-restore", "ip6tables"))
    ):
        skip("needs root, iptables and namespaces")
    here = Path("/proc/self/ns/net").stat().st_ino
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    place = Path(f"/proc/{holder.pid}/ns/net")
    try:
        wait_until(lambda: place.stat().st_ino != here, what="a namespace")
        yield ["nsenter", f"--net={place}"]
    finally:
        holder.communicate()


@pytest.fixture
def iptables(namespace: list[str]) -> Iptables:
    """Calls iptables there, where Docker's chain is made first."""

    def run(program: str, arguments: Sequence[str], text: str = "") -> str:
        command = [*namespace, program, "-w", "5", *arguments]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout

    run("iptables", ["-N", "DOCKER-USER"])
    run("iptables", ["-A", "DOCKER-USER", "-j", "RETURN"])
    run("iptables", ["-A", "INPUT", "-i", "lo", "-j", "ACCEPT"])
    return run


def rules(iptables: Iptables, program: str = "iptables") -> list[str]:
    return iptables(program, ["-S"]).splitlines()


def of(listed: list[str], chain: str) -> list[str]:
    """Targets of a chain's rules."""
    return [line.partition(" -j ")[2] for line in listed if line.startswith(f"-A {chain} ")]


def test_rules_are_set_once_mended_and_removed_without_a_trace(iptables: Iptables) -> None:
    before = rules(iptables), rules(iptables, "ip6tables")
    made = Firewall(INSTALL, BRIDGE, iptables)
    other = Firewall(OTHER, "cir" + OTHER, iptables)
    assert (made.ensure(), made.ipv6_problem, other.ensure()) == (None, None, None)
    complete = rules(iptables), rules(iptables, "ip6tables")
    assert of(complete[0], CHAIN)[-1].startswith("REJECT")
    assert len([each for each in of(complete[0], f"{CHAIN}-FWD") if each.startswith("REJECT")]) == len(CLOSED)
    assert of(complete[1], CHAIN) == ["REJECT --reject-with icmp6-port-unreachable"]
    assert [
        line for line in complete[1] if line.startswith(("-A INPUT", "-A FORWARD")) and BRIDGE in line
    ] == [
        f'-A INPUT -i {BRIDGE} -m comment --comment "ci-runner {INSTALL}" -j {CHAIN}',
        f'-A FORWARD -i {BRIDGE} -m comment --comment "ci-runner {INSTALL}" -j {CHAIN}',
    ]
    assert Firewall(INSTALL, BRIDGE, iptables).ensure() is None  # of another process
    for damage in (
        ["-F", f"{CHAIN}-FWD"],
        ["-D", CHAIN, str(len(of(complete[0], CHAIN)))],
        ["-I", CHAIN, "1", "-j", "ACCEPT"],
        ["-R", f"{CHAIN}-FWD", "1", "-j", "ACCEPT"],
        ["-D", "INPUT", "1"],
        ["-F", "DOCKER-USER"],
        ["-I", "INPUT", "1", "-i", BRIDGE, *f"-m comment --comment x -j {CHAIN}".split()],
    ):
        iptables("iptables", damage)
        assert made.ensure() is None
        assert other.ensure() is None
        now = rules(iptables)
        for chain in (CHAIN, f"{CHAIN}-FWD"):
            assert of(now, chain) == of(complete[0], chain), damage
        assert of(now, "INPUT").count(CHAIN) == 1
        assert of(now, "DOCKER-USER").count(f"{CHAIN}-FWD") == 1
    iptables("iptables", ["-A", "DOCKER-USER", "-j", "RETURN"])
    for each in (made, other, made):
        each.remove()
    assert (rules(iptables), rules(iptables, "ip6tables")) == before


def test_a_firewall_that_was_reloaded_gets_the_rules_again(iptables: Iptables) -> None:
    made = Firewall(INSTALL, BRIDGE, iptables)
    assert made.ensure() is None
    complete = rules(iptables), rules(iptables, "ip6tables")
    for program in ("iptables", "ip6tables"):
        for chain in ("INPUT", "FORWARD"):
            iptables(program, ["-F", chain])
    iptables("iptables", ["-F", "DOCKER-USER"])
    for program, chain in (("iptables", CHAIN), ("iptables", f"{CHAIN}-FWD"), ("ip6tables", CHAIN)):
        iptables(program, ["-F", chain])
        iptables(program, ["-X", chain])
    iptables("iptables", ["-A", "DOCKER-USER", "-j", "RETURN"])
    iptables("iptables", ["-A", "INPUT", "-i", "lo", "-j", "ACCEPT"])
    assert made.ensure() is None
    assert (rules(iptables), rules(iptables, "ip6tables")) == complete


def test_complete_rules_are_not_touched(iptables: Iptables) -> None:
    changes: list[str] = []

    def run(program: firewall.Program, arguments: Sequence[str], text: str) -> str:
        if program.endswith("restore"):
            changes.append(program)
        return iptables(program, arguments, text)

    made = Firewall(INSTALL, BRIDGE, run)
    assert made.ensure() is None
    assert changes == ["ip6tables-restore", "iptables-restore"]
    assert made.ensure() is None
    assert len(changes) == 2


def test_what_a_former_version_set_is_replaced_and_removed(iptables: Iptables) -> None:
    before = rules(iptables)

    def set_former() -> None:
        iptables("iptables", ["-N", CHAIN])
        iptables("iptables", ["-A", CHAIN, "-j", "REJECT"])
        for chain, to in (("INPUT", []), ("DOCKER-USER", ["-d", "169.254.0.0/16"])):
            comment = ["-m", "comment", "--comment", f"ci-runner {INSTALL}", "-j", CHAIN]
            iptables("iptables", ["-I", chain, "1", "-i", BRIDGE, *to, *comment])

    set_former()
    made = Firewall(INSTALL, BRIDGE, iptables)
    assert made.ensure() is None
    assert [of(rules(iptables), chain)[0] for chain in ("INPUT", "DOCKER-USER")] == [CHAIN, f"{CHAIN}-FWD"]
    assert not [line for line in rules(iptables) if line.startswith("-A DOCKER-USER") and "-d " in line]
    made.remove()
    assert rules(iptables) == before
    set_former()
    made.remove()
    assert rules(iptables) == before


def test_settings_that_change_change_the_rules(iptables: Iptables) -> None:
    named = [("10.0.0.7", 3141)]
    assert Firewall(INSTALL, BRIDGE, iptables, named, ["10.1.0.0/16"]).ensure() is None
    opened = [line for line in rules(iptables) if "3141" in line or "10.1.0.0/16" in line]
    assert len(opened) == 3
    assert Firewall(INSTALL, BRIDGE, iptables).ensure() is None
    assert not [line for line in rules(iptables) if "3141" in line or "10.1.0.0/16" in line]
