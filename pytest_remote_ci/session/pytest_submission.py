"""The parts of a submission from the configuration of one pytest: `pytest --remote-ci` and similar."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_remote_ci import options
from pytest_remote_ci.artifacts import destinations, external_reports
from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session import arguments, interpreter, pytest_cache
from pytest_remote_ci.session.local_options import OptionArity, any_place, find_place, with_files
from pytest_remote_ci.session.submission import Submission
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.wire.protocol import PRIORITIES, SubmitOptions, WireError
from pytest_remote_ci.workspace import breakpoints

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.report_files import ReportFile
    from pytest_remote_ci.artifacts.updates import Updates
    from pytest_remote_ci.config.config import Config
    from pytest_remote_ci.workspace.collect import Workspace


class PytestSubmission(Submission):
    """A submission from the configuration of one pytest."""

    def __init__(
        self,
        config: pytest.Config,
        given: tuple[list[str], list[str]],
        display: Display,
        resources: ExitStack,
        *,
        native: bool,
    ) -> None:
        """`given`: the arguments of PYTEST_ADDOPTS and of the command line; `native`: the session is recorded."""
        self._pytest = config
        self.native = native
        self.given = [*given[0], *given[1]]
        #: ``addopts`` of the project, files of arguments read.
        self.addopts = with_files(config.getini("addopts"))
        self.arity = OptionArity(config)
        #: Options that only the local session applies.
        self.local_reporters = arguments.find_local_reporters(self.arity.is_known) if native else frozenset()
        is_new = not (self.option("attach") or self.option("replay"))
        place = find_place(config) if is_new else any_place(config)
        super().__init__(
            place,
            self._load_settings(place.root),
            display,
            resources,
            is_dry_run=bool(self.option("dry_run")),
            is_async=bool(self.option("async")),
        )

    @property
    def all_arguments(self) -> list[str]:
        """All arguments, wherever they were given."""
        return [*self.addopts, *self.given]

    def check(self, workspace: Workspace) -> None:
        """Print what will not be as in a local session.

        Raise `WorkspaceError` for calls of debuggers in tests, and for dependencies that are not sent.
        """
        super().check(workspace)
        self._print_limitations()
        self._print_unset_variables()
        self._refuse_debuggers(workspace)

    def _refuse_debuggers(self, workspace: Workspace) -> None:
        """Raise `WorkspaceError` if a selected test file calls a debugger: a job has no terminal."""
        if os.environ.get(breakpoints.VARIABLE) or arguments.is_question(self.given):
            return
        config = self._pytest
        start = Path(config.invocation_params.dir)
        chosen = [
            Path(os.path.normpath(start / str(argument).partition("::")[0])) for argument in config.args
        ]
        breakpoints.refuse_calls(workspace.files, workspace.root, chosen, config.getini("python_files"))

    def _print_limitations(self) -> None:
        """Print which options write files only on the runner, and which interpreter options are not used there."""
        stays = destinations.staying(self.addopts, self.given, self.place)
        written = arguments.file_writing_options(self.all_arguments, self.local_reporters)
        writing = [name for name in written if name in stays]
        if writing:
            self.display.print_message(f"remote-ci: {', '.join(writing)}: written on the runner, not fetched")

        ignored = interpreter.unused()
        if ignored:
            self.display.print_message(f"remote-ci: {' '.join(ignored)} (of Python): not used on the runner")

    def _print_unset_variables(self) -> None:
        """Print which variables of ``--remote-ci-env`` are not set; those of the configuration are optional."""
        unset = [name for name in self._pytest.getoption("remote_ci_env") or () if name not in os.environ]
        if unset:
            names = ", ".join(dict.fromkeys(unset))
            self.display.print_message(
                f"remote-ci: --remote-ci-env {names}: not set here, so the job does not get it"
            )

    def option(self, name: str) -> object:
        """Return the value of ``--remote-ci-NAME``."""
        return self._pytest.getoption(f"remote_ci_{name}")

    def _load_settings(self, root: Path) -> Config:
        """Return the project's settings, overridden by the command line."""
        overrides: dict[str, object] = {}
        additions: dict[str, Sequence[str]] = {}
        spellings = {option.setting: option.names[0] for option in options.OWN if option.setting}
        for option in options.OWN:
            value = getattr(self._pytest.option, options.destination(option), None)
            if not option.setting or value is None:
                continue
            if isinstance(value, list):
                additions[option.setting] = value
            else:
                overrides[option.setting] = value
        return configuration.load(
            root,
            overrides=overrides,
            additions=additions,
            spellings=spellings,
            profile=getattr(self._pytest.option, "remote_ci_profile", None),
        )

    def options(self, *, of_run: bool = False) -> SubmitOptions:
        """Return the options of a submission; `of_run`: those shared by all jobs of a run, in the project's root."""
        given = [] if of_run else self.forwarded(self._redirected(self._picked(self.given)), self.place)
        sent = self._options(
            [*self._stripped_addopts(), *self._extra(), *given],  # given arguments can contain a "--"
            color=self._pytest.getoption("color", "auto"),
            is_module=Path(sys.argv[0]).parts[-2:] == ("pytest", "__main__.py"),
            in_root=of_run,
            records=self.native,
            reports=self.wanted_reports().patterns,
        )
        if os.environ.get(breakpoints.VARIABLE) == "0":
            sent = replace(sent, env={**sent.env, breakpoints.VARIABLE: "0"})
        sent = replace(sent, interpreter_options=tuple(interpreter.options()))
        for priority in PRIORITIES:
            if priority == self.option("priority"):
                sent = replace(sent, priority=priority)
        if self.option("cold"):
            sent = replace(sent, cold_start=True)
        return self._asked_plugins(sent)

    def _picked(self, given: list[str]) -> list[str]:
        """Replace ``--picked`` by the changed test files, and print them as pytest-picked does."""
        if not any(word.startswith("--picked") for word in given):
            return given
        from pytest_remote_ci.session import picked

        found, files = picked.replaced(given, self._pytest, self.place, self.arity)
        if files:
            self.display.print_message(
                f"remote-ci: --picked: {len(files)} changed test files: {', '.join(files)}"
            )
        return found

    def forwarded(self, given: Sequence[str], place: arguments.Place) -> list[str]:
        """Return the part of `given` that the pytest running in `place` gets."""
        return arguments.forward(given, place, self.arity, local_reporters=self.local_reporters)

    def wanted_reports(self) -> destinations.Reports:
        """Return the reports that may be fetched into the project."""
        found = self._report_files()
        twice = [(report.option, report.file) for report in found if report.file is not None]
        outsiders = [report.outside for report in found if report.outside is not None]
        return destinations.find(
            self.all_arguments, self.place, self.local_reporters, twice, outsiders, self.given
        )

    def updates(
        self,
        sent: SubmitOptions,
        *,
        place: arguments.Place | None = None,
        given: Sequence[str] | None = None,
    ) -> Updates:
        """Return which changes of the project's files are brought home, for a job with these options.

        For a job of a run, `place` is its folder and `given` are its arguments, with those that were typed.
        """
        from pytest_remote_ci.artifacts import updates
        from pytest_remote_ci.wire import keep

        return updates.find(
            self.all_arguments if given is None else [*self.addopts, *given],
            self.given,
            self.place if place is None else place,
            python_files=self._pytest.getini("python_files"),
            write_back=self.settings.write_back,
            exclude=self.settings.exclude,
            expected=(*sent.artifacts, *sent.reports, *keep.all_below_project(sent.keep, sent.cwd)),
        )

    def _redirected(self, given: list[str]) -> list[str]:
        """Redirect reports outside of the project into it, except for a run: its reports are not fetched."""
        return (
            given
            if self.option("pipeline")
            else external_reports.redirected(given, self.place, self.local_reporters)
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

        reporters.prepare_editor(self.all_arguments)
        files = [report.argument for report in self._report_files()]
        return [*reporters.arguments(self._pytest), *files]

    def _stripped_addopts(self) -> list[str]:
        """Return arguments to override ``addopts`` without our options, which the job's pytest may not know."""
        stripped = arguments.without_own(self.addopts)
        return [] if stripped == self._pytest.getini("addopts") else ["-o", f"addopts={shlex.join(stripped)}"]

    def _asked_plugins(self, options: SubmitOptions) -> SubmitOptions:
        raw = {name: _changeable(getattr(options, name)) for name in options.__dataclass_fields__}
        self._pytest.hook.pytest_remote_ci_submission(config=self._pytest, options=raw)
        try:
            return SubmitOptions.from_client(raw)
        except WireError as error:
            raise ConfigError(str(error)) from error

    def _chosen(self, workspace: Workspace) -> Workspace:
        """Return what other plugins want to be sent."""
        found = workspace
        files = [file.path for file in found.files]
        chosen = list(files)
        self._pytest.hook.pytest_remote_ci_choose_files(
            config=self._pytest, root=self.place.root, files=chosen
        )
        found = found if chosen == files else found.choose(chosen)
        return replace(found, mtimes=bool(getattr(self._pytest.option, "newfirst", False)))

    def _cache_files(self) -> tuple[str, ...]:
        """Return cache files of earlier sessions that a remote ``--lf`` and similar options need."""
        return pytest_cache.cache_files(self._pytest) if self.native else ()


def _changeable(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
