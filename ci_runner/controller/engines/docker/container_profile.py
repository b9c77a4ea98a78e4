"""Conversion between the engine's specs and Docker's JSON: pure functions, no SDK and no I/O.

The containment profile (what a container may not do) is defined only here; a golden file pins it. `engine` sends the
JSON and handles everything that can fail.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, cast, get_args

from ci_runner.controller.engine import (
    HOME,
    LABEL_ATTEMPT,
    LABEL_INSTALL,
    LABEL_JOB,
    LABEL_ROLE,
    Bind,
    ContainerSpec,
    ContainerState,
    Limits,
    Observed,
    Overlay,
    Role,
    ServiceSpec,
)
from ci_runner.controller.engines.docker import docker_json, warm_containers
from ci_runner.errors import PermanentError

#: On volumes: name of the container that they were made for.
LABEL_CONTAINER: Final = "ci-runner.container"
#: Role of the throw-away containers with which the engine probes itself; they belong to no job.
ROLE_PROBE: Final = "probe"

#: Size limit of the engine's one log file: for the post-mortem of a worker that never started.
LOG_SIZE: Final = "1m"
_HOSTNAME: Final = "job"
#: Folders of the image that no mount may hide, or be placed in.
_SYSTEM: Final = ("/proc", "/sys", "/dev", "/bin", "/sbin", "/lib", "/lib64", "/usr", "/etc", "/boot")
#: Bytes: mount(2) takes one page of options.
_MOUNT_OPTIONS_LIMIT: Final = 4095
#: A renamed folder stays in the lower layers, and `upper` gets a reference to it: an extended attribute that only the
#: kernel can set (`trusted.` needs a capability that no container has) and that cannot lead out of the lower layers.
#: Only for tests: a build's output becomes a lower layer over other trees, where a reference would mean other files.
#: Files of which only the mode changed are copied whole, because artifacts are read from `upper`.
_RENAMES: Final = ",redirect_dir=on,metacopy=off"
_NO_TIME: Final = "0001-01-01"


@dataclass(frozen=True)
class Features:
    """Features that only some kernels and engines have; the engine's probe detects them."""

    #: Folders of a workspace can be renamed (the overlay's option `redirect_dir`).
    renames: bool = False
    #: The loopback has `::1` even where the engine gives containers no IPv6.
    ipv6_loopback: bool = False


@dataclass(frozen=True)
class Profile:
    """Settings that all containers of one install share."""

    install: str
    #: User id of the job's processes; never 0.
    uid: int
    gid: int
    features: Features = Features()

    @property
    def user(self) -> str:
        """Return the user and group in the engine's notation."""
        return f"{self.uid}:{self.gid}"


def short_install(install: str) -> str:
    """Return 12 characters that identify an install where space is short (bridge names have 15)."""
    if re.fullmatch(r"[0-9a-f]{12}", install):
        return install
    return hashlib.sha256(install.encode()).hexdigest()[:12]


def network_name(install: str) -> str:
    """Return the name of the network that containers with egress join."""
    return f"ci-runner-{short_install(install)}"


def bridge_name(install: str) -> str:
    """Return the network's interface on the host, by which firewall rules match it."""
    return f"cir{short_install(install)}"


def network_config(install: str, mtu: int | None = None) -> docker_json.NetworkConfig:
    """Return arguments for the SDK's `create_network`: no traffic between containers of one install, and no IPv6."""
    options = {
        # Daemons may be configured to give new networks IPv6.
        "com.docker.network.enable_ipv6": "false",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.name": bridge_name(install),
    }
    if mtu is not None:
        options["com.docker.network.driver.mtu"] = str(mtu)
    return {
        "name": network_name(install),
        "driver": "bridge",
        "labels": {LABEL_INSTALL: install},
        "options": options,
        "check_duplicate": True,
    }


def volume_name(container: str, part: str = "workspace") -> str:
    """Return the name of a container's volume for its workspace, or for its kept folders."""
    return f"{container}-{part}"


