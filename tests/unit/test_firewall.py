"""Packet filter rules, with a pretended iptables."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ci_runner.config import EnvironmentSettings
from ci_runner.controller.engines import docker_network, firewall, services
from ci_runner.controller.engines.firewall import Firewall

INSTALL = "0123456789ab"
BRIDGE = "cir0123456789ab"


class Tables:
    """As much of iptables as is used: chains with rules."""

    def __init__(self, *chains: str) -> None:
        self.chains: dict[str, list[tuple[str, ...]]] = {chain: [] for chain in chains}
        self.changes = 0

    def __call__(self, arguments: Sequence[str]) -> str:
        arguments = [argument for argument in arguments if argument != "-n"]
        command, chain, *rule = arguments
        if command == "-N":
            self.chains[chain] = []
        elif chain not in self.chains:
            raise subprocess.CalledProcessError(1, "iptables", stderr="No chain by that name")
        elif command == "-C":
            if tuple(rule) not in self.chains[chain]:
                raise subprocess.CalledProcessError(1, "iptables", stderr="no such rule")
            return ""
        elif command == "-L":
            return ""
        elif command == "-S":
            return "".join(f"-A {chain} {' '.join(words)}\n" for words in self.chains[chain])
        elif command == "-A":
            self.chains[chain].append(tuple(rule))
        elif command == "-I":
            self.chains[chain].insert(int(rule[0]) - 1, tuple(rule[1:]))
        elif command == "-D":
            self.chains[chain].remove(tuple(rule))
        elif command == "-F":
            self.chains[chain].clear()
        elif command == "-X":
            del self.chains[chain]
        self.changes += 1
        return ""


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/sbin/{name}")


@pytest.mark.usefixtures("root")
def test_rules_are_set_once_mended_and_removed_without_a_trace() -> None:
    tables = Tables("INPUT", "DOCKER-USER")
    tables.chains["INPUT"].append(("-j", "ACCEPT"))
    rules = Firewall(INSTALL, BRIDGE, tables)
    assert rules.ensure() is None
    chain = firewall.chain_name(INSTALL)
    assert tables.chains["INPUT"][0] == (
        "-i", BRIDGE, "-m", "comment", "--comment", f"ci-runner {INSTALL}", "-j", chain,
    )  # fmt: skip
    assert "169.254.0.0/16" in tables.chains["DOCKER-USER"][0]
    assert tables.chains[chain][-1][-2:] == ("-j", "REJECT")
    changes = tables.changes
    assert rules.ensure() is None
    assert tables.changes == changes
    tables.chains["INPUT"].pop(0)
    tables.chains[chain].pop()
    assert rules.ensure() is None
    assert tables.chains[chain][-1][-2:] == ("-j", "REJECT")
    assert len(tables.chains["INPUT"]) == 2
    rules.remove()
    rules.remove()
    assert tables.chains == {"INPUT": [("-j", "ACCEPT")], "DOCKER-USER": []}


@pytest.mark.usefixtures("root")
def test_a_named_service_of_this_machine_is_let_through_as_long_as_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    named = [("192.0.2.1", 443), ("127.0.0.1", 3141), ("no.such.host.invalid", 80), ("10.0.0.7", 3141)]
    monkeypatch.setattr(services, "_is_own", lambda address: address in ("127.0.0.1", "10.0.0.7"))
    tables = Tables("INPUT", "DOCKER-USER")
    chain = firewall.chain_name(INSTALL)
    assert Firewall(INSTALL, BRIDGE, tables, named).ensure() is None
    doors = [rule for rule in tables.chains[chain] if "3141" in rule]
    assert [rule[rule.index("-d") + 1] for rule in doors] == ["10.0.0.7"]
    tables.chains[chain].insert(0, ("-d", "192.0.2.9", "-j", "RETURN"))  # of settings that were changed since
    assert Firewall(INSTALL, BRIDGE, tables).ensure() is None
    assert tables.chains[chain] == firewall.chain_rules(
        INSTALL, firewall.resolvers(Path("/etc/resolv.conf").read_text())
    )


@pytest.mark.parametrize(("address", "own"), [("127.0.0.1", True), ("192.0.2.1", False), ("0.0.0.1", False)])
def test_addresses_of_this_machine_are_told_from_others(address: str, own: bool) -> None:
    assert services._is_own(address) is own


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ()),
        ({"index_url": "https://ann:secret@index.example/simple"}, (("index.example", 443),)),
        ({"index_url": "http://10.0.0.1:3141/root/pypi/+simple/"}, (("10.0.0.1", 3141),)),
        (
            {"extra_index_urls": ("https://a.example/s", "https://a.example/t", "file:///srv/simple")},
            (("a.example", 443),),
        ),
        ({"http_proxy": "proxy.example:3128", "https_proxy": "http://proxy.example:3128"}, (("proxy.example", 3128),)),
        ({"http_proxy": "socks5://p", "https_proxy": "http://p:x", "index_url": "http://[::1"}, ()),
    ],
)  # fmt: skip
def test_services_are_the_indexes_and_proxies_of_the_settings(
    values: dict[str, Any], expected: tuple[tuple[str, int], ...]
) -> None:
    assert services.named(EnvironmentSettings(**values)) == expected


@pytest.mark.usefixtures("root")
def test_without_dockers_chain_the_reason_is_told() -> None:
    assert Firewall(INSTALL, BRIDGE, Tables("INPUT")).ensure() == "Docker has no DOCKER-USER chain here"


@pytest.mark.usefixtures("root")
def test_a_refusal_of_iptables_is_told() -> None:
    class Refuses(Tables):
        def __call__(self, arguments: Sequence[str]) -> str:
            if arguments[0] == "-A":
                raise subprocess.CalledProcessError(4, "iptables", stderr="unknown option --ctstate\n")
            return super().__call__(arguments)

    said = Firewall(INSTALL, BRIDGE, Refuses("INPUT", "DOCKER-USER")).ensure()
    assert said == "iptables refused the rules: unknown option --ctstate"


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Firewall(INSTALL, BRIDGE, Tables()).ensure() == "the runner is not root"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 10.0.0.2\nnameserver 10.0.0.3\n", ["10.0.0.2", "10.0.0.3"]),
        ("nameserver 127.0.0.53\noptions edns0\n", []),
        ("nameserver ::1\nnameserver fd00::1\n", []),
        ("# nameserver 1.2.3.4\nsearch example.org\nnameserver\nnameserver x\n", []),
    ],
)
def test_resolvers_that_containers_are_sent_to(text: str, expected: list[str]) -> None:
    assert firewall.resolvers(text) == expected


def test_names_are_resolved_by_this_machine_but_nothing_else_of_it_is_reached() -> None:
    rules = firewall.chain_rules(INSTALL, ["10.0.0.2"])
    targets = [rule[rule.index("-j") + 1] for rule in rules]
    assert targets == ["RETURN", "RETURN", "RETURN", "REJECT"]
    assert all(f"ci-runner {INSTALL}" in rule for rule in rules)


def test_the_uplinks_smaller_packets_are_found(tmp_path: object) -> None:
    from pathlib import Path

    folder = Path(str(tmp_path))
    routes = folder / "route"
    routes.write_text("Iface\tDestination\neth0\t0002000A\nwan\t00000000\n")
    (folder / "wan").mkdir()
    (folder / "wan" / "mtu").write_text("1400\n")
    assert docker_network.uplink_mtu(routes, folder) == 1400
    (folder / "wan" / "mtu").write_text("9000\n")
    assert docker_network.uplink_mtu(routes, folder) is None
    assert docker_network.uplink_mtu(folder / "no", folder) is None
