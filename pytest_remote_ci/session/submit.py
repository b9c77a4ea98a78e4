"""Run ``pytest --remote-ci`` from the start to the exit code, or to the point where the replay begins.

The order is: configuration, runner, working tree, upload, events. Every way out is an exit code and at most one line
on stderr; errors of the user, the runner or the network never cause a traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest

from pytest_remote_ci import exit_codes
from pytest_remote_ci.errors import ClientError, ConfigError, JobNotFound, RunnerUnreachable
from pytest_remote_ci.session import arguments
from pytest_remote_ci.session.remote_job import RemoteJob
from pytest_remote_ci.session.submission import SubmissionBuilder
from pytest_remote_ci.terminal.ansi import silence_stdout
from pytest_remote_ci.terminal.display import Display, exit_code
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire.protocol import SubmitOptions

if TYPE_CHECKING:
    from pytest_remote_ci.config.config import Config
    from pytest_remote_ci.replay.selection import Choice
    from pytest_remote_ci.workspace.collect import Workspace

#: The oldest version that can replay a session.
_OLDEST_PYTEST = 7


def run(config: pytest.Config, given: tuple[list[str], list[str]]) -> int | None:
    """Run the session on a runner; return the exit code, or None if pytest's own session continues.

    In that session, a plugin replaces the local tests by the remote ones. `given` are the arguments of PYTEST_ADDOPTS
    and of the command line.
    """
    display = Display(StatusLine())
    held = "Cancelling the submission … (press Ctrl-C again to leave at once)"
    with ExitStack() as resources:
        interrupts = resources.enter_context(Interrupts(on_held=lambda: display.say(held)))
        try:
            return _Session(config, given, display, interrupts, resources).run()
        except KeyboardInterrupt:
            display.say("Interrupted: nothing was left on the runner.")
            return exit_codes.INTERRUPTED
        except BrokenPipeError:
            silence_stdout()
            return exit_codes.FAILED  # as in pytest's own entry point
        except ClientError as error:
            display.say(f"remote-ci: {error}")
            if arguments.is_for_help(given[1]):
                from pytest_remote_ci.session import remote_help

                remote_help.answer_here(config)
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
        #: Closed when the process is done with the job: at once, or at the end of the replay.
        self._resources = resources
        self._native = not config.getoption("remote_ci_text") and not self._is_old_pytest()
        self._prepared = SubmissionBuilder(config, given, display, native=self._native)
        self._interrupts = interrupts

    def run(self) -> int | None:
        settings = self._prepared.settings()
        if self._prepared.option("pipeline"):
            return self._run_pipeline(settings)
        earlier = self._prepared.option("replay") or self._prepared.option("attach")
        if earlier:
            show = self._replay if self._prepared.option("replay") else self._attach
            try:
                return show(settings, str(earlier))
            except JobNotFound:
                self._refuse_runs(settings, str(earlier))
                raise
        options = self._prepared.options(settings)
        workspace = self._prepared.workspace(settings)
        self._prepared.say_what_stays_there()
        if self._prepared.option("dry_run"):
            for text in workspace.listing():
                print(text)  # noqa: T201 - the answer to the question
            return 0
        self._prepared.refuse_debuggers(workspace)
        return self._submit(settings, workspace, options)

    def _run_pipeline(self, settings: Config) -> int | None:
        from pytest_remote_ci.session.pipeline import PipelineSession

        session = PipelineSession(
            self._pytest, self._prepared, self._display, self._interrupts, self._resources
        )
        return session.run(settings)

    def _refuse_runs(self, settings: Config, run_id: str) -> None:
        """Raise `ConfigError` if this is the id of a run of a pipeline."""
        from pytest_remote_ci.client.client import Client
        from pytest_remote_ci.client.runs import Runs

        runner = self._prepared.runner(settings)
        with suppress(JobNotFound), Client(runner.url, runner.key) as client:
            run = Runs(client).get(run_id)
            what = f"{run['pipeline']}#{run['number']}"
            raise ConfigError(
                f"{run_id} is a run of a pipeline, and only jobs are shown again: use `remote-ci pipeline status "
                f"{what} --watch` or `remote-ci pipeline logs {what}`"
            )

    def _is_old_pytest(self) -> bool:
        """Whether the local pytest is too old for a replay; if so, print a line."""
        is_old = int(pytest.__version__.partition(".")[0]) < _OLDEST_PYTEST
        if is_old:
            self._display.say(
                f"remote-ci: pytest {pytest.__version__} here is older than {_OLDEST_PYTEST}.0; "
                "showing the remote pytest's text instead"
            )
        return is_old

    def _submit(self, settings: Config, workspace: Workspace, options: SubmitOptions) -> int | None:
        for last_chance in (False, True):
            current = self._remote_run(settings)
            expected = self._prepared.wanted_reports()
            # A plugin may have requested more.
            others = tuple(name for name in options.reports if name not in expected.patterns)
            current.keep(self._prepared.folder(settings), expected, (*options.artifacts, *others))
            try:
                return self._sent(current, workspace, settings, options)
            except RunnerUnreachable:
                # An idle embedded runner can have ended between the check and the submission.
                if last_chance or settings.url is not None or current.job_id is not None:
                    raise
        raise AssertionError("the second attempt returns or raises")

    def _remote_run(self, settings: Config, job_id: str | None = None) -> RemoteJob:
        from pytest_remote_ci.client.client import Client

        runner = self._prepared.runner(settings)
        client = self._resources.enter_context(Client(runner.url, runner.key, on_wait=self._display.say))
        return RemoteJob(client, self._display, self._interrupts, self._see, job_id)

    def _sent(
        self, current: RemoteJob, workspace: Workspace, settings: Config, options: SubmitOptions
    ) -> int | None:
        try:
            job_id = current.submit(workspace, options, again=lambda: self._prepared.workspace(settings))
            if self._prepared.option("async"):
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
            return exit_codes.INTERRUPTED
        except ClientError:
            raise
        except BaseException:  # output closed or a plugin failed: the result would not be seen
            current.abandon()
            raise

    def _result(self, current: RemoteJob) -> int:
        complete = current.follow()
        current.fetch_artifacts(complete)
        code = exit_code(complete)
        if complete.get("reason"):  # a verdict with a remark: a test took pytest down
            self._display.say(f"remote-ci: {complete['reason']}")
        if arguments.is_for_help(self._prepared.given) and code == 0:
            from pytest_remote_ci.session import remote_help

            print(f"\n{remote_help.own_options()}", end="")  # noqa: T201 - the rest of the answer
        return code

    def _take_over(
        self,
        current: RemoteJob,
        cancel: Callable[[], bool],
        *,
        is_late: bool = False,
        choice: Choice | None = None,
    ) -> bool:
        """Let the local session replay the remote one; return False if its text must be shown instead."""
        from pytest_remote_ci.replay.events import EventSource, wait_for_session
        from pytest_remote_ci.replay.player import JobPlayer
        from pytest_remote_ci.replay.plugin import take_over

        events = EventSource(current.events, is_late=is_late, is_over=choice is not None)
        if wait_for_session(events, self._display, str(self._prepared.place.cwd)) is not None:
            current.push_back(events.take_held())
            return False
        player = JobPlayer(self._pytest, current, events, self._display, cancel, choice)
        take_over(self._pytest, player, self._resources)
        return True

    def _attach(self, settings: Config, job_id: str) -> int | None:
        current = self._remote_run(settings, job_id)
        # No reports: the job's may be of another state of the project, or of another project.
        current.keep(self._prepared.folder(settings))

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
            return exit_codes.INTERRUPTED

    def _replay(self, settings: Config, job_id: str) -> int | None:
        """Replay the results of a job that is over."""
        from pytest_remote_ci.replay.selection import Choice

        arguments.refuse_next_run([*self._pytest.getini("addopts"), *self._prepared.given])
        current = self._remote_run(settings, job_id)
        current.require_finished()
        try:
            choice = Choice(self._pytest)
            if self._native and self._take_over(current, lambda: False, is_late=True, choice=choice):
                return None
            return self._result(current)
        except KeyboardInterrupt:
            return exit_codes.INTERRUPTED

    def _see(self, event: dict[str, Any]) -> None:
        hook = self._pytest.hook.pytest_remote_ci_event
        if hook.get_hookimpls():  # usually there are none, and each test has several events
            hook(config=self._pytest, event=dict(event))
