"""An example plugin of ci-runner: no network for some projects, and a line per finished job.

Set ``CI_RUNNER_PLUGIN_OFFLINE`` to patterns of job names, separated by commas, whose containers get no network, and
``CI_RUNNER_PLUGIN_JOURNAL`` to a file that gets a line for every job that ended.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ci_runner.controller.engine import ContainerSpec
from ci_runner.errors import SettingsError
from ci_runner.hookspecs import hookimpl
from ci_runner.models import Job


class QuietHours:
    """Named by the entry point; made once per program."""

    def __init__(self) -> None:
        self.offline: list[str] = []
        self.journal: Path | None = None

    @hookimpl
    def configure(self, environ: Mapping[str, str]) -> None:
        """Read the settings; a wrong one keeps the runner from starting, with this text."""
        self.offline = [
            part.strip() for part in environ.get("CI_RUNNER_PLUGIN_OFFLINE", "").split(",") if part
        ]
        journal = environ.get("CI_RUNNER_PLUGIN_JOURNAL")
        if journal:
            self.journal = Path(journal)
            if not self.journal.parent.is_dir():
                raise SettingsError(f"CI_RUNNER_PLUGIN_JOURNAL: there is no folder {self.journal.parent}")

    @hookimpl
    def container_options(self, job: Job, spec: ContainerSpec) -> ContainerSpec | None:
        """May only take away; None leaves the container as it is."""
        if any(fnmatch.fnmatch(job.name or "", pattern) for pattern in self.offline):
            return replace(spec, network="none")
        return None

    @hookimpl
    def job_finished(self, job: Job) -> None:
        """Called from several threads: one small write is enough of a lock."""
        if self.journal is not None:
            with self.journal.open("a", encoding="utf-8") as file:
                file.write(f"{job.id} {job.status} {job.exit_code}\n")
