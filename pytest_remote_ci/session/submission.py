"""The parts of a submission: settings, options, the working tree and the runner.

Those of a `pytest --remote-ci` are in `pytest_remote_ci.session.pytest_submission`, those of a command of
``remote-ci`` here. `pytest_remote_ci.session.submit` sends them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_remote_ci.artifacts import artifact_folder, destinations, external_reports
from pytest_remote_ci.client import embedded_runner
from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.session import arguments, interpreter
from pytest_remote_ci.terminal.ansi import is_terminal
from pytest_remote_ci.terminal.display import Display, local_color
from pytest_remote_ci.terminal.phase_times import process_began
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.protocol import SubmitOptions
from pytest_remote_ci.wire.timing import Stopwatch
from pytest_remote_ci.workspace import path_sources, scm_version, uv_workspace
from pytest_remote_ci.workspace.path_sources import Choice, Outside, outside

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
    from pytest_remote_ci.artifacts.updates import Updates
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.config.config import Config
    from pytest_remote_ci.wire.answers import PlannedJob
    from pytest_remote_ci.workspace.collect import Beside, Workspace


class Submission:
    """What all submissions have in common."""

    def __init__(
        self,
        place: arguments.Place,
        settings: Config,
        display: Display,
        resources: ExitStack,
        *,
        is_dry_run: bool = False,
        is_async: bool = False,
        as_json: bool = False,
    ) -> None:
        """`resources` are closed when the process is done with what was submitted."""
        self.place = place
        self.settings = settings
        self.display = display
        self._resources = resources
        #: Measures the phases of the submission.
        self.clock = Stopwatch(process_began())
        #: Only list the files.
        self.is_dry_run = is_dry_run
        #: Do not wait for the end.
        self.is_async = is_async
        #: Print the files of a dry run, or what was submitted without waiting, as JSON.
        self.as_json = as_json

    def workspace(self) -> Workspace:
        """Return the working tree in its present state."""
        from pytest_remote_ci.workspace import collect

        self.clock.lap("pack" if "collect" in self.clock.phases else "start")
        self.display.line.show("looking for the project's files")
        include = (*self.settings.include, *self._cache_files())
        found = collect.collect(self.place.root, include=include, exclude=self.settings.exclude)
        warnings = list(found.warnings)
        if self.outside.places:
            beside, more = collect.collect_beside(
                self.outside, include=self.settings.include, exclude=self.settings.exclude
            )
            found = replace(found, beside=beside)
            warnings += [*more, _also_sent(beside, self.outside, self.place.root)]
        found = self._chosen(found)
        if self.settings.git:
            found, notes = self._with_repository(found)
            warnings += notes
        self.display.line.clear()
        unread = uv_workspace.unread_settings(self.place.root, self.place.cwd)
        for warning in (*warnings, *([] if unread is None else [unread])):
            self.display.print_message(f"remote-ci: {warning}")
        self.clock.lap("collect")
        return found

    def _chosen(self, workspace: Workspace) -> Workspace:
        """Return what is sent of the project's files."""
        return workspace

    def _with_repository(self, workspace: Workspace) -> tuple[Workspace, Sequence[str]]:
        """Return the workspace with a git repository, and lines for the developer."""
        from pytest_remote_ci.workspace import collect

        if self._work_tree is None:
            return workspace, [
                f"git = true: {self.place.root} is in no git work tree: a job gets no repository"
            ]
        folder = self._resources.enter_context(tempfile.TemporaryDirectory(prefix="remote-ci-git-"))
        inner = replace(
            workspace, beside=replace(workspace.beside, project_folder=self.outside.project_folder)
        )
        return collect.with_repository(inner, self._work_tree, Path(folder), self.settings.exclude)

    @cached_property
    def _work_tree(self) -> Path | None:
        """The top of the project's git work tree, if a job gets a repository."""
        if not self.settings.git:
            return None
        from pytest_remote_ci.workspace import git_repository

        return git_repository.work_tree(self.place.root)

    @cached_property
    def outside(self) -> Outside:
        """The dependencies beside the project that travel with it."""
        chosen = Choice(self.settings.requirements, self.settings.groups, self.settings.extras)
        found = outside(self.place.root, chosen)
        return found if self._work_tree is None else found.around(self._work_tree)

    def _cache_files(self) -> tuple[str, ...]:
        """Return ignored files that are sent nevertheless."""
        return ()

    def check(self, workspace: Workspace) -> None:
        """Raise `WorkspaceError` if the workspace cannot be tested remotely: a dependency is not sent."""
        path_sources.refuse_missing(workspace.root, {file.path for file in workspace.files})

    def client(self) -> Client:
        """Return a client of the runner to use."""
        from pytest_remote_ci.client.client import Client

        runner = embedded_runner.find(self.settings, notify=lambda text: self._notify(f"{text} …"))
        self.display.line.clear()
        if runner.warning:
            self.display.print_message(f"remote-ci: {runner.warning}")
        return self._resources.enter_context(
            Client(runner.url, runner.key, on_wait=self.display.print_message)
        )

    def _notify(self, text: str) -> None:
        """Show what takes time."""
        self.display.line.show(text)

    def folder(self, name: str) -> ArtifactFolder:
        """Return the folder for the artifacts of a job or run."""
        return artifact_folder.of(self.settings, name, self.place.cwd, self.place.root)

    def _options(
        self,
        args: Sequence[str] = (),
        *,
        color: str | None = "auto",
        is_module: bool = True,
        in_root: bool = False,
        records: bool = True,
        reports: tuple[str, ...] = (),
    ) -> SubmitOptions:
        """Return the options; `color` is the value of ``--color``, None means no colours."""
        import pytest

        root = self.place.root
        options = self.settings.submit_options(
            root=root,
            cwd=root if in_root else root / self.place.subdirectory,
            args=args,
            module=is_module,
            pytest_version=pytest.__version__,
            scm_version=scm_version.version(root),
            color=color is not None and local_color(color, os.environ, is_terminal(sys.stdout)),
            columns=shutil.get_terminal_size().columns,
        )
        if in_root:  # jobs of a run name their own
            options = replace(options, services=())
        env = {**interpreter.variables(), **options.env}
        return replace(
            options,
            records=records,
            reports=reports,
            env=env,
            project_folder=self.outside.project_folder,
        )


