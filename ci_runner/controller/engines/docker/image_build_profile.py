"""Docker's JSON for the container of an image build, and what it may do: pure, like `container_profile`.

Root installs the distribution's packages in it, and their scripts run as root. So it sees nothing of the runner and of
jobs, and root has only the capabilities with which package managers unpack files, own them to others and change users.
Its variables and labels would become part of the image: it has no variables, and `derived_images` empties the labels.
"""

from __future__ import annotations

from typing import Final

from ci_runner.controller.engine import (
    LABEL_ATTEMPT,
    LABEL_INSTALL,
    LABEL_JOB,
    LABEL_ROLE,
    ImageBuild,
)
from ci_runner.controller.engines.docker import container_profile, docker_json
from ci_runner.errors import PermanentError

#: As a service's, without KILL; FSETID keeps the set-group-id bit of files that are given to another group.
_CAPABILITIES: Final = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETGID", "SETUID"]
#: Waits for its standard input, which stays open and empty: needs no program but the shell.
_WAIT: Final = "read -r _"
#: Mounts are placed in this folder, which is memory: a mount point elsewhere would become part of the image.
_TEMPORARY: Final = "/tmp/"  # noqa: S108  # a mount in the container


def labels(spec: ImageBuild, install: str) -> dict[str, str]:
    """Return the labels by which the container is recognised, and removed if its controller dies."""
    return {
        LABEL_INSTALL: install,
        LABEL_ROLE: "build",
        LABEL_JOB: spec.job_id,
        LABEL_ATTEMPT: str(spec.attempt),
    }


def image_build_config(spec: ImageBuild, profile: container_profile.Profile) -> docker_json.ContainerConfig:
    """Return the body of `POST /containers/create`. Raises `PermanentError` for mounts that an image would keep."""
    for bind in spec.binds:
        if not bind.target.startswith(_TEMPORARY) or not bind.read_only:
            raise PermanentError(f"{bind.target} cannot be mounted in an image build")
    return {
        "Image": spec.image_id,
        # With another user the commands that run as root later would have no capabilities.
        "User": "0:0",
        "Entrypoint": ["sh"],
        "Cmd": ["-c", _WAIT],
        "Labels": labels(spec, profile.install),
        "Healthcheck": {"Test": ["NONE"]},
        "AttachStdout": False,
        "AttachStderr": False,
        "OpenStdin": True,
        "Tty": False,
        "HostConfig": _host_config(spec, profile),
    }


def _host_config(spec: ImageBuild, profile: container_profile.Profile) -> docker_json.HostConfig:
    limits = spec.limits
    return {
        "NetworkMode": container_profile.network_name(profile.install),
        **container_profile.confined(limits),
        "CapAdd": _CAPABILITIES,
        "OomScoreAdj": 500,
        "Ulimits": [
            container_profile.ulimit("core", 0),
            container_profile.ulimit("fsize", limits.file_size),
            container_profile.ulimit("nofile", limits.open_files, limits.soft_open_files),
        ],
        "Tmpfs": {_TEMPORARY.rstrip("/"): f"rw,exec,nosuid,nodev,mode=1777,size={limits.tmp_size}"},
        "Mounts": [container_profile.bind_mount(bind) for bind in spec.binds],
    }
