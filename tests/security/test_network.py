"""What a container with egress reaches of private networks and of this machine: real containers, real listeners.

The private networks are addresses of a network namespace behind a pair of virtual interfaces, made here: what comes to
them was forwarded by this machine as to any other one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.docker import TEST_IMAGE
from support.engines import CONNECT, FOREVER, DockerKit
from support.needs import skip
from support.waiting import wait_until

from ci_runner.controller.engines.docker import container_profile, network
from ci_runner.controller.engines.docker.allowed_hosts import Service
from ci_runner.controller.engines.docker.engine import DockerEngine
from ci_runner.controller.engines.docker.network import DockerNetwork
from ci_runner.controller.engines.docker.private_networks import is_closed

pytestmark = pytest.mark.docker


@pytest.fixture(autouse=True)
def networks() -> None:
    """Networks that a test makes need these."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("iptables") is None:
        skip("needs root, ip and iptables")


PORT = 8099
#: One in each closed network that a machine can have; third and fourth numbers are the test's.
PRIVATE = ("10.213", "100.64", "169.254", "172.30", "192.168", "198.18")
#: Of a network for documents: nobody's, and not closed.
PUBLIC = "198.51"

SERVER = """
import select, socket, sys
listeners = [socket.create_server((address, int(sys.argv[1])), reuse_port=True) for address in sys.argv[2:]]
print("ready", flush=True)
while True:
    for each in select.select(listeners, [], [])[0]:
        each.accept()[0].close()
"""

#: Sends a datagram to each address and writes what it was answered: nothing, or the refusal.
SEND = """
import errno, json, socket, sys
found = {}
for target in sys.argv[2:]:
    host, port = target.rsplit(" ", 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(20)
        try:
            sender.connect((host, int(port)))
            sender.send(b"x")
            found[host] = str(sender.recv(10))
        except OSError as error:
            found[host] = errno.errorcode.get(error.errno, str(error))
json.dump(found, open(sys.argv[1], "w"))
"""

