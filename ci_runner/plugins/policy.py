"""Checks between a job and its container: whether this runner may run it, and the hook `container_options`."""

from __future__ import annotations

from collections.abc import Callable

from ci_runner.controller.engine import ContainerSpec, Engine
from ci_runner.controller.environments.container_specs import Prepared
from ci_runner.controller.environments.preparer import Preparer
from ci_runner.errors import PermanentError
from ci_runner.model.job import Job
from ci_runner.plugins.manager import Plugins
from ci_runner.settings.groups import EnvironmentSettings, ReconcileSettings, StorageSettings


class PolicedPreparer(Preparer):
    """A preparer that passes the specs of test containers, but not of builds, through all plugins.

    `refusal` is called before each job: it returns the reason why no job may run now, or None.
    """

    def __init__(
        self,
        plugins: Plugins,
        refusal: Callable[[], str | None],
        *,
        storage: StorageSettings,
        reconcile: ReconcileSettings,
        environments: EnvironmentSettings,
        engine: Engine,
        install_id: str,
    ) -> None:
        super().__init__(
            storage=storage,
            reconcile=reconcile,
            environments=environments,
            engine=engine,
            install_id=install_id,
        )
        self._plugins = plugins
        self._refusal = refusal

    def prepare(
        self,
        job: Job,
        *,
        log: Callable[[str], None],
        building: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> Prepared:
        """See `Preparer.prepare`; raises `PermanentError` with the refusal."""
        reason = self._refusal()
        if reason is not None:
            raise PermanentError(reason)
        return super().prepare(job, log=log, building=building, stopping=stopping)

    def container_spec(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        """Return the spec as narrowed by plugins; raises `PermanentError` if one fails or widens it."""
        return self._plugins.container_options(job, super().container_spec(job, prepared, attempt))

    def can_wait(self, job: Job) -> bool:
        """See `Preparer.can_wait`: plugins decide for each job, so none may have been started before."""
        return not self._plugins.have("container_options") and super().can_wait(job)