def labels(spec: ContainerSpec, install: str) -> dict[str, str]:
    """Return the labels by which a container is recognised and adopted."""
    ahead = {} if spec.ahead_of is None else {warm_containers.LABEL_AHEAD: spec.ahead_of}
    return {
        LABEL_INSTALL: install,
        LABEL_ROLE: spec.role,
        LABEL_JOB: spec.job_id,
        LABEL_ATTEMPT: str(spec.attempt),
        **ahead,
    }


def container_config(spec: ContainerSpec, profile: Profile) -> docker_json.ContainerConfig:
    """Return the body of `POST /containers/create`. Raises `PermanentError` for impossible mounts."""
    config: docker_json.ContainerConfig = {
        "Image": spec.image_id,
        # Replaces the image's entry point, which would change literal arguments.
        "Entrypoint": [spec.argv[0]],
        "Cmd": list(spec.argv[1:]),
        "WorkingDir": spec.cwd,
        "User": _user(spec, profile),
        "Hostname": _HOSTNAME,
        # An unmapped uid has no name: getpass.getuser() and friends need these.
        "Env": environment({"HOME": HOME, "USER": "runner", "LOGNAME": "runner", **spec.env}),
        "Labels": labels(spec, profile.install),
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdout": False,
        "AttachStderr": False,
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": _host_config(spec, profile),
    }
    if spec.join is not None:
        del config["Hostname"]  # set by the joined network
    return config


def _user(spec: ContainerSpec, profile: Profile) -> str:
    return profile.user if spec.uid is None else f"{spec.uid}:{spec.uid}"


def _host_config(spec: ContainerSpec, profile: Profile) -> docker_json.HostConfig:
    limits = spec.limits
    uid, _, gid = _user(spec, profile).partition(":")
    owner = f"uid={uid},gid={gid}"
    tmp = f"rw,exec,nosuid,nodev,mode=1777,size={limits.tmp_size}"
    return {
        **_names(spec),
        **loopback(profile),
        **confined(limits),
        "NetworkMode": network_mode(spec, profile),
        "ReadonlyRootfs": True,
        "OomScoreAdj": 500,
        "ShmSize": limits.shm_size,
        "Ulimits": [
            ulimit("core", 0),
            ulimit("fsize", limits.file_size),
            ulimit("nofile", limits.open_files, limits.soft_open_files),
        ],
        "Tmpfs": {
            "/tmp": tmp,  # noqa: S108  # a mount in the container
            "/var/tmp": tmp,  # noqa: S108  # a mount in the container
            HOME: f"rw,exec,nosuid,nodev,mode=0700,size={limits.home_size},{owner}",
        },
        "Mounts": mounts(spec, profile),
    }


def _names(spec: ContainerSpec) -> docker_json.HostConfig:
    """Return the container's host names: without a network its name has no address; a joined network has its own."""
    if spec.join is not None or spec.network != "none":
        return {}
    return {"ExtraHosts": [f"{_HOSTNAME}:127.0.0.1"]}


def loopback(profile: Profile) -> docker_json.HostConfig:
    """Return the setting that adds `::1`, which /etc/hosts names, to the loopback; other interfaces get no IPv6."""
    if not profile.features.ipv6_loopback:
        return {}
    return {"Sysctls": {"net.ipv6.conf.lo.disable_ipv6": "0"}}


def network_mode(spec: ContainerSpec | ServiceSpec, profile: Profile) -> str:
    """Return the engine's name for a container's network."""
    if spec.join is not None:
        return f"container:{spec.join}"
    return network_name(profile.install) if spec.network == "egress" else "none"


def environment(env: Mapping[str, str]) -> list[str]:
    """Return environment variables in the engine's notation."""
    return [f"{name}={value}" for name, value in sorted(env.items())]


def ulimit(name: str, value: int, soft: int | None = None) -> docker_json.Ulimit:
    """Return one limit; a process may raise its soft limit up to `value`."""
    return {"Name": name, "Soft": value if soft is None else min(soft, value), "Hard": value}


