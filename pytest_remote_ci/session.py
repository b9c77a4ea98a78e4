"""``pytest --remote-ci`` from the hand-over to the exit code, or to where the native session takes over.

The order is: configuration, runner, working tree, upload, events. Every way out is an exit code and at most one line
on stderr; there is never a traceback of ours for something that the user, the runner or the network did.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_remote_ci import arguments, debugging, embedded, reports, scm
from pytest_remote_ci import config as configuration
from pytest_remote_ci.display import Display, exit_code, local_color
from pytest_remote_ci.errors import ClientError, ConfigError, RunnerUnreachable
from pytest_remote_ci.follow import RemoteRun
from pytest_remote_ci.interrupts import Interrupts
from pytest_remote_ci.local_pytest import OptionArity, any_place, find_place
from pytest_remote_ci.progress import StatusLine
from pytest_remote_ci.terminal import is_terminal, silence_stdout
from pytest_remote_ci.wire import EXIT_INTERRUPTED, SubmitOptions, WireError

if TYPE_CHECKING:
    from pytest_remote_ci.config import Config
    from pytest_remote_ci.replay.choice import Choice
    from pytest_remote_ci.replay.second_reports import SecondReport
    from pytest_remote_ci.workspace import Workspace

#: The first version that can replay a session.
_OLDEST_PYTEST = 7
#: What pytest's own entry point ends with when nobody reads its output.
_EXIT_BROKEN_PIPE = 1


def run(config: pytest.Config, given: tuple[list[str], list[str]]) -> int | None:
    """Run the session on a runner. `given` are the arguments of PYTEST_ADDOPTS and of the command line.

    None: pytest's own session is to go on, with the remote one in the place of its tests.
    """
    display = Display(StatusLine())
    held = "Cancelling the submission … (press Ctrl-C again to leave at once)"
    with ExitStack() as resources:
        interrupts = resources.enter_context(Interrupts(on_held=lambda: display.say(held)))
        try:
            return _Session(config, given, display, interrupts, resources).run()
        except KeyboardInterrupt:
            display.say("Interrupted: nothing was left on the runner.")
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            silence_stdout()
            return _EXIT_BROKEN_PIPE
        except ClientError as error:
            display.say(f"remote-ci: {error}")
            if arguments.is_for_help(given[1]):
                from pytest_remote_ci import help_text

                help_text.answer_here(config)
                return None
            return error.exit_code


class _Session:
    def __init__(
        self,
        config: pytest.Config,
        given: tuple[list[str], list[str]],
        display: Display,
        interrupts: Interrupts,
        resources: ExitStack,
    ) -> None:
        self._pytest = config
        self._display = display
        #: Closed when the process is done with the job: at once, or at the end of the session that is taken over.
        self._resources = resources
        self._native = not self._option("text") and not self._is_old_pytest()
        self._given = [*given[0], *given[1]]
        self._is_for_help = arguments.is_for_help(self._given)
        self._arity = OptionArity(config)
        #: Options that the local session obeys, and nobody else.
        self._reports_here = arguments.reporting_here(self._arity.is_known) if self._native else frozenset()
        self._interrupts = interrupts
        is_new = not (self._option("attach") or self._option("replay"))
        self._place = find_place(config) if is_new else any_place(config)

    def run(self) -> int | None:
        settings = self._settings()
        if self._option("replay"):
            return self._replay(settings, str(self._option("replay")))
        if self._option("attach"):
            return self._attach(settings, str(self._option("attach")))
        options = self._options(settings)
        workspace = self._workspace(settings)
        self._say_what_stays_there()
        if self._option("dry_run"):
            for text in workspace.listing():
                print(text)  # noqa: T201 - the answer to the question
            return 0
        self._refuse_debuggers(workspace)
        return self._submit(settings, workspace, options)

    def _refuse_debuggers(self, workspace: Workspace) -> None:
        if os.environ.get(debugging.VARIABLE) or arguments.is_question(self._given):
            return
        config = self._pytest
        start = Path(config.invocation_params.dir)
        chosen = [
            Path(os.path.normpath(start / str(argument).partition("::")[0])) for argument in config.args
        ]
        debugging.refuse_calls(workspace.files, workspace.root, chosen, config.getini("python_files"))

    def _is_old_pytest(self) -> bool:
        """Whether the pytest here cannot take reports of others; says so."""
        is_old = int(pytest.__version__.partition(".")[0]) < _OLDEST_PYTEST
        if is_old:
            self._display.say(
                f"remote-ci: pytest {pytest.__version__} here is older than {_OLDEST_PYTEST}.0; "
                "showing the remote pytest's text instead"
            )
        return is_old

    def _say_what_stays_there(self) -> None:
        """Options that write a file do so where the tests run; nobody should look for it here."""
        given = [*self._pytest.getini("addopts"), *self._given]
        stays = reports.outside(given, self._place)
        writing = [name for name in arguments.written_there(given, self._reports_here) if name in stays]
        if writing:
            self._display.say(
                f"remote-ci: {', '.join(writing)}: written on the runner, not brought back here"
            )

    def _option(self, name: str) -> Any:
        return self._pytest.getoption(f"remote_ci_{name}")

    def _settings(self) -> Config:
        names = ("url", "api_key", "image", "python", "timeout", "name", "network", "artifacts_dir")
        overrides: dict[str, object] = {name: self._option(name) for name in names}
        settings = configuration.load(self._place.root, overrides=overrides)
        more = {"env": self._option("env"), "artifacts": self._option("artifact")}
        if any(more.values()):  # in addition to what is configured, and checked like that
            overrides |= {
                name: tuple(dict.fromkeys((*getattr(settings, name), *values)))
                for name, values in more.items()
                if values
            }
            settings = configuration.load(self._place.root, overrides=overrides)
        return settings

    def _options(self, settings: Config) -> SubmitOptions:
        config, place = self._pytest, self._place
        options = settings.submit_options(
            root=place.root,
            cwd=place.root / place.subdirectory,
            args=[
                *self._stripped_addopts(),
                *self._extra(),  # before what was given, which may hold a "--"
                *arguments.forward(self._given, place, self._arity, reports_here=self._reports_here),
            ],
            module=Path(sys.argv[0]).parts[-2:] == ("pytest", "__main__.py"),
            pytest_version=pytest.__version__,
            scm_version=scm.version(place.root),
            color=local_color(config.getoption("color", "auto"), os.environ, is_terminal(sys.stdout)),
            columns=shutil.get_terminal_size().columns,
        )
        options = replace(options, records=self._native, reports=self._reports().patterns)
        if os.environ.get(debugging.VARIABLE) == "0":
            options = replace(options, env={**options.env, debugging.VARIABLE: "0"})
        priority = self._option("priority")
        if priority:
            options = replace(options, priority=priority)
        return self._asked_plugins(options)

    def _reports(self) -> reports.Reports:
        """What the run may leave for places in the project."""
        given = [*self._pytest.getini("addopts"), *self._given]
        seconds = [file for report in self._second_reports() for file in report.files]
        return reports.find(given, self._place, self._reports_here, seconds)

    def _second_reports(self) -> list[SecondReport]:
        if not self._native:
            return []
        from pytest_remote_ci.replay import second_reports

        return second_reports.find(self._pytest, self._place.relative)

    def _extra(self) -> list[str]:
        if not self._native:
            return []
        from pytest_remote_ci.replay import reporters

        seconds = [report.argument for report in self._second_reports()]
        return [*reporters.arguments(self._pytest), *seconds]

    def _stripped_addopts(self) -> list[str]:
        """The container's pytest may lack this plugin: options of it that the project's file names must not arrive."""
        addopts = list(self._pytest.getini("addopts"))
        stripped = arguments.without_own(addopts)
        return [] if stripped == addopts else ["-o", f"addopts={shlex.join(stripped)}"]

    def _asked_plugins(self, options: SubmitOptions) -> SubmitOptions:
        raw = {name: _changeable(getattr(options, name)) for name in options.__dataclass_fields__}
        self._pytest.hook.pytest_remote_ci_submission(config=self._pytest, options=raw)
        try:
            return SubmitOptions.from_dict(raw)
        except WireError as error:
            raise ConfigError(str(error)) from error

    def _workspace(self, settings: Config) -> Workspace:
        from pytest_remote_ci import workspace

        self._display.line.show("looking for the project's files")
        include = (*settings.include, *self._cache_files())
        found = workspace.collect(self._place.root, include=include, exclude=settings.exclude)
        self._display.line.clear()
        for warning in found.warnings:
            self._display.say(f"remote-ci: {warning}")
        files = [file.path for file in found.files]
        chosen = list(files)
        self._pytest.hook.pytest_remote_ci_choose_files(
            config=self._pytest, root=self._place.root, files=chosen
        )
        found = found if chosen == files else found.choose(chosen)
        return replace(found, mtimes=bool(getattr(self._pytest.option, "newfirst", False)))

    def _submit(self, settings: Config, workspace: Workspace, options: SubmitOptions) -> int | None:
        for last_chance in (False, True):
            current = self._remote_run(settings)
            current.keep(self._folder(settings), self._reports())
            try:
                return self._sent(current, workspace, settings, options)
            except RunnerUnreachable:
                # An idle embedded runner may have ended between the question and the submission.
                if last_chance or settings.url is not None or current.job_id is not None:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def _cache_files(self) -> tuple[str, ...]:
        """What a remote ``--lf`` and its like need to know of the runs before."""
        options = self._pytest.option
        asked = any(getattr(options, name, False) for name in ("lf", "failedfirst", "newfirst", "stepwise"))
        if not (self._native and asked) or getattr(options, "cacheclear", False):
            return ()
        folder = str(self._pytest.getini("cache_dir"))
        return tuple(f"{folder}/v/cache/{name}" for name in ("lastfailed", "nodeids", "stepwise"))

    def _remote_run(self, settings: Config, job_id: str | None = None) -> RemoteRun:
        from pytest_remote_ci.client import Client

        runner = self._runner(settings)
        client = self._resources.enter_context(Client(runner.url, runner.key))
        return RemoteRun(client, self._display, self._interrupts, self._see, job_id)

    def _folder(self, settings: Config) -> Callable[[str], Path]:
        """Where artifacts of a job go."""
        cwd = Path(self._pytest.invocation_params.dir)
        return lambda job_id: reports.folder_of(settings, job_id, cwd, self._place.root)

    def _runner(self, settings: Config) -> embedded.Runner:
        runner = embedded.find(settings, notify=lambda text: self._display.line.show(f"{text} …"))
        self._display.line.clear()
        if runner.warning:
            self._display.say(f"remote-ci: {runner.warning}")
        return runner

    def _sent(
        self, current: RemoteRun, workspace: Workspace, settings: Config, options: SubmitOptions
    ) -> int | None:
        try:
            job_id = current.submit(workspace, options, again=lambda: self._workspace(settings))
            if self._option("async"):
                print(f"Job submitted: {job_id}", flush=True)  # noqa: T201 - the result
                return 0
            self._display.say(f"Job ID: {job_id}")
            if self._native and self._take_over(current, current.ask_to_stop):
                return None
            return self._result(current)
        except KeyboardInterrupt:
            if current.job_id is None:
                raise
            current.cancel()
            return EXIT_INTERRUPTED
        except ClientError:
            raise
        except BaseException:  # the output's reader is gone, or a plugin failed: nobody will see the result
            current.abandon()
            raise

    def _result(self, current: RemoteRun) -> int:
        complete = current.follow()
        current.bring_home(complete)
        code = exit_code(complete)
        if complete.get("reason"):  # a verdict with a remark: a test took pytest down
            self._display.say(f"remote-ci: {complete['reason']}")
        if self._is_for_help and code == 0:
            from pytest_remote_ci import help_text

            print(f"\n{help_text.own_options()}", end="")  # noqa: T201 - the rest of the answer
        return code

    def _take_over(
        self,
        current: RemoteRun,
        cancel: Callable[[], bool],
        *,
        is_late: bool = False,
        choice: Choice | None = None,
    ) -> bool:
        """Let the local session replay the remote one; False when that cannot be, and its text is shown instead."""
        from pytest_remote_ci.replay.feed import Feed, wait_for_session
        from pytest_remote_ci.replay.takeover import Takeover

        feed = Feed(current, is_late=is_late, is_over=choice is not None)
        if wait_for_session(feed, self._display, str(self._place.cwd)) is not None:
            current.give_again(feed.take_held())
            return False
        plugin = Takeover(
            self._pytest,
            feed,
            self._display,
            cancel,
            self._resources.pop_all(),
            choice=choice,
        )
        self._pytest.pluginmanager.register(plugin, "remote-ci-takeover")
        return True

    def _attach(self, settings: Config, job_id: str) -> int | None:
        current = self._remote_run(settings, job_id)
        current.keep(self._folder(settings))  # who knows of what time and project its reports are

        def leave() -> bool:
            self._display.say(
                f"Stopped showing job {job_id}. It continues to run; come back with: "
                f"pytest --remote-ci-attach {job_id}"
            )
            return False

        try:
            if self._native and self._take_over(current, leave, is_late=True):
                return None
            return self._result(current)
        except KeyboardInterrupt:
            leave()
            return EXIT_INTERRUPTED

    def _replay(self, settings: Config, job_id: str) -> int | None:
        """Tell the results of a job that is over again."""
        from pytest_remote_ci.replay.choice import Choice

        arguments.refuse_next_run([*self._pytest.getini("addopts"), *self._given])
        current = self._remote_run(settings, job_id)
        current.require_over()
        try:
            choice = Choice(self._pytest)
            if self._native and self._take_over(current, lambda: False, is_late=True, choice=choice):
                return None
            return self._result(current)
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED

    def _see(self, event: dict[str, Any]) -> None:
        self._pytest.hook.pytest_remote_ci_event(config=self._pytest, event=dict(event))


def _changeable(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
