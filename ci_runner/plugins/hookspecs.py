"""The hooks for plugins of the runner, each with its contract.

A plugin is a module, an object or a class (called without arguments) with methods marked by `hookimpl`, named by an
entry point of the group ``ci_runner``; docs/guide/hooks.md has a complete example. Hooks are called from any thread
and must return soon: slow work belongs in a thread of the plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import pluggy

from ci_runner.controller.engine import ContainerSpec, Engine
from ci_runner.model.job import Job
from ci_runner.settings.groups import Settings

#: Group of entry points, and pluggy's name for the project.
GROUP: Final = "ci_runner"

hookspec = pluggy.HookspecMarker(GROUP)
#: Marks a plugin's implementation of a hook.
hookimpl = pluggy.HookimplMarker(GROUP)

#: Makes an engine from the settings and the install's id (the label that identifies its containers).
EngineFactory = Callable[[Settings, str], Engine]


class Hooks:
    """Every hook of the runner. An implementation may leave out arguments that it does not need."""

    @hookspec
    def configure(self, environ: Mapping[str, str]) -> None:
        """Read settings; called once, before any other hook.

        Variables of plugins are named ``CI_RUNNER_PLUGIN_…``. For a wrong value, raise
        `ci_runner.errors.SettingsError`. A plugin without settings should do nothing.
        """

    @hookspec
    # The body is empty because this only specifies the hook.
    def register_engines(self) -> list[tuple[str, EngineFactory]]:  # type: ignore[empty-body]
        """Return names (for the setting `engine`) and factories of additional engines.

        They must fulfil the contract of `ci_runner.controller.engine.Engine`.
        """

    @hookspec
    def job_submitted(self, job: Job) -> None:
        """Handle a job that was accepted and durably stored.

        Called by `serve`; an exception is logged and has no other effect.
        """

    @hookspec
    def job_finished(self, job: Job) -> None:
        """Handle a job that has its final status.

        Called by the controller; an exception is logged and has no other effect. Called at least once per job, even
        if processes are killed: the next controller calls again unless all implementations have returned. Receivers
        recognise a repeated call by the job's id. The hook is not called for jobs of a user who has been deleted
        meanwhile.
        """

    @hookspec
    def container_options(self, job: Job, spec: ContainerSpec) -> ContainerSpec | None:
        """Return a changed spec of a job's container; None leaves it unchanged.

        Changes may only narrow it: smaller limits, no network, fewer or read-only binds, fewer variables. Each
        implementation gets the result of the one before. A change that widens anything ends the job.
        """

    @hookspec(firstresult=True)
    def authenticate(self, credentials: str) -> str | None:
        """Return the user with these bearer credentials, which are not one of the runner's own keys.

        The result is the id or the e-mail address of an existing, active user; None: unknown, try the next plugin.
        Called for every request; an exception is logged and counts as unknown.
        """

    @hookspec
    def close(self) -> None:
        """Stop threads, within a few seconds; called at the end of the program."""
