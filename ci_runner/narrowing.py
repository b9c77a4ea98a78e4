"""The hook `container_options` put where it works: between what a job's container would be and what is created."""

from __future__ import annotations

from typing import Any

from ci_runner.controller.engine import ContainerSpec
from ci_runner.controller.prepare import Preparer
from ci_runner.models import Job
from ci_runner.plugins import Plugins


class NarrowedPreparer(Preparer):
    """A preparer whose specs of test containers pass through all plugins; builds are the runner's own affair."""

    def __init__(self, plugins: Plugins, **parts: Any) -> None:
        super().__init__(**parts)
        self._plugins = plugins

    def container_spec(self, job: Job, prepared: Any, attempt: int) -> ContainerSpec:
        """As plugins narrowed it; raises `PermanentError` where one fails or widens it."""
        return self._plugins.container_options(job, super().container_spec(job, prepared, attempt))