ADDRESSES = """
import json, sys
json.dump([line.split()[-1] for line in open("/proc/net/if_inet6")], open(sys.argv[1], "w"))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)


@contextmanager
def other_machine(addresses: Sequence[str]) -> Iterator[None]:
    """A network namespace with these addresses, a listener at each, and routes to them."""
    name = f"citest{secrets.token_hex(4)}"
    here, there = f"{name}a", f"{name}b"
    ip("netns", "add", name)
    try:
        ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
        ip("link", "set", here, "up")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", there, "up")
        ip("-n", name, "route", "add", "default", "dev", there)
        for address in addresses:
            ip("-n", name, "address", "add", f"{address}/32", "dev", there)
            ip("route", "add", f"{address}/32", "dev", here)
        command = ["ip", "netns", "exec", name, "python3", "-I", "-c", SERVER, str(PORT), *addresses]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield
        finally:
            server.kill()
            server.communicate()
    finally:
        ip("netns", "del", name)  # takes the interfaces and routes with it


class EgressKit(DockerKit):
    """Engines with networks or services that are open."""

    allowed: Sequence[str] = ()
    services: Sequence[Service] = ()

    def make(self, install: str) -> Any:
        return DockerEngine(
            install, scratch=self.folder, allowed_networks=self.allowed, services=self.services
        )

    def opened(self, allowed: Sequence[str] = (), services: Sequence[Service] = ()) -> None:
        """As after a restart with other settings."""
        self.engine.close()
        self.allowed, self.services = allowed, services
        self.engine = self.make(self.install)

    def run(self, program: str, *arguments: str) -> Any:
        """What a program in a container with egress wrote."""
        return self.run_program(program, *arguments, network="egress")


@pytest.fixture
def kit(tmp_path: Path) -> Iterator[EgressKit]:
    made = EgressKit(tmp_path, TEST_IMAGE)
    try:
        yield made
    finally:
        made.dispose()


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, str]]:
    """Beginning of an address → address of the other machine."""
    numbers = f"{secrets.randbelow(250) + 2}.{secrets.randbelow(250) + 2}"
    found = {start: f"{start}.{numbers}" for start in PRIVATE}
    found[PUBLIC] = f"{PUBLIC}.100.{numbers.split('.')[1]}"
    with other_machine(list(found.values())):
        yield found


def at(addresses: Sequence[str], port: int = PORT) -> list[str]:
    return [f"{address} {port}" for address in addresses]


def test_private_networks_are_refused_at_once_unless_they_are_opened(
    kit: EgressKit, targets: dict[str, str]
) -> None:
    everything = at([*targets.values()])
    private = [targets[start] for start in PRIVATE]
    refused = dict.fromkeys(private, "ECONNREFUSED")
    assert kit.run(CONNECT, *everything) == {**refused, targets[PUBLIC]: "connected"}
    kit.opened(["10.213.0.0/16", f"{targets['192.168']}/32"])
    opened = dict.fromkeys((targets["10.213"], targets["192.168"]), "connected")
    assert kit.run(CONNECT, *everything) == {**refused, **opened, targets[PUBLIC]: "connected"}
    kit.opened(["0.0.0.0/0"])
    assert set(kit.run(CONNECT, *everything).values()) == {"connected"}
    kit.opened()
    assert kit.run(CONNECT, *everything) == {**refused, targets[PUBLIC]: "connected"}


def test_rules_that_a_reload_took_away_come_back_while_containers_run(
    kit: EgressKit, targets: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of the controller: nothing is created, and the rules are looked after all the same."""
    kit.launch(FOREVER, "runs", network="egress")
    network_of(kit).firewall.remove()
    everything = at([targets["10.213"]])
    assert kit.run(CONNECT, *everything) == {targets["10.213"]: "connected"}
    kit.engine = kit.make(kit.install)
    kit.engine.sweep(frozenset())
    monkeypatch.setattr(network, "_FRESH", 1e9)  # what follows is not what sets them
    assert kit.run(CONNECT, *everything) == {targets["10.213"]: "ECONNREFUSED"}


def test_datagrams_are_refused_as_connections_are(kit: EgressKit, targets: dict[str, str]) -> None:
    private = [targets[start] for start in PRIVATE]
    assert kit.run(SEND, *at(private, 53)) == dict.fromkeys(private, "ECONNREFUSED")


def test_an_index_in_a_private_network_is_reached_at_its_port_and_nothing_beside_it(
    kit: EgressKit, targets: dict[str, str]
) -> None:
    kit.opened(services=[(targets["10.213"], PORT)])
    found = kit.run(CONNECT, *at([targets["10.213"], targets["192.168"]]))
    assert found == {targets["10.213"]: "connected", targets["192.168"]: "ECONNREFUSED"}
    kit.opened(services=[(targets["10.213"], PORT + 1)])
    assert kit.run(CONNECT, *at([targets["10.213"]])) == {targets["10.213"]: "ECONNREFUSED"}


def own_addresses() -> list[str]:
    """IPv4 addresses of this machine, but for loopback and for interfaces that other tests make and remove."""
    listed = subprocess.run(
        ["ip", "-4", "-json", "address"], capture_output=True, text=True, check=True
    ).stdout
    return [
        entry["local"]
        for interface in json.loads(listed)
        if not interface["ifname"].startswith(("cir", "br-", "veth", "citest"))
        for entry in interface["addr_info"]
        if not entry["local"].startswith("127.")
    ]


def network_of(kit: EgressKit) -> DockerNetwork:
    """The install's network, which is there."""
    assert isinstance(kit.engine, DockerEngine)
    kit.engine.network.ensure()
    return kit.engine.network


