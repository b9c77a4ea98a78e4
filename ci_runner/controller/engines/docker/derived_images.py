"""Images that the runner makes of others: commands in their containers, and what becomes of the container's root.

They are recognised by a label of their own. The labels of the container, which its image and then every container of
that image would inherit, are emptied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ci_runner.controller.engine import (
    LABEL_ATTEMPT,
    LABEL_INSTALL,
    LABEL_JOB,
    LABEL_ROLE,
    DerivedImage,
    Image,
)
from ci_runner.controller.engines.docker import container_profile, docker_json, image_refs
from ci_runner.controller.engines.docker.api import DockerAPI, status_of, streamed_output, translated
from ci_runner.errors import EngineUnavailable, PermanentError

#: On derived images: the install that made them, and what the operator sees.
_LABEL_DERIVED: Final = "ci-runner.derived"
_LABEL_ABOUT: Final = "ci-runner.packages"
#: Repository of their tags.
_REPOSITORY: Final = "ci-runner-packages"
#: Seconds that a commit may take: the engine reads everything that was installed.
_COMMIT_PATIENCE: Final = 600.0
#: The keys of an image's configuration that a commit would otherwise take from the container.
_CONFIG: Final = (
    "Cmd",
    "Entrypoint",
    "Env",
    "ExposedPorts",
    "Healthcheck",
    "Labels",
    "OnBuild",
    "Shell",
    "StopSignal",
    "User",
    "Volumes",
    "WorkingDir",
)


def run_as_root(
    api: DockerAPI,
    container_id: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    output: Callable[[bytes], None],
) -> int | None:
    """See `Engine.run_as_root`."""
    try:
        with translated("run a command in the container"):
            client = api.client
            command = client.exec_create(
                container_id,
                list(argv),
                user="0:0",
                environment=container_profile.environment(env),
                workdir="/",
            )["Id"]
            with streamed_output(client, command) as pieces:
                for piece in pieces:
                    output(piece)
            return client.exec_inspect(command)["ExitCode"]
    except (PermanentError, EngineUnavailable) as error:
        # Of a container that has ended the engine says 409, or 500 if it ends just then.
        if status_of(error) in (404, 409) or (status_of(error) == 500 and "is not running" in str(error)):
            return None
        if "exec failed" in str(error):  # the engine's words for a program that does not exist
            return 127
        raise


def commit(api: DockerAPI, install: str, container_id: str, base: Image, about: str) -> DerivedImage:
    """See `Engine.commit`."""
    with translated("read the image's configuration"):
        inspected = api.client.inspect_image(base.id)
    config = {name: value for name, value in (inspected.get("Config") or {}).items() if name in _CONFIG}
    config.setdefault("Entrypoint", None)
    config["Entrypoint"] = config["Entrypoint"] or []
    config["Labels"] = {
        **docker_json.labels_of(inspected),
        **dict.fromkeys((LABEL_INSTALL, LABEL_ROLE, LABEL_JOB, LABEL_ATTEMPT), ""),
        **({image_refs.LABEL_PYTHONS: ",".join(base.pythons)} if base.pythons else {}),
        _LABEL_DERIVED: install,
        _LABEL_ABOUT: about,
    }
    tag = f"{container_profile.short_install(install)}-{container_id[:12]}"
    patient = DockerAPI(api.base_url, _COMMIT_PATIENCE)
    try:
        with translated("make an image of the container"):
            made = patient.client.commit(container_id, repository=_REPOSITORY, tag=tag, conf=config)
            size = patient.client.inspect_image(made["Id"])["Size"] - inspected["Size"]
    finally:
        patient.close()
    return DerivedImage(made["Id"], max(0, size))


def list_ids(api: DockerAPI, install: str) -> frozenset[str]:
    """See `Engine.derived_images`."""
    with translated("list images"):
        found = api.client.images(filters={"label": f"{_LABEL_DERIVED}={install}"})
    return frozenset(image["Id"] for image in found)


def remove(api: DockerAPI, image_id: str) -> bool:
    """See `Engine.remove_image`. Never removes its base, even if nothing else names that any more."""
    try:
        with translated("remove the image"):
            api.client.remove_image(image_id, noprune=True)
    except (PermanentError, EngineUnavailable) as error:
        if status_of(error) == 404:
            return True
        if status_of(error) == 409:
            return False
        raise
    return True
