"""The engines that come with the runner, registered like those of external plugins.

Importing this package imports no SDK; a factory does, when it is called.
"""

from __future__ import annotations

import os

from ci_runner.controller.engine import Engine
from ci_runner.plugins.hookspecs import EngineFactory, hookimpl
from ci_runner.settings.groups import Settings


@hookimpl
def register_engines() -> list[tuple[str, EngineFactory]]:
    """Return `docker` (the default) and `process`; tests make `memory` themselves."""
    return [("docker", _docker), ("process", _process)]


def _docker(settings: Settings, install_id: str) -> Engine:
    from ci_runner.controller.engines.docker import allowed_hosts
    from ci_runner.controller.engines.docker.engine import DockerEngine

    return DockerEngine(
        install_id,
        scratch=settings.storage.data_dir / "work",
        base_url=os.environ.get("DOCKER_HOST") or None,
        services=allowed_hosts.named(settings.environments),
        allowed_networks=settings.reconcile.allow_network,
    )


def _process(settings: Settings, install_id: str) -> Engine:
    from ci_runner.controller.engines.process.engine import ProcessEngine

    return ProcessEngine(install_id, folder=settings.storage.data_dir / "processes")