def test_no_address_of_this_machine_answers_whatever_networks_are_opened(kit: EgressKit) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]
        for allowed in ([], ["0.0.0.0/0", "172.16.0.0/12"]):
            kit.opened(allowed)
            addresses = [*dict.fromkeys([network_of(kit).gateway() or "", *own_addresses()])]
            assert len(addresses) > 1
            assert kit.run(CONNECT, *at(addresses, port)) == dict.fromkeys(addresses, "ECONNREFUSED")
        (uplink,) = [address for address in own_addresses() if not is_closed(address)][:1] or addresses[-1:]
        kit.opened([f"{uplink}/32"])
        assert kit.run(CONNECT, *at([uplink], port)) == {uplink: "connected"}


def test_containers_have_no_ipv6(kit: EgressKit) -> None:
    assert set(kit.run(ADDRESSES)) <= {"lo"}
    hosts = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    addresses = [socket.inet_ntop(socket.AF_INET6, bytes.fromhex(fields[0])) for fields in hosts]
    with socket.create_server(("::", 0), family=socket.AF_INET6) as server:
        targets = [address for address in addresses if address != "::1"]
        mapped = [f"::ffff:{address}" for address in own_addresses()]
        found = kit.run(CONNECT, *at([*targets, *mapped], server.getsockname()[1]))
    assert "connected" not in found.values()
    assert len(found) == len(targets) + len(mapped)


def answers(address: str, port: int) -> bool:
    """Whether this machine reaches one of its own addresses, which it does not at once."""
    try:
        socket.create_connection((address, port), 5).close()
    except OSError:
        return False
    return True


def test_ipv6_is_rejected_where_a_network_has_it_all_the_same(kit: EgressKit) -> None:
    """As a daemon would make it that gives every network IPv6."""
    assert isinstance(kit.engine, DockerEngine)
    client: Any = kit.engine.api.client
    config = container_profile.network_config(kit.install)
    del config["options"]["com.docker.network.enable_ipv6"]
    prefix = f"fd00:{secrets.token_hex(2)}:{secrets.token_hex(2)}"
    ipam = {"Driver": "default", "Config": [{"Subnet": f"{prefix}::/64"}]}
    client.create_network(**config, enable_ipv6=True, ipam=ipam)
    assert "eth0" in kit.run(ADDRESSES)
    with socket.create_server(("::", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        # A bridge whose last container is gone has no carrier, and its address may never become usable.
        kit.launch(FOREVER, "holder", network="egress")
        wait_until(lambda: answers(f"{prefix}::1", port), what="the bridge")
        found = kit.run(CONNECT, *at([f"{prefix}::1", "fd00::2", "2001:db8::1"], port))
        assert "connected" not in found.values()
        network_of(kit).firewall.remove()  # without the rules it would
        assert kit.run(CONNECT, *at([f"{prefix}::1"], port)) == {f"{prefix}::1": "connected"}


def test_containers_of_one_install_do_not_reach_each_other_at_once(kit: EgressKit) -> None:
    _, address = kit.launch_server(8000)
    assert kit.run(CONNECT, f"{address} 8000") == {address: "ECONNREFUSED"}


def test_names_are_resolved(kit: EgressKit) -> None:
    host = os.environ.get("CI_RUNNER_TEST_EGRESS", "pypi.org:443").partition(":")[0]
    try:
        socket.getaddrinfo(host, None, socket.AF_INET)
    except OSError:
        skip(f"this machine itself cannot resolve {host}")
    program = "import json,socket,sys; json.dump(len(socket.getaddrinfo(sys.argv[2], 443)) > 0, open(sys.argv[1], 'w'))"
    assert kit.run(program, host) is True


def test_what_a_killed_process_left_is_removed_by_the_next_one_unless_it_is_used(kit: EgressKit) -> None:
    killed = network_of(kit)
    for is_used in (True, False):
        killed.ensure()
        assert killed.firewall.chains()
        if is_used:
            container_id = kit.launch(FOREVER, "holder", network="egress")
        following = DockerEngine(kit.install, scratch=kit.folder)
        try:
            following.sweep(frozenset())
            assert (killed.inspect() is not None) == is_used
            assert bool(killed.firewall.chains()) == is_used
        finally:
            following.close()
        if is_used:
            kit.engine.remove(container_id)
