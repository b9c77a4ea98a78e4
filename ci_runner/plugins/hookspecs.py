"""What plugins of the runner may do: the hooks, each with its contract.

A plugin is a module, an object or a class (called without arguments) whose methods carry `hookimpl`, named
by an entry point of the group ``ci_runner``; docs/guide/hooks.md has a complete example. Hooks are called from
any thread and must return soon: what takes long belongs into a thread of the plugin's own.
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

#: Makes an engine: settings and the install's id (the label by which its containers are recognised).
EngineFactory = Callable[[Settings, str], Engine]


class Hooks:
    """Every hook of the runner. An implementation may leave out arguments that it does not need."""

    @hookspec
    def configure(self, environ: Mapping[str, str]) -> None:
        """Read settings, once, before anything else is called.

        Variables of plugins are named ``CI_RUNNER_PLUGIN_…``. A wrong value raises
        `ci_runner.errors.SettingsError`; a plugin for which nothing is set does nothing.
        """

    @hookspec
    def register_engines(self) -> list[tuple[str, EngineFactory]]:  # type: ignore[empty-body]
        """Names (for the setting `engine`) and factories of further engines.

        They must keep the contract of `ci_runner.controller.engine.Engine`.
        """

    @hookspec
    def job_submitted(self, job: Job) -> None:
        """A job was accepted and is stored durably. Called by `serve`; an exception is logged and changes nothing."""

    @hookspec
    def job_finished(self, job: Job) -> None:
        """A job has its final status. Called by the controller; an exception is logged and changes nothing.

        Called at least once per job, whatever is killed: the call is made again, by the next controller, unless all
        implementations were seen to return. Receivers recognise a repetition by the job's id. Only the jobs of a
        user who is deleted meanwhile are not told.
        """

    @hookspec
    def container_options(self, job: Job, spec: ContainerSpec) -> ContainerSpec | None:
        """What a job's container is made of; None leaves it as it is.

        May only narrow: smaller limits, no network, fewer or read-only binds, fewer variables. Each
        implementation gets what the one before it made of it; what widens anything ends the job.
        """

    @hookspec(firstresult=True)
    def authenticate(self, credentials: str) -> str | None:
        """Whose bearer credentials these are, where they are no key of the runner's.

        The result is the id or the e-mail address of an existing, active user; None: unknown, ask the next.
        Called for every request; an exception is logged and counts as unknown.
        """

    @hookspec
    def close(self) -> None:
        """The program ends: stop threads, within a few seconds."""
