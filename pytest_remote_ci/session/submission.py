"""Build a submission from pytest's configuration: settings, options, the working tree and the runner.

This part is common to a single job and to a run of a pipeline; sending is done elsewhere.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_remote_ci import options
from pytest_remote_ci.artifacts import artifact_folder, destinations, external_reports
from pytest_remote_ci.client import embedded_runner
from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session import arguments
from pytest_remote_ci.session.local_options import OptionArity, any_place, find_place
from pytest_remote_ci.terminal.ansi import is_terminal
from pytest_remote_ci.terminal.display import Display, local_color
from pytest_remote_ci.wire.protocol import SubmitOptions, WireError
from pytest_remote_ci.workspace import breakpoints, scm_version

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
    from pytest_remote_ci.artifacts.report_files import ReportFile
    from pytest_remote_ci.config.config import Config
    from pytest_remote_ci.workspace.collect import Workspace


class SubmissionBuilder:
    """Builds the parts of a submission from the configuration of one pytest."""

    def __init__(
        self, config: pytest.Config, given: tuple[list[str], list[str]], display: Display, *, native: bool
    ) -> None:
        """`given`: the arguments of PYTEST_ADDOPTS and of the command line; `native`: the session is recorded."""
        self._pytest = config
        self._display = display
        self.native = native
        self.given = [*given[0], *given[1]]
        self.arity = OptionArity(config)
        #: Options that only the local session applies.
        self.reports_here = arguments.reporting_here(self.arity.is_known) if native else frozenset()
        is_new = not (self.option("attach") or self.option("replay"))
        self.place = find_place(config) if is_new else any_place(config)

    def refuse_debuggers(self, workspace: Workspace) -> None:
        """Raise `WorkspaceError` if a selected test file calls a debugger: a job has no terminal."""
        if os.environ.get(breakpoints.VARIABLE) or arguments.is_question(self.given):
            return
        config = self._pytest
        start = Path(config.invocation_params.dir)
        chosen = [
            Path(os.path.normpath(start / str(argument).partition("::")[0])) for argument in config.args
        ]
        breakpoints.refuse_calls(workspace.files, workspace.root, chosen, config.getini("python_files"))

    def say_what_stays_there(self) -> None:
        """Print which options write files only on the runner, and which interpreter options are not used there."""
        addopts = self._pytest.getini("addopts")
        given = [*addopts, *self.given]
        stays = destinations.staying(addopts, self.given, self.place)
        writing = [name for name in arguments.written_there(given, self.reports_here) if name in stays]
        if writing:
            self._display.say(
                f"remote-ci: {', '.join(writing)}: written on the runner, not brought back here"
            )

        ignored = interpreter_options()
        if ignored:
            words = "not used on the runner (pytest has a -W of its own)"
            self._display.say(f"remote-ci: {' '.join(ignored)} of the Python here: {words}")

    def option(self, name: str) -> Any:
        """Return the value of ``--remote-ci-NAME``."""
        return self._pytest.getoption(f"remote_ci_{name}")

    def settings(self) -> Config:
        """Return the project's settings, overridden by the command line."""
        overrides: dict[str, object] = {}
        additions: dict[str, Sequence[str]] = {}
        for option in options.OWN:
            value = getattr(self._pytest.option, options.destination(option), None)
            if not option.setting or value is None:
                continue
            if isinstance(value, list):
                additions[option.setting] = value
            else:
                overrides[option.setting] = value
        return configuration.load(self.place.root, overrides=overrides, additions=additions)

    def options(self, settings: Config, *, of_run: bool = False) -> SubmitOptions:
        """Return the options of a submission; `of_run`: those shared by all jobs of a run, in the project's root."""
        config, place = self._pytest, self.place
        given = [] if of_run else self.forwarded(self._led(self.given), place)
        sent = settings.submit_options(
            root=place.root,
            cwd=place.root if of_run else place.root / place.subdirectory,
            args=[*self._stripped_addopts(), *self._extra(), *given],  # given arguments can contain a "--"
            module=Path(sys.argv[0]).parts[-2:] == ("pytest", "__main__.py"),
            pytest_version=pytest.__version__,
            scm_version=scm_version.version(place.root),
            color=local_color(config.getoption("color", "auto"), os.environ, is_terminal(sys.stdout)),
            columns=shutil.get_terminal_size().columns,
        )
        sent = replace(sent, records=self.native, reports=self.wanted_reports().patterns)
        if os.environ.get(breakpoints.VARIABLE) == "0":
            sent = replace(sent, env={**sent.env, breakpoints.VARIABLE: "0"})
        priority = self.option("priority")
        if priority:
            sent = replace(sent, priority=priority)
        return self._asked_plugins(sent)

    def forwarded(self, given: Sequence[str], place: arguments.Place) -> list[str]:
        """Return the part of `given` that the pytest running in `place` gets."""
        return arguments.forward(given, place, self.arity, reports_here=self.reports_here)

    def wanted_reports(self) -> destinations.Reports:
        """Return the reports that may be fetched into the project."""
        given = [*self._pytest.getini("addopts"), *self.given]
        found = self._report_files()
        twice = [(report.option, report.file) for report in found if report.file is not None]
        outsiders = [report.outside for report in found if report.outside is not None]
        return destinations.find(given, self.place, self.reports_here, twice, outsiders, self.given)

    def _led(self, given: list[str]) -> list[str]:
        """Redirect reports outside of the project into it, except for a run: its reports are not fetched."""
        return (
            given if self.option("pipeline") else external_reports.led(given, self.place, self.reports_here)
        )

    def _report_files(self) -> list[ReportFile]:
        """Return reports written both locally and in the job; none for a run: its report covers all jobs."""
        if not self.native or self.option("pipeline"):
            return []
        from pytest_remote_ci.artifacts import report_files

        return report_files.find(self._pytest, self.place, self.given)

    def _extra(self) -> list[str]:
        if not self.native:
            return []
        from pytest_remote_ci.replay import reporters

        files = [report.argument for report in self._report_files()]
        return [*reporters.arguments(self._pytest), *files]

    def _stripped_addopts(self) -> list[str]:
        """Return arguments to override ``addopts`` without our options, which the job's pytest may not know."""
        addopts = list(self._pytest.getini("addopts"))
        stripped = arguments.without_own(addopts)
        return [] if stripped == addopts else ["-o", f"addopts={shlex.join(stripped)}"]

    def _asked_plugins(self, options: SubmitOptions) -> SubmitOptions:
        raw = {name: _changeable(getattr(options, name)) for name in options.__dataclass_fields__}
        self._pytest.hook.pytest_remote_ci_submission(config=self._pytest, options=raw)
        try:
            return SubmitOptions.from_client(raw)
        except WireError as error:
            raise ConfigError(str(error)) from error

    def workspace(self, settings: Config) -> Workspace:
        """Return the working tree in its present state."""
        from pytest_remote_ci.workspace import collect as workspace

        self._display.line.show("looking for the project's files")
        include = (*settings.include, *self._cache_files())
        found = workspace.collect(self.place.root, include=include, exclude=settings.exclude)
        self._display.line.clear()
        for warning in found.warnings:
            self._display.say(f"remote-ci: {warning}")
        files = [file.path for file in found.files]
        chosen = list(files)
        self._pytest.hook.pytest_remote_ci_choose_files(
            config=self._pytest, root=self.place.root, files=chosen
        )
        found = found if chosen == files else found.choose(chosen)
        return replace(found, mtimes=bool(getattr(self._pytest.option, "newfirst", False)))

    def _cache_files(self) -> tuple[str, ...]:
        """Return cache files of earlier sessions that a remote ``--lf`` and similar options need."""
        options = self._pytest.option
        asked = any(getattr(options, name, False) for name in ("lf", "failedfirst", "newfirst", "stepwise"))
        if not (self.native and asked) or getattr(options, "cacheclear", False):
            return ()
        folder = str(self._pytest.getini("cache_dir"))
        return tuple(f"{folder}/v/cache/{name}" for name in ("lastfailed", "nodeids", "stepwise"))

    def folder(self, settings: Config) -> Callable[[str], ArtifactFolder]:
        """Return a function from job id to the job's folder for artifacts."""
        cwd = Path(self._pytest.invocation_params.dir)
        return lambda job_id: artifact_folder.of(settings, job_id, cwd, self.place.root)

    def runner(self, settings: Config) -> embedded_runner.Runner:
        """Return the runner to use."""
        runner = embedded_runner.find(settings, notify=lambda text: self._display.line.show(f"{text} …"))
        self._display.line.clear()
        if runner.warning:
            self._display.say(f"remote-ci: {runner.warning}")
        return runner


def interpreter_options() -> list[str]:
    """Return options of this interpreter that change test results, as typed; jobs do not get them."""
    flags = sys.flags
    implied = {"error::BytesWarning": flags.bytes_warning > 1, "default": flags.dev_mode}
    found = [f"-W {option}" for option in sys.warnoptions if not implied.get(option)]
    found += [
        f"-{letter * count}" for letter, count in (("O", flags.optimize), ("b", flags.bytes_warning)) if count
    ]
    return found + [f"-X {name}" for name in ("dev", "utf8") if name in sys._xoptions]


def _changeable(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
