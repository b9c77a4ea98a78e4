"""Probe of a Docker engine: run a throw-away container once to learn what works.

A remote or desktop engine may not see the runner's folders; an old one may be unsafe. The operator gets sentences
(`ci-runner doctor`, the log at the start), the controller gets `usable`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ci_runner.controller.engine import SPOOL, Bind, ContainerSpec, Limits, Overlay, Probe
from ci_runner.controller.engines.docker import docker_json, image_refs
from ci_runner.controller.engines.docker.container_profile import Features
from ci_runner.controller.engines.docker.network import DockerNetwork
from ci_runner.errors import EngineUnavailable, PermanentError
from ci_runner.storage.safe_fs import Trash, opened_folder, read_plain_file

log = logging.getLogger(__name__)

#: First runc of each line that fixes the escapes of November 2025 (CVE-2025-31133, -52565, -52881).
_SAFE_RUNC: Final = ((1, 2, 8), (1, 3, 3), (1, 4, 0))
METADATA: Final = "169.254.169.254"
#: The script of the probe's container; prints one word per working feature.
_SCRIPT: Final = """
[ "$(cat /ci/spool/in)" = "$1" ] && echo bind
echo "$1" >>/ci/spool/out && echo append
[ "$(cat /probe-workspace/lower)" = "$1" ] && echo "$1" >/probe-workspace/upper && echo overlay
mv /probe-workspace/folder /probe-workspace/renamed && [ -f /probe-workspace/renamed/inside ] && echo renamed
grep -q '^00000000000000000000000000000001 ' /proc/net/if_inet6 && echo ipv6
python3 -I -S -c '
import socket, sys
for name, host, port in (("host", sys.argv[1], sys.argv[2]), ("metadata", sys.argv[3], 80)):
    try:
        if host: socket.create_connection((host, int(port)), 1).close(); print(name)
    except OSError: pass
try:
    if any(line.split()[-1] != "lo" for line in open("/proc/net/if_inet6")): print("ipv6")
