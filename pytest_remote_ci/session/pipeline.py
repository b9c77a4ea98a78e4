"""Run ``pytest --remote-ci-pipeline NAME`` from the definition of the pipeline to the start of the replay.

The order is: plan, arguments, working tree, upload; any error is reported in one line before anything is sent.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_remote_ci import exit_codes
from pytest_remote_ci.artifacts import artifact_folder
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.client.runs import Run, Runs
from pytest_remote_ci.errors import ClientError, ConfigError, RunnerUnreachable
from pytest_remote_ci.session import job_arguments, pipeline_files
from pytest_remote_ci.session.remote_run import RemoteRun
from pytest_remote_ci.session.submission import SubmissionBuilder
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.status_line import Bar
from pytest_remote_ci.wire.protocol import SubmitOptions

if TYPE_CHECKING:
    from pytest_remote_ci.config.config import Config
    from pytest_remote_ci.workspace.collect import Workspace

Plan = dict[str, Any]


class PipelineSession:
    """Submits one run."""

    def __init__(
        self,
        config: pytest.Config,
        prepared: SubmissionBuilder,
        display: Display,
        interrupts: Interrupts,
        resources: ExitStack,
    ) -> None:
        """`resources` are closed when the process is done with the run."""
        self._pytest = config
        self._prepared = prepared
        self._display = display
        self._interrupts = interrupts
        self._resources = resources

    def run(self, settings: Config) -> int | None:
        """Submit the run; return the exit code, or None if pytest's own session continues with the run's tests."""
        prepared = self._prepared
        given = [*self._pytest.getini("addopts"), *prepared.given]
        job_arguments.refuse(given, prepared.arity)
        if not prepared.native:
            raise ConfigError("this pytest cannot show a run: use `remote-ci pipeline run`")
        plan = job_arguments.appended(
            self._plan(settings, str(prepared.option("pipeline"))),
            prepared.given,
            prepared.place,
            prepared.arity,
            prepared.forwarded,
        )
        options = prepared.options(settings, of_run=True)
        workspace = prepared.workspace(settings)
        prepared.say_what_stays_there()
        if prepared.option("dry_run"):
            for text in workspace.listing():
                print(text)  # noqa: T201 - the answer to the question
            return 0
        prepared.refuse_debuggers(workspace)
        return self._sent(settings, workspace, plan, options)

    def _plan(self, settings: Config, name: str) -> Plan:
        """Return the plan of the pipeline of that name. Raises `ConfigError` if there is none."""
        root = self._prepared.place.root
        files = pipeline_files.find_some(root, self._prepared.place.cwd)

        def ask_runner(question: pipeline_files.Question) -> pipeline_files.Answer:
            runner = self._prepared.runner(settings)
            with Client(runner.url, runner.key, on_wait=self._display.say) as client:
                return client.check_pipelines(question)

        answer = pipeline_files.ask({"files": files, "plan": {"pipeline": name}}, ask_runner)
        plan: Plan | None = answer.get("plan")
        if plan is None and "refused" in answer:
            raise ConfigError(str(answer["refused"]))
        for line in pipeline_files.problems_in(answer):
            self._display.say(line)
        if plan is None:
            raise ConfigError(
                f"pipeline {name!r} has mistakes: `remote-ci pipeline check` tells them, and so do the lines above"
            )
        return plan

    def _sent(self, settings: Config, workspace: Workspace, plan: Plan, options: SubmitOptions) -> int | None:
        for last_chance in (False, True):
            runner = self._prepared.runner(settings)
            client = self._resources.enter_context(Client(runner.url, runner.key, on_wait=self._display.say))
            runs = Runs(client)
            try:
                run = self._submit(runs, settings, workspace, plan, options)
            except RunnerUnreachable:
                # An idle embedded runner can have ended between the check and the submission.
                if last_chance or settings.url is not None:
                    raise
                continue
            return self._submitted(client, runs, run, plan, settings)
        raise AssertionError("the second attempt returns or raises")

    def _submit(
        self, runs: Runs, settings: Config, workspace: Workspace, plan: Plan, options: SubmitOptions
    ) -> Run:
        progress = self._interrupts.held_after(Bar(self._display.line, "uploading"))
        try:
            return runs.submit(
                workspace, plan, options, again=lambda: self._prepared.workspace(settings), progress=progress
            )
        finally:
            self._display.line.clear()

    def _submitted(self, client: Client, runs: Runs, run: Run, plan: Plan, settings: Config) -> int | None:
        what = f"{run['pipeline']}#{run['number']}"
        if self._prepared.option("async"):
            print(f"Run submitted: {run['run_id']} ({what})", flush=True)  # noqa: T201 - the result
            return 0
        try:
            self._interrupts.release()
            self._display.say(f"Run {what}: {run['run_id']}")
            self._take_over(client, runs, run, plan, settings)
        except KeyboardInterrupt:
            self._display.say(f"Cancelling run {what} …")
            runs.cancel(str(run["run_id"]))
            return exit_codes.INTERRUPTED
        return None

    def _take_over(self, client: Client, runs: Runs, run: Run, plan: Plan, settings: Config) -> None:
        from pytest_remote_ci.replay.player import PipelinePlayer
        from pytest_remote_ci.replay.plugin import take_over

        root = self._prepared.place.root
        places = {str(job["name"]): job_arguments.place_of(job, root) for job in plan["jobs"]}

        def fetch_artifacts(run: Run, job_ids: list[str]) -> None:
            self._bring_home(client, settings, run, job_ids)

        def see(event: dict[str, Any]) -> None:
            self._pytest.hook.pytest_remote_ci_event(config=self._pytest, event=dict(event))

        remote = RemoteRun(runs, run, self._display, see, fetch_artifacts)
        take_over(self._pytest, PipelinePlayer(self._pytest, remote, places), self._resources)

    def _bring_home(self, client: Client, settings: Config, run: Run, job_ids: list[str]) -> None:
        """Fetch artifacts into a folder for each job; errors are reported but do not change the exit code."""
        from pytest_remote_ci.artifacts import run_artifacts
        from pytest_remote_ci.artifacts.fetch import reason

        what = f"{run['pipeline']}-{run['number']}"
        cwd = Path(self._pytest.invocation_params.dir)
        base = artifact_folder.of(settings, what, cwd, self._prepared.place.root)
        jobs = [job for job in run["jobs"] if job["job_id"] in job_ids]
        try:
            run_artifacts.fetch(client, jobs, base, self._display.line, self._display.say)
        except (ClientError, OSError) as error:
            why = reason(error)
            again = f"remote-ci pipeline artifacts {run['pipeline']}#{run['number']}"
            self._display.say(f"remote-ci: artifacts were not fetched: {why}; try again: {again}")
