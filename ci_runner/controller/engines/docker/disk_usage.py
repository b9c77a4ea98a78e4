"""Disk usage outside of the runner's folders: the writable roots of services, and the volumes of images.

Only the engine can measure it for a runner that is not root: any user may own layers and volumes.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Final

from ci_runner.controller.engine import LABEL_INSTALL, LABEL_JOB, LABEL_ROLE, STORE
from ci_runner.controller.engines.docker import docker_json
from ci_runner.controller.engines.docker.api import DockerAPI, translated

#: The folders that receive writes, in the options of an overlay.
_OVERLAY_FOLDER: Final = re.compile(r"(?:upperdir|workdir)=([^,]+)")


def of_services(api: DockerAPI, install: str) -> dict[str, int]:
    """Return job id → bytes; see `Engine.written_by_services`."""
    with translated("ask how much services have written"):
        wanted = {"label": [f"{LABEL_INSTALL}={install}", f"{LABEL_ROLE}=service"]}
        summaries = api.client.containers(filters=wanted, size=True)
        volumes: dict[str, int] = {}
        if any(_volumes(summary) for summary in summaries):
            volumes = _sizes(api.client.df())
    found: dict[str, int] = defaultdict(int)
    for summary in summaries:
        written = sum(volumes.get(name, 0) for name in _volumes(summary))
        found[summary["Labels"][LABEL_JOB]] += written + (summary.get("SizeRw") or 0)
    return dict(found)


def folders(inspected: docker_json.Container) -> tuple[Path, ...]:
    """Return the folders to which the engine writes a container's root and volumes.

    The engine measures by paths and ignores what is too deep for them.
    """
    root = ((inspected.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
    volumes = [
        mount.get("Source") for mount in inspected.get("Mounts") or () if mount.get("Type") == "volume"
    ]
    return tuple(Path(folder) for folder in (root, *volumes) if folder)


def build_folders(inspected: docker_json.Container, is_here: bool) -> tuple[Path, ...]:
    """Return the folders that a build's container can write: the runner's, and its root if that is writable.

    Its store is left out: the package cache in it is shared by jobs and has its own limit. `is_here`: the engine is on
    this machine.
    """
    if not inspected["HostConfig"].get("ReadonlyRootfs"):
        return folders(inspected) if is_here else ()
    found: list[str] = list(map(str, volumes_of_image(inspected) if is_here else ()))
    for mount in inspected["HostConfig"].get("Mounts") or ():
        if mount["Type"] == "bind" and not mount.get("ReadOnly") and mount["Target"] != STORE:
            found.append(mount["Source"])
        driver = (mount.get("VolumeOptions") or {}).get("DriverConfig") or {}
        found += _OVERLAY_FOLDER.findall((driver.get("Options") or {}).get("o", ""))
    return tuple(map(Path, found))


def volumes_of_image(inspected: docker_json.Container) -> tuple[Path, ...]:
    """Return the folders of the volumes that a container has because its image declares them.

    They are writable, also below a root that is not.
    """
    ours = {mount["Target"] for mount in inspected["HostConfig"].get("Mounts") or ()}
    return tuple(
        Path(mount["Source"])
        for mount in inspected.get("Mounts") or ()
        if mount.get("Type") == "volume" and mount.get("Source") and mount.get("Destination") not in ours
    )


def _volumes(summary: docker_json.ContainerSummary) -> list[str]:
    return [mount["Name"] for mount in summary.get("Mounts") or () if mount.get("Type") == "volume"]


def _sizes(usage: docker_json.Volumes) -> dict[str, int]:
    """Return volume name → bytes; the engine's -1 means unknown."""
    volumes = usage.get("Volumes") or ()
    return {item["Name"]: max(0, (item.get("UsageData") or {}).get("Size", 0)) for item in volumes}
