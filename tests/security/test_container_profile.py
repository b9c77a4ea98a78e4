"""What the code of a job can do in its container: escape probes against a real engine.

One container runs all probes that harm nobody else and writes what happened; each test reads one line of it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.engines import CONNECT, FOREVER, Behaviour, DockerKit, Kit, kit_for

from ci_runner.controller.engine import Bind, Limits

pytestmark = pytest.mark.docker

PROBES = Path(__file__).with_name("probes.py")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with kit_for("docker", tmp_path_factory.mktemp("security")) as kit:
        yield kit


@pytest.fixture(scope="module")
def said(kit: Kit) -> dict[str, Any]:
    """What all probes said, from one container."""
    tools = kit.new_folder("tools")
    (tools / "worker.py").write_text("pass\n")
    kit.own(tools)
    overlay = kit.overlay()
    (overlay.lowers[0] / "escape").symlink_to("/etc/machine-id")
    result: dict[str, Any] = kit.run_program(
        PROBES.read_text(),
        overlay=overlay,
        cwd="/workspace",
        binds=(Bind(tools, "/ci/tools"),),
    )
    return result


@pytest.mark.parametrize(
    ("probe", "expected"),
    [
        pytest.param("uid", [65532, 65532, 65532] if os.getuid() == 0 else [os.getuid()] * 3, id="not root"),
        pytest.param("groups", [65532] if os.getuid() == 0 else [os.getgid()], id="no further groups"),
        pytest.param("capabilities", [0, 0, 0, 0, 0], id="no capability in any set"),
        pytest.param("no_new_privileges", 1, id="no new privileges"),
        pytest.param("seccomp", 2, id="system calls are filtered"),
        pytest.param("hostname", "job", id="the host's name is not known"),
        pytest.param("sockets", [], id="no socket of an engine"),
        pytest.param("writable", [], id="no folder outside its own can be written"),
        pytest.param("kernel_files", [], id="no kernel file can be written or read"),
        pytest.param("devices", [], id="no device of the host"),
        pytest.param("system_calls", [], id="no dangerous system call succeeds"),
        pytest.param("foreign_processes", [], id="no process of another container or of the host"),
        pytest.param("foreign_mounts", [], id="no mount shows another folder of the host writable"),
        pytest.param("leaked_descriptors", [], id="no descriptor leads outside"),
        pytest.param("interfaces", ["lo"], id="no network but loopback"),
        pytest.param("connections", [], id="nobody can be reached"),
        pytest.param("core_limit", [0, 0], id="no core files"),
        pytest.param("loopback", True, id="loopback servers work"),
        pytest.param("executable_tmp", True, id="compiled extensions in /tmp work"),
        pytest.param("workspace", True, id="the workspace can be written"),
        pytest.param("home", True, id="the home folder can be written"),
    ],
)
def test_a_job_is_contained(said: dict[str, Any], probe: str, expected: Any) -> None:
    assert said[probe] == expected


def test_processes_are_bounded(said: dict[str, Any]) -> None:
    assert 10 < said["forks"] < 64


def test_one_file_is_bounded(kit: Kit) -> None:
    program = (
        "import json,signal,sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        "    with open('/ci/spool/big', 'wb', buffering=0) as file:\n"
        "        for _ in range(64): file.write(b'x' * (1 << 20))\n"
        "    said = 'no limit'\n"
        "except OSError as error: said = error.errno\n"
        "json.dump(said, open(sys.argv[1], 'w'))\n"
    )
    limits = Limits(memory=256 << 20, pids=64, file_size=8 << 20, tmp_size=16 << 20)
    assert kit.run_program(program, limits=limits) == 27  # EFBIG


def test_temporary_files_are_bounded(kit: Kit) -> None:
    program = (
        "import json,sys\n"
        "said = []\n"
        "for place in ('/tmp/big', '/var/tmp/big', '/ci/home/big', '/dev/shm/big'):\n"
        "    try:\n"
        "        with open(place, 'wb', buffering=0) as file:\n"
        "            for _ in range(128): file.write(b'x' * (1 << 20))\n"
        "        said.append('no limit')\n"
        "    except OSError as error: said.append(error.errno)\n"
        "json.dump(said, open(sys.argv[1], 'w'))\n"
    )
    size = 16 << 20
    limits = Limits(memory=512 << 20, pids=64, tmp_size=size, shm_size=size, home_size=size)
    assert kit.run_program(program, limits=limits) == [28] * 4  # ENOSPC


def test_a_fork_bomb_ends_with_its_container(kit: Kit) -> None:
    bomb = (
        "import os\n"
        "open('/ci/spool/stdout', 'w').write('ready')\n"
        "while True:\n"
        "    try: os.fork()\n"
        "    except OSError: pass\n"
    )
    container_id = kit.launch(Behaviour(""), "bomb", argv=("python3", "-c", bomb))
    kit.ready("bomb")
    kit.engine.signal(container_id, "KILL")
    assert kit.ended(container_id, 30).exit_code == 137
    kit.engine.remove(container_id)


def test_too_much_memory_ends_the_container_and_is_told(kit: Kit) -> None:
    limits = Limits(memory=64 << 20, pids=64)
    program = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    container_id = kit.launch(Behaviour(""), "memory", argv=("python3", "-c", program), limits=limits)
    seen = kit.ended(container_id, 60)
    assert (seen.exit_code, seen.oom_killed) == (137, True)
    kit.engine.remove(container_id)


def test_a_child_killed_for_memory_is_told_apart(kit: Kit) -> None:
    limits = Limits(memory=64 << 20, pids=64)
    program = "import subprocess,sys; subprocess.run([sys.executable,'-c','x=bytearray(1<<30)'])"
    container_id = kit.launch(Behaviour(""), "child", argv=("python3", "-c", program), limits=limits)
    seen = kit.ended(container_id, 60)
    assert (seen.exit_code, seen.oom_killed) == (0, True)
    kit.engine.remove(container_id)


# -- with egress


@pytest.fixture
def docker(kit: Kit) -> Any:
    assert isinstance(kit, DockerKit)
    engine: Any = kit.engine
    engine.network.ensure()
    return engine


def test_containers_do_not_reach_each_other(kit: Kit, docker: Any) -> None:
    assert isinstance(kit, DockerKit)
    container_id, address = kit.launch_server(8000)
    name = kit.spec(FOREVER, "server").name
    found = kit.run_program(CONNECT, f"{address} 8000", f"{name} 8000", network="egress")
    assert found.keys() == {address, name}
    assert "connected" not in found.values()
    kit.engine.remove(container_id)


def test_containers_reach_neither_the_host_nor_metadata_or_the_probe_says_so(kit: Kit, docker: Any) -> None:
    gateway = docker.network.gateway()
    with socket.create_server((gateway, 0)) as server:
        port = server.getsockname()[1]
        targets = (f"{gateway} {port}", "169.254.169.254 80", "169.254.170.2 80")
        found = kit.run_program(CONNECT, *targets, network="egress")
    assert len(found) == len(targets)
    if docker.network.problem is None:
        assert "connected" not in found.values()
        assert not [text for text in docker.probe().problems if "containers can connect" in text]
    else:
        assert [text for text in docker.probe().problems if docker.network.problem in text]


def test_containers_reach_what_lies_beyond_the_host(kit: Kit) -> None:
    host = os.environ.get("CI_RUNNER_TEST_EGRESS", "pypi.org:443")
    try:
        socket.create_connection((host.partition(":")[0], 443), 5).close()
    except OSError:
        pytest.skip(f"this machine itself cannot reach {host}")
    found = kit.run_program(CONNECT, host.replace(":", " "), network="egress")
    assert list(found.values()) == ["connected"]


def test_nothing_is_left_when_an_install_goes(tmp_path: Path) -> None:
    with kit_for("docker", tmp_path) as kit:
        engine: Any = kit.engine
        kit.launch(FOREVER, network="egress", overlay=kit.overlay(), cwd="/workspace")
        label = {"label": f"ci-runner.install={kit.install}"}
        engine.uninstall()
        assert engine.api.client.containers(all=True, filters=label) == []
        assert not engine.api.client.volumes(filters=label)["Volumes"]
        assert engine.api.client.networks(filters=label) == []
        assert engine.network.firewall._try("-S", f"CI-RUNNER-{kit.install}") is None
