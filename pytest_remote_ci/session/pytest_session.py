"""Run ``pytest --remote-ci`` from the start to the exit code, or to the point where the replay begins.

Every way out is an exit code and at most one line on stderr; errors of the user, the runner or the network never cause
a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

from pytest_remote_ci import exit_codes
from pytest_remote_ci.errors import ClientError, ConfigError, JobNotFound, describe_os_error
from pytest_remote_ci.session import arguments, interpreter, small_plan
from pytest_remote_ci.session.pytest_submission import PytestSubmission
from pytest_remote_ci.session.remote_job import RemoteJob
from pytest_remote_ci.session.submit import held_interrupts, submit
from pytest_remote_ci.terminal.ansi import silence_stdout
from pytest_remote_ci.terminal.display import Display, exit_code
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire.events import Event
from pytest_remote_ci.wire.records import Refused

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.updates import Updates
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.replay.selection import Choice
    from pytest_remote_ci.session.remote_run import RemoteRun
    from pytest_remote_ci.wire.answers import CheckedPipelines, Plan, RunJob
    from pytest_remote_ci.wire.protocol import SubmitOptions

#: The oldest version that can replay a session.
_OLDEST_PYTEST = 7


def run(config: pytest.Config, given: tuple[list[str], list[str]]) -> int | None:
    """Run the session on a runner; return the exit code, or None if pytest's own session continues.

    In that session, a plugin replaces the local tests by the remote ones. `given` are the arguments of PYTEST_ADDOPTS
    and of the command line.
    """
    display = Display(StatusLine())
    with ExitStack() as resources:
        interrupts = resources.enter_context(held_interrupts(display))
        try:
            return _Session(config, given, display, interrupts, resources).run()
        except KeyboardInterrupt:
            display.print_message("Interrupted: nothing was left on the runner.")
            return exit_codes.INTERRUPTED
        except BrokenPipeError:
            silence_stdout()
            return exit_codes.FAILED  # as in pytest's own entry point
        except ClientError as error:
            display.print_message(f"remote-ci: {error}")
            return error.exit_code
        except OSError as error:  # a full disk, for example
            display.print_message(f"remote-ci: {describe_os_error(error)}")
            return exit_codes.NO_VERDICT


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
        self._typed = given[1]
        #: Closed when the process is done with the job: at once, or at the end of the replay.
        self._resources = resources
        self._native = not config.getoption("remote_ci_text") and not self._is_old_pytest()
        self._parts = PytestSubmission(config, given, display, resources, native=self._native)
        self._interrupts = interrupts
        #: Plugins of a remote pytest that refused its arguments; None if it did not.
        self._plugins_there: list[str] | None = None
        #: What the job's pytest printed about options or plugins that it does not know.
        self._usage_error = ""

    def run(self) -> int | None:
        if self._parts.option("pipeline"):
            return self._run_pipeline(str(self._parts.option("pipeline")))
        earlier = self._parts.option("replay") or self._parts.option("attach")
        if not earlier:
            return self._run_job()
        alone = arguments.without_effect(self._typed)
        if alone:
            raise ConfigError(f"{', '.join(alone)}: no effect on job {earlier}, which was submitted before")
        show = self._replay if self._parts.option("replay") else self._attach
        try:
            return show(str(earlier))
        except JobNotFound:
            self._refuse_runs(str(earlier))
            raise

    def _run_job(self) -> int | None:
        parts = self._parts
        if interpreter.is_measured():
            raise ConfigError(
                "coverage run measures only this process, and the tests run elsewhere: "
                "use pytest-cov (pytest --remote-ci --cov) instead of `coverage run -m pytest`"
            )
        options = parts.options()
        plan = self._small_plan(options)
        if plan is not None:
            return self._run_plan(plan, options, small_plan.labels(plan))
        secrets = {} if parts.is_dry_run else parts.settings.secret_values()

        def connect(client: Client) -> RemoteJob:
            job = RemoteJob(
                client,
                self._display,
                self._interrupts,
                self._see,
                options=options,
                secrets=secrets,
                clock=parts.clock,
            )
            expected = parts.wanted_reports()
            # A plugin may have requested more.
            others = tuple(name for name in options.reports if name not in expected.patterns)
            job.keep(
                parts.folder,
                expected,
                (*options.artifacts, *others),
                lambda: parts.updates(options),
            )
            return job

        def follow(job: RemoteJob) -> int | None:
            if self._native and self._replay_job(job, job.ask_to_stop):
                return None
            return self._result(job)

        return submit(parts, connect, follow)

    def _small_plan(self, options: SubmitOptions) -> Plan | None:
        """Return the plan of a session with several Pythons or retries; None if there is a single job.

        Some options need a single job: then the first Python runs it, without retries, and a line says so.
        """
        parts = self._parts
        plan = small_plan.make(parts.settings, options)
        if plan is None:
            return None
        alone = small_plan.single_only(parts.all_arguments, parts.arity)
        if not self._native:
            small_plan.refuse_text(plan)
            alone = alone or ["--remote-ci-text"]
        if not alone:
            return plan
        several = len(plan.jobs) > 1
        rest = f"only Python {options.python}" if several else "no retries"
        self._display.print_message(f"remote-ci: {', '.join(alone)}: a single job, {rest}")
        return None

    def _run_pipeline(self, name: str) -> int | None:
        from pytest_remote_ci.session import job_arguments

        parts = self._parts
        if len(parts.settings.python) > 1 and parts.option("python"):
            raise ConfigError(
                "--remote-ci-python: one Python for --remote-ci-pipeline; a matrix over python in its jobs has several"
            )
        job_arguments.refuse(parts.all_arguments, parts.arity)
        if not self._native:
            raise ConfigError("this pytest cannot show a run: use `remote-ci pipeline run`")
        plan = job_arguments.appended(
            self._plan(name), parts.given, parts.place, parts.arity, parts.forwarded
        )
        return self._run_plan(plan, parts.options(of_run=True))

    def _run_plan(
        self, plan: Plan, options: SubmitOptions, labels: Mapping[str, str] | None = None
    ) -> int | None:
        """Submit a run of the plan; `labels`: job's name → label, for a session that is no pipeline's."""
        from pytest_remote_ci.session.remote_run import RemoteRun

        def connect(client: Client) -> RemoteRun:
            return RemoteRun(client, self._display, self._interrupts, plan, options, see=self._see)

        return submit(self._parts, connect, lambda run: self._replay_run(run, plan, options, labels))

    def _plan(self, name: str) -> Plan:
        """Return the plan of the pipeline of that name. Raises `ConfigError` if there is none."""
        from pytest_remote_ci.session import pipeline_files

        place = self._parts.place
        files = pipeline_files.find_some(place.root, place.cwd)

        def ask_runner(question: pipeline_files.Question) -> CheckedPipelines:
            return self._parts.client().check_pipelines(question)

        answer = pipeline_files.ask({"files": files, "plan": {"pipeline": name}}, ask_runner)
        if answer.plan is None and answer.refused is not None:
            raise ConfigError(answer.refused)
        for line in pipeline_files.problems_in(answer):
            self._display.print_message(line)
        if answer.plan is None:
            raise ConfigError(
                f"pipeline {name!r} has errors; see the lines above, or run `remote-ci pipeline check`"
            )
        return answer.plan

    def _refuse_runs(self, run_id: str) -> None:
        """Raise `ConfigError` if this is the id of a run of a pipeline."""
        from pytest_remote_ci.client.runs import Runs

        with suppress(JobNotFound):
            what = Runs(self._parts.client()).get(run_id).title
            raise ConfigError(
                f"{run_id} is the run of a pipeline, not a job: use `remote-ci pipeline status "
                f"{what} --watch` or `remote-ci pipeline logs {what}`"
            )

    def _is_old_pytest(self) -> bool:
        """Whether the local pytest is too old for a replay; if so, print a line."""
        is_old = int(pytest.__version__.partition(".")[0]) < _OLDEST_PYTEST
        if is_old:
            self._display.print_message(
                f"remote-ci: pytest {pytest.__version__} here is older than {_OLDEST_PYTEST}.0; "
                "showing the remote pytest's text instead"
            )
        return is_old

    def _result(self, current: RemoteJob) -> int:
        complete = current.finish()
        code = exit_code(complete)
        if code == exit_codes.USAGE_ERROR and self._plugins_there is not None:
            from pytest_remote_ci.replay import missing_plugins, plugin_diff

            for line in (
                plugin_diff.remark(self._plugins_there, failed=True, is_quiet=True),
                missing_plugins.hint(self._usage_error, self._plugins_there),
            ):
                if line:
                    self._display.print_message(f"remote-ci: {line}")
        if complete.reason:  # a verdict with a remark: a test took pytest down
            self._display.print_message(f"remote-ci: {complete.reason}")
        current.print_timing(complete, verbosity=getattr(self._pytest.option, "verbose", 0))
        return code

    def _replay_job(
        self,
        current: RemoteJob,
        cancel: Callable[[], bool],
        *,
        is_late: bool = False,
        choice: Choice | None = None,
    ) -> bool:
        """Let the local session replay the remote one; return False if its text must be shown instead."""
        from pytest_remote_ci.replay.event_source import EventSource, wait_for_session
        from pytest_remote_ci.replay.player import JobPlayer
        from pytest_remote_ci.replay.plugin import start_replay

        events = EventSource(current.events, is_late=is_late, is_over=choice is not None)
        if wait_for_session(events, self._display, str(self._parts.place.cwd)) is not None:
            current.push_back(events.pop_held())
            return False
        player = JobPlayer(self._pytest, current, events, self._display, cancel, choice)
        start_replay(self._pytest, player, self._resources)
        return True

    def _replay_run(
        self,
        remote: RemoteRun,
        plan: Plan,
        sent: SubmitOptions,
        labels: Mapping[str, str] | None,
    ) -> None:
        """Let the local session replay the run."""
        from pytest_remote_ci.replay.multi_job.pipeline_player import PipelinePlayer
        from pytest_remote_ci.replay.plugin import start_replay
        from pytest_remote_ci.session import job_arguments

        parts = self._parts
        planned = {job.name: job for job in plan.jobs}
        is_plain = labels is not None
        places = {
            name: parts.place if is_plain else job_arguments.place_of(job, parts.place.root)
            for name, job in planned.items()
        }

        def updates_of(job: RunJob) -> Updates:
            given = parts.given if is_plain else planned[job.name].args
            return parts.updates(sent, place=places[job.name], given=given)

        def fetch_files(job_ids: list[str]) -> None:
            if is_plain and len(planned) == 1:
                self._fetch_reports(remote, sent)
            elif job_ids:
                self._fetch_artifacts(remote, job_ids)
            remote.bring_changes(updates_of)

        player = PipelinePlayer(self._pytest, remote, planned, places, fetch_files, labels)
        start_replay(self._pytest, player, self._resources)

    def _fetch_reports(self, remote: RemoteRun, sent: SubmitOptions) -> None:
        """Fetch the files of the last attempt of the only job, as for a session without retries."""
        from pytest_remote_ci.artifacts.fetch import ArtifactFetcher

        job_id = str(remote.state.jobs[0].job_id)
        reports = self._parts.wanted_reports()
        others = tuple(name for name in sent.reports if name not in reports.patterns)
        ArtifactFetcher(
            remote.client,
            job_id,
            self._parts.folder(job_id),
            self._display.line,
            self._display.print_message,
            reports,
            (*sent.artifacts, *others),
        ).fetch(remote.ends.get(job_id))

    def _fetch_artifacts(self, remote: RemoteRun, job_ids: list[str]) -> None:
        """Fetch artifacts into a folder for each job; errors are reported but do not change the exit code."""
        from pytest_remote_ci.artifacts import run_artifacts
        from pytest_remote_ci.artifacts.fetch import reason

        run = remote.state
        jobs = [job for job in run.jobs if job.job_id in job_ids]
        try:
            base = self._parts.folder(f"{run.pipeline}-{run.number}")
            run_artifacts.fetch(
                remote.client,
                jobs,
                base,
                self._display.line,
                self._display.print_message,
                here=self._parts.place.root,
                roots={job_id: end.artifacts_folder or "" for job_id, end in remote.ends.items()},
            )
        except (ClientError, OSError) as error:
            why = reason(error)
            again = f"remote-ci pipeline artifacts {run.title}"
            self._display.print_message(f"remote-ci: artifacts were not fetched: {why}; try again: {again}")

    def _attach(self, job_id: str) -> int | None:
        current = self._existing(job_id)
        # No reports: the job's may be of another state of the project, or of another project.
        current.keep(self._parts.folder)

        def leave() -> bool:
            self._display.print_message(
                f"Stopped showing job {job_id}. It continues to run; reconnect with: "
                f"pytest --remote-ci-attach {job_id}"
            )
            return False

        try:
            if self._native and self._replay_job(current, leave, is_late=True):
                return None
            return self._result(current)
        except KeyboardInterrupt:
            leave()
            return exit_codes.INTERRUPTED

    def _replay(self, job_id: str) -> int | None:
        """Replay the results of a job that is over."""
        from pytest_remote_ci.replay.selection import Choice

        arguments.refuse_next_run(self._parts.all_arguments)
        current = self._existing(job_id)
        current.require_finished()
        try:
            choice = Choice(self._pytest)
            if self._native and self._replay_job(current, lambda: False, is_late=True, choice=choice):
                return None
            return self._result(current)
        except KeyboardInterrupt:
            return exit_codes.INTERRUPTED

    def _existing(self, job_id: str) -> RemoteJob:
        client = self._parts.client()
        return RemoteJob(client, self._display, self._interrupts, self._see, client.job_id(job_id))

    def _see(self, event: Event) -> Event:
        if event.type == "log" and ("unrecognized" in event.text or "importing plugin" in event.text):
            self._usage_error = event.text
        refused = event.valid_record if event.kind == Refused.kind else None
        if isinstance(refused, Refused):
            self._plugins_there = refused.plugins
        hook = self._pytest.hook.pytest_remote_ci_event
        if hook.get_hookimpls():  # usually there are none, and each test has several events
            hook(config=self._pytest, event=dict(event.fields))
        return event
