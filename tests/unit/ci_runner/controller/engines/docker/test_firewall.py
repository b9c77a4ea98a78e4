"""Packet filter rules: which there are. tests/integration/engines/test_firewall.py sets them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ci_runner.controller.engines.docker import (
    allowed_hosts,
    firewall,
    private_networks,
)
from ci_runner.controller.engines.docker import (
    network as docker_network,
)
from ci_runner.controller.engines.docker.firewall import Firewall, Run
from ci_runner.settings.groups import EnvironmentSettings

INSTALL = "0123456789ab"
BRIDGE = "cir0123456789ab"


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/sbin/{name}")


def refusing(*refused: str) -> Run:
    """An iptables that lists no rules, and refuses calls with one of these words."""

    def run(program: str, arguments: Sequence[str], text: str) -> str:
        if any(word in (program, *arguments) for word in refused):
            raise subprocess.CalledProcessError(4, program, stderr="line 3: unknown option\n--ctstate\n")
        return ""

    return run


@pytest.mark.parametrize(("address", "own"), [("127.0.0.1", True), ("192.0.2.1", False), ("0.0.0.1", False)])
def test_addresses_of_this_machine_are_told_from_others(address: str, own: bool) -> None:
    assert allowed_hosts._is_own(address) is own


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
        (
            {"http_proxy": "proxy.example:3128", "https_proxy": "http://proxy.example:3128"},
            (("proxy.example", 3128),),
        ),
        ({"http_proxy": "socks5://p", "https_proxy": "http://p:x", "index_url": "http://[::1"}, ()),
    ],
)
def test_services_are_the_indexes_and_proxies_of_the_settings(
    values: dict[str, Any], expected: tuple[tuple[str, int], ...]
) -> None:
    assert allowed_hosts.named(EnvironmentSettings(**values)) == expected


@pytest.mark.usefixtures("root")
def test_without_dockers_chain_the_reason_is_told() -> None:
    said = Firewall(INSTALL, BRIDGE, refusing("DOCKER-USER")).ensure()
    assert said == "Docker has no DOCKER-USER chain here"


@pytest.mark.usefixtures("root")
def test_a_refusal_of_iptables_is_one_line() -> None:
    said = Firewall(INSTALL, BRIDGE, refusing("iptables-restore")).ensure()
    assert said == "iptables refused the rules: line 3: unknown option --ctstate"


@pytest.mark.usefixtures("root")
def test_ipv6_that_cannot_be_filtered_is_told_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rules = Firewall(INSTALL, BRIDGE, refusing("ip6tables-restore"))
    monkeypatch.setattr(firewall, "_IPV6", tmp_path)
    assert (rules.ensure(), rules.ipv6_problem) == (
        None,
        "ip6tables refused the rules: line 3: unknown option --ctstate",
    )
    monkeypatch.setattr("shutil.which", lambda name: None if name.startswith("ip6") else f"/sbin/{name}")
    assert (rules.ensure(), rules.ipv6_problem) == (None, "ip6tables is not installed")
    monkeypatch.setattr(firewall, "_IPV6", tmp_path / "none")
    assert (rules.ensure(), rules.ipv6_problem) == (None, None)


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert Firewall(INSTALL, BRIDGE, refusing()).ensure() == "the runner is not root"


@pytest.mark.parametrize(
    ("resolv_conf", "uplink", "daemon", "expected"),
    [
        ("nameserver 10.0.0.2\nnameserver 10.0.0.3\n", "", "", ["10.0.0.2", "10.0.0.3"]),
        ("nameserver 127.0.0.1\noptions edns0\n", "nameserver 10.0.0.2\n", "", []),
        ("nameserver 127.0.0.53\n", "nameserver 192.168.1.1\n", "", ["192.168.1.1"]),
        ("nameserver ::1\nnameserver fd00::1\n", "", "", []),
        ("# nameserver 1.2.3.4\nsearch example.org\nnameserver\nnameserver x\n", "", "", []),
        ("nameserver 10.0.0.2\n", "", '{"dns": ["10.0.0.2", "10.0.0.9", "::2"]}', ["10.0.0.2", "10.0.0.9"]),
        ("nameserver 10.0.0.2\n", "", '["dns"]', ["10.0.0.2"]),
        ("nameserver 10.0.0.2\n", "", '{"dns": 7', ["10.0.0.2"]),
        (None, "", '{"dns": 7}', []),
    ],
)
def test_name_servers_that_containers_are_sent_to(
    tmp_path: Path, resolv_conf: str | None, uplink: str, daemon: str, expected: list[str]
) -> None:
    paths = [tmp_path / name for name in ("resolv.conf", "uplink", "daemon.json")]
    for path, text in zip(paths, (resolv_conf, uplink, daemon), strict=True):
        if text is not None:
            path.write_text(text)
    assert firewall.name_servers(*paths) == expected


def test_networks_are_opened_for_what_is_forwarded_and_single_addresses_of_this_machine_too() -> None:
    allowed = ["10.1.0.0/16", "172.17.0.1/32"]
    assert firewall.host_rules([], [], allowed)[1:] == ["-d 172.17.0.1/32 -j RETURN", "-j REJECT"]
    forwarded = firewall.forward_rules([], [], allowed)
    assert forwarded[1:3] == ["-d 10.1.0.0/16 -j RETURN", "-d 172.17.0.1/32 -j RETURN"]
    assert forwarded[3:] == [f"-d {network} -j REJECT" for network in private_networks.CLOSED]


def test_every_special_purpose_address_is_closed_and_the_internet_is_not() -> None:
    special = [
        "0.0.0.0",
        "10.0.0.1",
        "10.255.255.255",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.170",
        "192.168.255.1",
        "198.18.0.1",
        "198.19.255.255",
        "224.0.0.251",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
    ]
    assert [address for address in special if not private_networks.is_closed(address)] == []
    public = [
        "1.1.1.1",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
    ]
    assert [address for address in public if private_networks.is_closed(address)] == []


def test_named_services_are_let_through_where_they_would_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    named = [
        ("192.0.2.1", 443),
        ("127.0.0.1", 3141),
        ("no.such.host.invalid", 80),
        ("10.0.0.7", 3141),
        ("10.0.0.7", 3141),
        ("203.0.113.9", 3142),
    ]
    monkeypatch.setattr(allowed_hosts, "_is_own", lambda address: address in ("127.0.0.1", "203.0.113.9"))
    assert allowed_hosts.behind_the_firewall(named) == [("10.0.0.7", 3141), ("203.0.113.9", 3142)]


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