def mounts(spec: ContainerSpec, profile: Profile) -> list[docker_json.Mount]:
    """Return masks, then the workspace, then binds; the engine sorts them by depth."""
    targets = [bind.target for bind in spec.binds]
    targets += [overlay.target for overlay in spec.overlays()]
    for target in targets:
        _check_target(target)
    marks = {LABEL_INSTALL: profile.install, LABEL_CONTAINER: spec.name}
    masks = {folder for folder in map(mask_for, targets) if folder is not None} - set(targets)
    result = [_mask(folder, marks) for folder in sorted(masks)]
    options = _RENAMES if profile.features.renames and spec.role == "test" else ""
    for part, overlay in (("workspace", spec.overlay), ("kept", spec.kept)):
        if overlay is not None:
            result.append(_overlay_mount(volume_name(spec.name, part), overlay, marks, options))
    result.extend(bind_mount(bind) for bind in spec.binds)
    return result


def mask_for(target: str) -> str | None:
    """Return the folder to mask so that an unprivileged user can reach `target` below it, or None.

    Images close `/root`, and often the homes below `/home`, to other users; a client's project is often there.
    """
    parts = target.split("/")[1:]
    if parts[0] == "root" and len(parts) > 1:
        return "/root"
    if parts[0] == "home" and len(parts) > 2:
        return f"/home/{parts[1]}"
    return None


def _mask(folder: str, marks: Mapping[str, str]) -> docker_json.Mount:
    # A plain tmpfs would copy the mode of the image's folder; a volume without copying does not. It has no name, so
    # the engine removes it with its container.
    options = {"type": "tmpfs", "device": "tmpfs", "o": "nosuid,nodev,mode=0755,size=1m"}
    return _volume(folder, None, options, marks)


def _overlay_mount(
    name: str, overlay: Overlay, marks: Mapping[str, str], more_options: str
) -> docker_json.Mount:
    paths = [*overlay.lowers, overlay.upper, overlay.work]
    for path in paths:
        if re.search(r"[,:\\\"]", str(path)):
            raise PermanentError(
                "the runner's data directory has a comma, colon, quote or backslash in its path"
            )
    lowers = ":".join(str(path) for path in overlay.lowers)
    data = f"nosuid,nodev,lowerdir={lowers},upperdir={overlay.upper},workdir={overlay.work}"
    data += more_options
    if len(data.encode()) > _MOUNT_OPTIONS_LIMIT:
        raise PermanentError(
            "the workspace has too many layers, or the runner's data directory too long a path"
        )
    options = {"type": "overlay", "device": "overlay", "o": data}
    return _volume(overlay.target, name, options, marks)


def _volume(
    target: str, name: str | None, options: Mapping[str, str], marks: Mapping[str, str]
) -> docker_json.Mount:
    mount: docker_json.Mount = {
        "Type": "volume",
        "Target": target,
        "VolumeOptions": {
            # Do not copy the image's content at this path.
            "NoCopy": True,
            "Labels": dict(marks),
            "DriverConfig": {"Name": "local", "Options": dict(options)},
        },
    }
    if name is not None:
        mount["Source"] = name
    return mount


def confined(limits: Limits) -> docker_json.HostConfig:
    """Return the part of `HostConfig` that all containers share."""
    return {
        # Reaps orphans (zombies count against the pids limit) and makes TERM work for any main process.
        "Init": True,
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "IpcMode": "private",
        "Memory": limits.memory,
        "MemorySwap": limits.memory,
        "NanoCpus": round(limits.cpus * 1_000_000_000),
        "PidsLimit": limits.pids,
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": LOG_SIZE, "max-file": "1"},
        },
        "RestartPolicy": {"Name": "no"},
        "AutoRemove": False,
    }


def bind_mount(bind: Bind) -> docker_json.Mount:
    """Return the mount of a folder of the host."""
    return {
        "Type": "bind",
        "Target": bind.target,
        "Source": str(bind.source),
        "ReadOnly": bind.read_only,
        "BindOptions": {"Propagation": "rprivate"},
    }


