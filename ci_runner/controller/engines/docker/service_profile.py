"""Docker's JSON for a service's container, and what it may do: pure, like `container_profile`.

A service runs its image as its makers meant it: its own user (often root, which then changes to another), entry point
and volumes, and a writable root. So it gets more than a job's container, and less than Docker's default: no new
privileges, limits, and only the capabilities that entry points need to switch to another user.
"""

from __future__ import annotations

from typing import Final

from ci_runner.controller.engine import (
    LABEL_ATTEMPT,
    LABEL_INSTALL,
    LABEL_JOB,
    LABEL_ROLE,
    ServiceSpec,
)
from ci_runner.controller.engines.docker import container_profile, docker_json

#: Needed by ``docker-entrypoint.sh`` of databases: it takes over a data folder, then runs as another user.
_CAPABILITIES: Final = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]
#: Nanoseconds between two health checks.
_INTERVAL: Final = 1_000_000_000


def labels(spec: ServiceSpec, install: str) -> dict[str, str]:
    """Return the labels by which a service is recognised and adopted: it belongs to the job, not to one attempt."""
    return {LABEL_INSTALL: install, LABEL_ROLE: "service", LABEL_JOB: spec.job_id, LABEL_ATTEMPT: "0"}


def service_config(spec: ServiceSpec, profile: container_profile.Profile) -> docker_json.ContainerConfig:
    """Return the body of `POST /containers/create`."""
    config: docker_json.ContainerConfig = {
        "Image": spec.image_id,
        "Env": container_profile.environment(spec.env),
        "Labels": labels(spec, profile.install),
        "AttachStdout": False,
        "AttachStderr": False,
        "OpenStdin": False,
        "Tty": False,
        "HostConfig": _host_config(spec, profile),
    }
    # An empty test keeps the image's own check, but it runs more often than images usually ask for.
    config["Healthcheck"] = {"Test": [], "Interval": _INTERVAL} if spec.own_check else {"Test": ["NONE"]}
    if spec.command:
        config["Cmd"] = list(spec.command)
    if spec.join is None:
        config["Hostname"] = "job"
        config["HostConfig"]["ExtraHosts"] = [f"{name}:127.0.0.1" for name in spec.hosts]
    return config


def _host_config(spec: ServiceSpec, profile: container_profile.Profile) -> docker_json.HostConfig:
    limits = spec.limits
    return {
        **container_profile.loopback(profile),
        "NetworkMode": container_profile.network_mode(spec, profile),
        **container_profile.confined(limits),
        "CapAdd": _CAPABILITIES,
        "ShmSize": limits.shm_size,
        "OomScoreAdj": 600,
        "Ulimits": [container_profile.ulimit("core", 0), container_profile.ulimit("fsize", limits.file_size)],
    }
