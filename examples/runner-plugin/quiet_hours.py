"""An example plugin of ci-runner: no network for some projects, a journal of all jobs, and a patient engine.

`CI_RUNNER_PLUGIN_OFFLINE` has patterns of job names, separated by commas, whose containers get no network;
`CI_RUNNER_PLUGIN_JOURNAL` is a file that gets a line for every job that was submitted and for every job that ended;
`engine = "patient"` runs jobs as plain processes that leave the processor to everybody else.
"""

from __future__ import annotations

import fnmatch
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ci_runner.controller.engine import ContainerSpec, Engine
from ci_runner.controller.engines.process.engine import ProcessEngine
from ci_runner.errors import SettingsError
from ci_runner.model.job import Job
from ci_runner.plugins.hookspecs import EngineFactory, hookimpl
from ci_runner.settings.groups import Settings


class PatientProcesses(ProcessEngine):
    """The runner's own engine for plain processes, at the lowest priority."""

    def create(self, spec: ContainerSpec) -> str:
        """See `Engine.create`."""
        return super().create(replace(spec, argv=("nice", "-n", "19", *spec.argv)))


def make_patient(settings: Settings, install_id: str) -> Engine:
    """Called when the settings choose this engine."""
    return PatientProcesses(install_id, folder=settings.storage.data_dir / "patient")


class QuietHours:
    """Named by the entry point; made once per program."""

    def __init__(self) -> None:
        self.offline: list[str] = []
        self.journal: Path | None = None
        self._lock = threading.Lock()

    @hookimpl
    def configure(self, environ: Mapping[str, str]) -> None:
        """Read the settings; a wrong one keeps the runner from starting, with this text."""
        patterns = environ.get("CI_RUNNER_PLUGIN_OFFLINE", "").split(",")
        self.offline = [pattern.strip() for pattern in patterns if pattern.strip()]
        journal = environ.get("CI_RUNNER_PLUGIN_JOURNAL")
        if journal:
            self.journal = Path(journal)
            if not self.journal.parent.is_dir():
                raise SettingsError(f"CI_RUNNER_PLUGIN_JOURNAL: there is no folder {self.journal.parent}")

    @hookimpl
    def register_engines(self) -> list[tuple[str, EngineFactory]]:
        """What the setting `engine` may say beside the runner's own."""
        return [("patient", make_patient)]

    @hookimpl
    def container_options(self, job: Job, spec: ContainerSpec) -> ContainerSpec | None:
        """May only take away; None leaves the container as it is."""
        if any(fnmatch.fnmatch(job.name or "", pattern) for pattern in self.offline):
            return replace(spec, network="none")
        return None

    @hookimpl
    def job_submitted(self, job: Job) -> None:
        """Called by `serve`."""
        self._note(f"{job.id} submitted {job.name or '-'}")

    @hookimpl
    def job_finished(self, job: Job) -> None:
        """Called by the controller."""
        self._note(f"{job.id} {job.status} {job.exit_code}")

    def _note(self, text: str) -> None:
        """Hooks are called from several threads, and by two programs: lines are appended whole."""
        if self.journal is not None:
            with self._lock, self.journal.open("a", encoding="utf-8") as file:
                file.write(text + "\n")