class CommandSubmission(Submission):
    """A submission from a command of ``remote-ci``, for the project around the current folder."""

    def __init__(
        self,
        settings: Config,
        display: Display,
        resources: ExitStack,
        args: Sequence[str] = (),
        *,
        is_dry_run: bool = False,
        is_async: bool = False,
        as_json: bool = False,
    ) -> None:
        """`args` are the arguments for pytest."""
        cwd = Path.cwd()
        place = arguments.find_place(configuration.project_root(cwd, cwd), cwd)
        super().__init__(
            place, settings, display, resources, is_dry_run=is_dry_run, is_async=is_async, as_json=as_json
        )
        self._args = args
        #: The reports that may be fetched into the project.
        self.reports = destinations.find(args, place)

    def updates(self, sent: SubmitOptions) -> Updates:
        """Return which changes of the project's files are brought home, for a job with these options."""
        from pytest_remote_ci.artifacts import updates
        from pytest_remote_ci.wire import keep

        return updates.find(
            (*self.settings.args, *self._args),
            self._args,
            self.place,
            write_back=self.settings.write_back,
            exclude=self.settings.exclude,
            expected=(*sent.artifacts, *self.reports.patterns, *keep.all_below_project(sent.keep, sent.cwd)),
        )

    def updates_of_job(self, sent: SubmitOptions, planned: PlannedJob) -> Updates:
        """Return the same for a job of a run's plan; `sent` are the options that its jobs share."""
        from pytest_remote_ci.artifacts import updates
        from pytest_remote_ci.session.job_arguments import place_of
        from pytest_remote_ci.wire import keep

        place = place_of(planned, self.place.root)
        return updates.find(
            (*self.settings.args, *planned.args),
            (),
            place,
            write_back=self.settings.write_back,
            exclude=self.settings.exclude,
            expected=(
                *destinations.find((), place).patterns,
                *keep.all_below_project(sent.keep, place.subdirectory),
            ),
        )

    def job_options(self) -> SubmitOptions:
        """Return the options of a job."""
        args = arguments.forward(external_reports.redirected(self._args, self.place), self.place) or ["-v"]
        return self._options(args, reports=self.reports.patterns)

    def run_options(self) -> SubmitOptions:
        """Return the options that all jobs of a run share; their tests are recorded, so that they are counted."""
        return self._options(color=None, in_root=True)

    def _notify(self, text: str) -> None:
        self.display.print_message(text)


def _also_sent(beside: Beside, outside: Outside, root: Path) -> str:
    """Return one line that names what travels with the project."""
    names = ", ".join(os.path.relpath(place, root).replace(os.sep, "/") for place in outside.places)
    size = formats.size(sum(file.size for file in beside.files))
    count = len(beside.files)
    return f"sent with the project, which depends on it: {names} ({count} file{'s'[: count != 1]}, {size})"