except OSError: pass
print("network")' "$2" "$3" "$4" 2>/dev/null
true
"""
#: Feature sets to try in order, until a container starts.
_CANDIDATES: Final = tuple(Features(renames, ipv6) for renames in (True, False) for ipv6 in (True, False))


@dataclass(frozen=True)
class Container:
    """The engine calls with which the probe runs its container."""

    #: Runs a spec to its end, removes everything, and returns the output.
    run: Callable[[ContainerSpec, Features], str]
    own: Callable[[Path], None]


def probe(
    version: docker_json.Version,
    info: docker_json.Info,
    base_url: str,
    image: docker_json.ImageSummary | None,
    scratch: Path,
    network: DockerNetwork,
    container: Container,
) -> tuple[Probe, Features | None]:
    """Return all findings; see `Engine.probe`. Features are None if there is no image to test them with."""
    facts = describe(version, info, base_url)
    fatal = unreachable_host(info, base_url)
    problems = list(warnings(version, info))
    features: Features | None = None
    if fatal is None and image is None:
        problems.append(
            "mounts could not be checked: no base image found; pull one or run `ci-runner image build`"
        )
        unfiltered = network.firewall.problem()
        problems += [_open(unfiltered)] if unfiltered else []
    elif fatal is None and image is not None:
        facts["probe image"] = (image.get("RepoTags") or [image["Id"]])[0]
        try:
            fatal, more, features = _try_mounts(image["Id"], scratch, network, container, facts)
            problems = more + problems
        except EngineUnavailable:
            raise
        except PermanentError as error:
            fatal = f"a container like those of jobs cannot run: {error}"
    if fatal is not None:
        problems.insert(0, fatal)
    return Probe(version["Version"], True, fatal is None, tuple(problems), facts), features


def describe(version: docker_json.Version, info: docker_json.Info, base_url: str) -> dict[str, str]:
    """Return facts for an operator."""
    return {
        "url": base_url,
        "api": str(version.get("ApiVersion")),
        "runc": str(runc_version(version)),
        "storage driver": str(info.get("Driver")),
        "cgroup": f"v{info.get('CgroupVersion', '1')} ({info.get('CgroupDriver')})",
        "live-restore": "on" if info.get("LiveRestoreEnabled") else "off",
        "security": ", ".join(_security(info)) or "none",
        "system": str(info.get("OperatingSystem")),
        "cpus": str(info.get("NCPU")),
        "memory": str(info.get("MemTotal")),
    }


def unreachable_host(info: docker_json.Info, base_url: str) -> str | None:
    """Return why this engine cannot share folders with the runner, or None if it may."""
    if not base_url.startswith(("unix://", "http+unix://", "npipe://")):
        return f"the engine at {base_url} is on another machine, so it cannot see the runner's folders"
    if info.get("OSType", "linux") != "linux":
        return "the engine does not run Linux containers"
    if (info.get("Swarm") or {}).get("LocalNodeState") == "error":
        return "the engine's swarm membership is broken"
    return None


def warnings(version: docker_json.Version, info: docker_json.Info) -> list[str]:
    """Return sentences about problems that do not prevent jobs."""
    result = []
    runc = runc_version(version)
    if runc is not None and not is_safe_runc(runc):
        result.append(
            f"runc {runc} lets containers escape (CVE-2025-31133, -52565, -52881) unless the "
            "distribution patched it; 1.2.8, 1.3.3 or 1.4.0 and later are not"
        )
    names = _security(info)
    if "seccomp" not in names:
        result.append("the engine runs containers without seccomp")
    if "apparmor" not in names and "selinux" not in names:
        result.append("neither AppArmor nor SELinux confines containers on this machine")
    if not info.get("LiveRestoreEnabled"):
        result.append('jobs die when the engine restarts: set {"live-restore": true} in its daemon.json')
    limits = (
        (info.get("MemoryLimit"), "memory"),
        (info.get("PidsLimit"), "process"),
        (info.get("CpuCfsQuota"), "CPU"),
    )
    for enforced, what in limits:
        if enforced is False:
            result.append(f"the engine cannot enforce {what} limits")
    return result


def runc_version(version: docker_json.Version) -> str | None:
    """Return the version that the engine reports, or None for other runtimes."""
    for component in version.get("Components") or ():
        if component.get("Name") == "runc":
            return str(component.get("Version"))
    return None


def is_safe_runc(text: str) -> bool:
    """Return whether a version is at least the fixed one of its line; accept versions that cannot be parsed."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    if match is None:
        return True
    found = (int(match[1]), int(match[2]), int(match[3]))
    for safe in _SAFE_RUNC:
        if found[:2] == safe[:2]:
            return found >= safe
    return found > _SAFE_RUNC[-1]


def _security(info: docker_json.Info) -> list[str]:
    """Return the names from ["name=seccomp,profile=default", …]."""
    return [part.split(",")[0].removeprefix("name=") for part in info.get("SecurityOptions") or ()]


def _try_mounts(
    image_id: str, scratch: Path, network: DockerNetwork, container: Container, facts: dict[str, str]
) -> tuple[str | None, list[str], Features]:
    """Run the probe's container; return (why nothing can run, or None; further problems; working features)."""
    token = uuid.uuid4().hex
    scratch.mkdir(parents=True, exist_ok=True)
    folder = scratch / f".probe-{token}"
    try:
        for name in ("spool", "lower", "upper", "work"):
            (folder / name).mkdir(parents=True)
        (folder / "spool" / "in").write_text(token)
        (folder / "lower" / "lower").write_text(token)
        (folder / "lower" / "folder").mkdir()
        (folder / "lower" / "folder" / "inside").write_text(token)
        container.own(folder)
        network.ensure()
        gateway = network.gateway() or ""
        with _listener(gateway) as port:
            argv = ("sh", "-c", _SCRIPT, "probe", token, gateway if port else "", str(port or 0), METADATA)
            spec = ContainerSpec(
                name=f"ci-runner-probe-{token}",
                image_id=image_id,
                argv=argv,
                role="test",
                job_id="",
                attempt=0,
                binds=(Bind(folder / "spool", SPOOL, read_only=False),),
                overlay=Overlay((folder / "lower",), folder / "upper", folder / "work", "/probe-workspace"),
                limits=Limits(memory=256 << 20, tmp_size=16 << 20, pids=64),
            )
            results = _run(container, spec).split()
        seen, above = _read(folder / "spool", "out"), _read(folder / "upper", "upper")
        facts["probe"] = " ".join(results)
        # `mv` copies what it cannot rename; the copy is then in `upper`.
        renames = "renamed" in results and not (folder / "upper" / "renamed" / "inside").exists()
        features = Features(renames, "ipv6" in results)
        if "bind" not in results or "append" not in results or seen != token:
            return (
                "the engine does not see the runner's folders: is it remote, or in a virtual machine?",
                [],
                features,
            )
        if "overlay" not in results or above != token:
            words = "the engine cannot mount writable workspaces (overlay) over the runner's folders"
            return words, [], features
        return None, _reachable(results, gateway, network) + _lacking(features), features
    finally:
        with contextlib.suppress(OSError):
            Trash(scratch / ".trash").remove(folder)
            (scratch / ".trash").rmdir()


