"""What stands between a job and its container beside the preparation itself: whether this runner may run it at all,
and the hook `container_options`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ci_runner.controller.engine import ContainerSpec
from ci_runner.controller.environments.preparer import Prepared, Preparer
from ci_runner.errors import PermanentError
from ci_runner.model.job import Job
from ci_runner.plugins.manager import Plugins


class PolicedPreparer(Preparer):
    """A preparer whose specs of test containers pass through all plugins; builds are the runner's own affair.

    `refusal` is asked before each job: the reason why none may run here now, or None.
    """

    def __init__(self, plugins: Plugins, refusal: Callable[[], str | None], **parts: Any) -> None:
        super().__init__(**parts)
        self._plugins = plugins
        self._refusal = refusal

    def prepare(self, job: Job, **hooks: Any) -> Prepared:
        """See `Preparer.prepare`; raises `PermanentError` with the refusal."""
        reason = self._refusal()
        if reason is not None:
            raise PermanentError(reason)
        return super().prepare(job, **hooks)

    def container_spec(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        """As plugins narrowed it; raises `PermanentError` where one fails or widens it."""
        return self._plugins.container_options(job, super().container_spec(job, prepared, attempt))
