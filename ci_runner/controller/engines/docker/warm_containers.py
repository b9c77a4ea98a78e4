"""Containers that are started before their job, and frozen until it takes them.

Such a container has the role of a test, but no job: until it is taken it is invisible to `Engine.list`. Taking it means
to rename it after the job, in one step that also survives this process. A frozen container runs nothing, however long
it waits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from ci_runner.controller.engine import LABEL_ATTEMPT, LABEL_INSTALL, LABEL_JOB
from ci_runner.controller.engines.docker import docker_json
from ci_runner.controller.engines.docker.api import DockerAPI, translated

#: On a container started ahead: the prefix of the name of a job's container, by which its job is recognised.
LABEL_AHEAD: Final = "ci-runner.ahead"


def freeze(api: DockerAPI, container_id: str) -> None:
    """Stop all processes of a container where they are."""
    with translated("freeze the container"):
        api.client.pause(container_id)


def thaw(api: DockerAPI, container_id: str) -> None:
    """Let them go on."""
    with translated("thaw the container"):
        api.client.unpause(container_id)


def rename(api: DockerAPI, container_id: str, name: str) -> None:
    """Give a container the name of a job's. Raises `PermanentError` if it is gone, or the name is taken."""
    with translated("rename the container"):
        api.client.rename(container_id, name)


def memory(api: DockerAPI, container_id: str) -> int:
    """Return the bytes of memory that a container takes, without the cache of files that the kernel can free."""
    with translated("measure the container"):
        found: docker_json.Stats = api.client.stats(container_id, stream=False, one_shot=True)
    usage = found.get("memory_stats", {})
    details = usage.get("stats", {})
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return max(0, usage.get("usage", 0) - cache)


def waiting(api: DockerAPI, install: str) -> list[str]:
    """Return the ids of the containers that no job has taken."""
    with translated("list containers"):
        label = [f"{LABEL_INSTALL}={install}", LABEL_AHEAD]
        summaries = api.client.containers(all=True, filters={"label": label})
    return [item["Id"] for item in summaries if is_waiting(item.get("Labels") or {}, item["Names"][0])]


def is_waiting(labels: Mapping[str, str], name: str) -> bool:
    """Return whether a container was started ahead and is not taken yet."""
    return LABEL_AHEAD in labels and _job(labels, name) is None


def labels_of(container: docker_json.Container) -> dict[str, str]:
    """Return a container's labels; of one that was started ahead with the job that its name tells."""
    labels = dict(container["Config"].get("Labels") or {})
    found = _job(labels, container["Name"]) if LABEL_AHEAD in labels else None
    if found is not None:
        labels[LABEL_JOB], labels[LABEL_ATTEMPT] = found
    return labels


def _job(labels: Mapping[str, str], name: str) -> tuple[str, str] | None:
    """Return the job's id and attempt from the name of the container that it took."""
    match = re.fullmatch(f"/?{re.escape(labels[LABEL_AHEAD])}(.+)-([0-9]+)", name)
    return (match[1], match[2]) if match is not None else None