def _read(folder: Path, name: str) -> str:
    """Return the text that a container of an untrusted image wrote; "" unless it is a short plain file."""
    with opened_folder(folder) as opened:
        return (read_plain_file(opened, name, 1000) or b"").decode(errors="replace").strip()


def _run(container: Container, spec: ContainerSpec) -> str:
    """Return the output of the first container that starts: engines refuse settings unknown to their kernel."""
    for features in _CANDIDATES[:-1]:
        with contextlib.suppress(PermanentError):
            return container.run(spec, features)
    return container.run(spec, _CANDIDATES[-1])


def _lacking(features: Features) -> list[str]:
    """Return sentences about features that only other engines have."""
    result = []
    if not features.renames:
        result.append(
            "tests cannot rename folders of their project: the kernel does not support redirect_dir for overlays"
        )
    if not features.ipv6_loopback:
        result.append("containers have no ::1: the kernel has no IPv6")
    return result


def _open(problem: str) -> str:
    return (
        f"private networks and link-local addresses are not closed to containers ({problem}): "
        'run the runner as root where Docker uses iptables, or set network = "none"'
    )


def _reachable(results: list[str], gateway: str, network: DockerNetwork) -> list[str]:
    """Return sentences about what containers with egress reach although they should not."""
    why = f" ({network.problem})" if network.problem else ""
    result = []
    if "network" not in results:
        result.append("what containers can reach could not be checked: the base image has no python3")
    if "host" in results:
        result.append(
            f"containers can connect to services of this machine at {gateway}{why}; "
            f'block interface {network.firewall.bridge} in INPUT, or set network = "none"'
        )
    if "metadata" in results:
        result.append(f"containers can connect to the cloud's metadata service at {METADATA}{why}")
    if network.problem:
        result.append(_open(network.problem))
    if "ipv6" in results and network.firewall.ipv6_problem:
        result.append(
            f"containers have IPv6 addresses, and IPv6 is not filtered ({network.firewall.ipv6_problem})"
        )
    return result


@contextlib.contextmanager
def _listener(address: str) -> Iterator[int | None]:
    """Listen on the network's address of this machine; yield the port, or None if that is impossible."""
    with contextlib.ExitStack() as stack:
        port: int | None = None
        if address:
            server = stack.enter_context(socket.socket())
            try:
                server.bind((address, 0))
                server.listen(8)
                port = server.getsockname()[1]
            except OSError as error:
                log.debug("the probe cannot listen at %s: %s", address, error)
        yield port


def choose_image(images: Sequence[docker_json.ImageSummary]) -> docker_json.ImageSummary | None:
    """Return the local image that is likeliest a base image: the runner's own, then Python's, then any tagged one."""
    tagged = [image for image in images if any(tag != "<none>:<none>" for tag in image.get("RepoTags") or ())]

    def rank(image: docker_json.ImageSummary) -> tuple[int, int]:
        text = json.dumps([image.get("RepoTags"), image.get("Labels")])
        wanted = (image_refs.LABEL_PYTHONS, "ci-runner", "python")
        return next((place for place, word in enumerate(wanted) if word in text), len(wanted)), image["Size"]

    return min(tagged, key=rank, default=None)