def _check_target(target: str) -> None:
    if (
        not target.startswith("/")
        or target.startswith("//")
        or posixpath.normpath(target) != target
        or "\0" in target
    ):
        raise PermanentError(f"the mount point {target!r} is not a plain absolute path")
    # These are compared, and not used as temporary folders.
    if target in ("/", "/ci", "/tmp", "/var/tmp", HOME) or target in _SYSTEM:  # noqa: S108
        raise PermanentError(f"nothing can be mounted at {target}")
    if target.startswith(("/proc/", "/sys/", "/dev/")):
        raise PermanentError(f"nothing can be mounted at {target}")


def scrub(text: str, spec: ContainerSpec) -> str:
    """Return the engine's `text` without the host's paths, which users must not see."""
    for source, target in sorted(spec.sources(), key=lambda pair: -len(str(pair[0]))):
        text = text.replace(str(source), target)
    return text


def is_ours(container_labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    """Return whether a container's labels include all `wanted` ones."""
    return {name: container_labels.get(name) for name in wanted} == wanted


def summary_state(summary: docker_json.ContainerSummary) -> ContainerState:
    """Return the state from an element of `GET /containers/json`."""
    return _state(summary.get("State", ""))


def is_job(container_labels: Mapping[str, str]) -> bool:
    """Return whether a container is a job's, not one of the engine's probes."""
    return container_labels.get(LABEL_ROLE) in get_args(Role) and LABEL_JOB in container_labels


def observed(inspected: docker_json.Container) -> Observed:
    """Return an `Observed` from the answer of `GET /containers/{id}/json`."""
    state = inspected["State"]
    health = state.get("Health")
    marks = warm_containers.labels_of(inspected)
    status = _state(state["Status"])
    error = _scrub_error(state.get("Error") or "", inspected) or None
    over = status in ("exited", "dead") or (status == "created" and error is not None)
    attempt = marks.get(LABEL_ATTEMPT, "")
    started, finished = parse_time(state.get("StartedAt")), parse_time(state.get("FinishedAt"))
    if started is not None and finished is not None:
        started = min(started, finished)  # a short command can end before the engine records its start
    return Observed(
        id=inspected["Id"],
        name=inspected["Name"].removeprefix("/"),
        role=cast(Role, marks.get(LABEL_ROLE, "test")),
        job_id=marks.get(LABEL_JOB, ""),
        attempt=int(attempt) if attempt.isdigit() else 0,
        state=status,
        exit_code=state.get("ExitCode") if over else None,
        oom_killed=bool(state.get("OOMKilled")),
        error=error,
        started_at=started,
        finished_at=finished,
        healthy=health.get("Status") == "healthy" if health else None,
    )


def _scrub_error(error: str, inspected: docker_json.Container) -> str:
    """Return the engine's error without the host's paths: those of mounts and of volume options."""
    for mount in (inspected.get("HostConfig") or {}).get("Mounts") or ():
        driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        data = (driver.get("Options") or {}).get("o", "")
        # mount(2) gets the options without the flags.
        for text in (data, data.removeprefix("nosuid,nodev,")):
            if text:
                error = error.replace(text, "…")
        if mount.get("Type") == "bind":
            error = error.replace(mount["Source"], mount["Target"])
    return re.sub(r"/[^\s:'\"]*/volumes/[^\s:'\"]*/_data", "the volume", error)


def _state(text: str) -> ContainerState:
    if text in get_args(ContainerState):
        return cast(ContainerState, text)
    # "restarting" cannot occur (restart policy "no"); treat unknown states of newer engines as running.
    return "running"


def parse_time(text: str | None) -> dt.datetime | None:
    """Parse an RFC 3339 time with nanoseconds, as the engine writes it; return None for its zero time."""
    if not text or text.startswith(_NO_TIME):
        return None
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d)", text)
    if match is None:
        return None
    seconds, fraction, zone = match.groups()
    moment = dt.datetime.fromisoformat(seconds + ("+00:00" if zone == "Z" else zone))
    return moment.replace(microsecond=int((fraction or "0")[:6].ljust(6, "0"))).astimezone(dt.timezone.utc)
