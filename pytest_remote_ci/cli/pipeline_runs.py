"""``remote-ci pipeline run`` and the commands for existing runs: list, status, logs, report, artifacts, rerun, cancel.

Exit codes are in `pytest_remote_ci.exit_codes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_remote_ci import exit_codes
from pytest_remote_ci.artifacts import artifact_folder
from pytest_remote_ci.cli import report_formats, tables
from pytest_remote_ci.cli.context import (
    Failure,
    add_folder,
    add_json,
    add_run,
    connected,
    print_json,
    print_line,
    print_log,
    print_message,
    print_titled_log,
    seconds,
    settings,
    write,
)
from pytest_remote_ci.client.runs import Runs
from pytest_remote_ci.config.config import project_root
from pytest_remote_ci.errors import ClientError, SubmissionRefused
from pytest_remote_ci.session.remote_run import RemoteRun
from pytest_remote_ci.session.submission import CommandSubmission
from pytest_remote_ci.session.submit import announce, attend, held_interrupts, submit
from pytest_remote_ci.terminal.display import Display, trouble_words
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.run_view import block, state_of, tail_heading, verdict
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire.answers import Plan, Run, RunJob
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.protocol import STATUSES

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.updates import Updates
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.config.config import Config
    from pytest_remote_ci.wire.protocol import SubmitOptions

#: Function that adds one sub-command and returns its parser.
Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
#: Function that adds arguments to a parser.
AddArguments = Callable[[argparse.ArgumentParser], None]


def add(command: Command, add_pipeline: AddArguments, add_choice: AddArguments) -> None:
    """Add the sub-commands of ``pipeline`` for runs."""
    sub = command("run", run, "run a pipeline on this project")
    add_pipeline(sub)
    add_choice(sub)
    sub.add_argument("--dry-run", action="store_true", help="show the jobs, in order, and run nothing")
    sub.set_defaults(format="text")  # of the dry run
    sub.add_argument(
        "--keep-going", action="store_true", help="after a failure, run the jobs that do not depend on it"
    )
    sub.add_argument(
        "--timeout", type=seconds, metavar="TIME", help="limit for the whole run: seconds, or as 10m"
    )
    _add_async(sub)
    add_json(sub, "print the run as JSON when it ends (logs go to stderr)")
    sub = command("list", list_runs, "list your runs, newest first")
    sub.add_argument("name", nargs="?", metavar="NAME", help="only runs of this pipeline")
    sub.add_argument("--status", choices=STATUSES, help="only runs with this status")
    sub.add_argument("--limit", type=int, metavar="N", help="at most N runs")
    add_json(sub)
    sub = command("status", status, "show a run with its stages and jobs")
    which = sub.add_mutually_exclusive_group(required=True)
    add_run(which, nargs="?")
    which.add_argument(
        "-p", "--pipeline", dest="named", metavar="NAME", help="the newest run of this pipeline"
    )
    sub.add_argument("--watch", action="store_true", help="follow the run until it ends")
    add_json(sub)
    sub = command("logs", logs, "show the output of a run's jobs")
    add_run(sub)
    sub.add_argument("--stage", metavar="STAGE", help="only jobs of this stage")
    sub.add_argument("--job", metavar="JOB", help="only this job")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("-f", "--follow", action="store_true", help="go on until the run ends")
    add_json(how)
    sub = command("rerun", rerun, "run a pipeline again on the files of a run")
    add_run(sub)
    sub.add_argument(
        "--failed", action="store_true", help="only jobs that did not pass, and jobs that depend on them"
    )
    sub.add_argument(
        "--stage", metavar="STAGE", help="only this stage, what depends on it, and jobs that did not pass"
    )
    sub.add_argument(
        "--job", metavar="JOB", help="only this job, what depends on it, and jobs that did not pass"
    )
    _add_async(sub)
    add_json(sub, "print the new run as JSON when it ends (logs go to stderr)")
    sub = command("cancel", cancel, "cancel a run, or a part of it")
    add_run(sub)
    sub.add_argument("--stage", metavar="STAGE", help="only this stage")
    sub.add_argument("--job", metavar="JOB", help="only this job")
    add_json(sub)
    sub = command("report", report, "show the results of runs, stages and jobs")
    sub.add_argument("name", nargs="?", metavar="NAME", help="the pipeline (default: all)")
    sub.add_argument("-p", "--pipeline", dest="named", metavar="NAME", help="the same")
    sub.add_argument("--run", dest="number", type=int, metavar="NUMBER", help="only the run with this number")
    sub.add_argument("--stage", metavar="STAGE", help="only this stage")
    sub.add_argument("--job", metavar="JOB", help="only this job of the stage")
    sub.add_argument("--format", choices=report_formats.FORMATS, default="text", help="default: text")
    add_json(sub, "same as --format json")
    sub = command("artifacts", artifacts, "fetch the artifacts of a run's jobs")
    add_run(sub)
    sub.add_argument("--stage", metavar="STAGE", help="only jobs of this stage")
    sub.add_argument("--job", metavar="JOB", help="only this job")
    add_folder(sub, default=f"{artifact_folder.NAME}/NAME-NUMBER")
    sub.add_argument("--list", action="store_true", help="list sizes, jobs and paths, fetch nothing")
    add_json(sub, "list them as JSON, fetch nothing")


def _add_async(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--async", dest="asynchronous", action="store_true", help="print the run's id and exit")


def run(options: argparse.Namespace) -> int:
    """Plan a run, submit it, and follow it."""
    from pytest_remote_ci.cli import pipelines

    if options.dry_run:
        return pipelines.dry_run(options)
    plan = pipelines.plan_for(options)
    if plan is None:
        return exit_codes.USAGE_ERROR
    display = Display(StatusLine())
    with held_interrupts(display) as interrupts, ExitStack() as resources:
        parts = CommandSubmission(
            settings(options),
            display,
            resources,
            is_async=options.asynchronous,
            as_json=options.json,
        )
        sent = parts.run_options()
        return submit_plan(
            parts,
            plan,
            sent,
            interrupts,
            keep_going=options.keep_going,
            timeout=options.timeout,
            as_json=options.json,
        )


def submit_plan(
    parts: CommandSubmission,
    plan: Plan,
    sent: SubmitOptions,
    interrupts: Interrupts,
    *,
    keep_going: bool = False,
    timeout: float | None = None,
    as_json: bool = False,
) -> int:
    """Submit a run of the plan, and follow it; `sent` are the options that its jobs share."""

    def connect(client: Client) -> RemoteRun:
        return RemoteRun(
            client, parts.display, interrupts, plan, sent, keep_going=keep_going, timeout=timeout
        )

    jobs = {job.name: job for job in plan.jobs}

    def updates_of(job: RunJob) -> Updates:
        return parts.updates_of_job(sent, jobs[job.name])

    return submit(parts, connect, partial(_follow, updates_of=updates_of, as_json=as_json))


def _follow(remote: RemoteRun, *, updates_of: Callable[[RunJob], Updates], as_json: bool) -> int:
    code = _finish(remote.runs, remote.watch(), as_json=as_json)
    remote.bring_changes(updates_of)
    return code


def _named_only(configured: Config) -> Callable[[RunJob], Updates]:
    """Return what comes home from jobs that another process submitted: nothing, changes are only named."""
    from pytest_remote_ci.artifacts import destinations
    from pytest_remote_ci.artifacts.updates import Updates
    from pytest_remote_ci.wire import keep

    here = Path.cwd()
    found = Updates(
        project_root(here, here),
        exclude=configured.exclude,
        expected=(*destinations.COVERAGE, *keep.all_below_project(keep.DEFAULT, "")),
    )
    return lambda job: found


def _finish(runs: Runs, run: Run, *, as_json: bool) -> int:
    """Print the logs of failed jobs and the result; return the exit code. With JSON, the logs go to stderr."""
    for job in run.jobs:
        if job.job_id is not None and state_of(job) == "failed":
            tail = runs.tail(job.job_id)
            if tail:
                print_message("")
                text = "".join(f"{line}\n" for line in tail)
                print_titled_log(tail_heading(run, job), text, sys.stderr if as_json else sys.stdout)
    print_message(verdict(run))
    if as_json:
        print_json(run.fields)
    return exit_codes.of_run(run)


def list_runs(options: argparse.Namespace) -> int:
    """Print the runs of the key's owner, newest submission first. Never starts an embedded runner."""
    with connected(settings(options), starts=False) as client:
        found = Runs(client).list(pipeline=options.name, status=options.status, limit=options.limit)
    if options.json:
        print_json([run.fields for run in found])
    elif not found:
        print_line("No runs found.")
    else:
        for line in tables.runs(found):
            print_line(line)
    return exit_codes.OK


def _list_artifacts(client: Client, jobs: Sequence[RunJob], *, as_json: bool) -> None:
    from pytest_remote_ci.artifacts.download import shown

    found = [(job, item) for job in jobs if job.job_id is not None for item in client.artifacts(job.job_id)]
    if as_json:
        print_json([{"job": job.name, "job_id": job.job_id, **vars(item)} for job, item in found])
        return
    for job, item in found:
        print_line(f"{item.size:>12}  {escaped(job.name)}/{shown(item.path)}")


def status(options: argparse.Namespace) -> int:
    """Show one run: as it is now, or until its end."""
    configured = settings(options)
    with connected(configured) as client:
        runs = Runs(client)
        found = runs.find(options.id) if options.named is None else runs.newest(options.named)
        if options.watch and not found.is_over:
            try:
                remote = RemoteRun(client, Display(StatusLine()), Interrupts(), run=found)
                found = remote.watch()
            except KeyboardInterrupt:
                print_message(
                    f"Stopped watching. The run continues; reconnect with: "
                    f"remote-ci pipeline status {found.run_id} --watch"
                )
                return exit_codes.INTERRUPTED
            print_message(verdict(found))
            if options.json:
                print_json(found.fields)
            remote.bring_changes(_named_only(configured))
            return exit_codes.of_run(found)
        if options.json:
            print_json(found.fields)
        else:
            _print_status(found)
        if not found.is_over:
            return exit_codes.OK
        _name_changes(client, found, configured)
        return exit_codes.of_run(found)


def _print_status(run: Run) -> None:
    from datetime import datetime, timezone

    print_line(escaped(f"{run.title}  {run.status}  {run.run_id}"))
    for _, line in block(run, datetime.now(timezone.utc)):
        print_line(line)
    if run.is_over:
        print_line(verdict(run))


def _name_changes(client: Client, run: Run, configured: Config) -> None:
    """Name the files of the project that jobs of a run that is over have changed."""
    from pytest_remote_ci.artifacts import run_changes

    try:
        changed = [job for job in run.jobs if job.job_id is not None and client.changes(job.job_id)[1]]
    except ClientError as error:  # the run's own result is known all the same
        print_message(f"remote-ci: what the jobs changed is unknown: {error}")
        return
    run_changes.bring(client, changed, _named_only(configured), None, StatusLine(), print_message)


def logs(options: argparse.Namespace) -> int:
    """Print the logs of jobs, one after the other."""
    with connected(settings(options)) as client:
        runs = Runs(client)
        found = runs.find(options.id)
        jobs = _chosen(found, options)
        if options.json:
            print_json(
                [
                    {
                        "job": job.name,
                        "stage": job.stage,
                        "job_id": job.job_id,
                        "log": None if job.job_id is None else runs.log(job.job_id),
                    }
                    for job in jobs
                ]
            )
            return exit_codes.OK
        if options.follow:
            return _follow_logs(runs, found, {job.name for job in jobs})
        for job in jobs:
            if job.job_id is None:
                if len(jobs) > 1:
                    print_message(escaped(f"--- {job.stage} / {job.name}"))
                print_message(escaped(f"{job.name} has not run: {job.reason or 'it is waiting'}"))
            elif len(jobs) > 1:
                print_titled_log(escaped(f"{job.stage} / {job.name}"), runs.log(job.job_id))
            else:
                print_log(runs.log(job.job_id))
    return exit_codes.OK


def _follow_logs(runs: Runs, run: Run, names: set[str]) -> int:
    """Print the output of these jobs of a run as it arrives, until the run ends; return the run's exit code.

    A line on stderr says which job's output follows whenever that changes.
    """
    last = None

    def on_trouble(text: str, left: float | None) -> None:
        print_message(escaped(trouble_words(text, left)))

    stages = {job.name: job.stage for job in run.jobs}
    for event in runs.stream(run.run_id, view="log", on_trouble=on_trouble):
        if event.type != "log" or event.job not in names:
            continue
        if len(names) > 1 and event.job != last:
            print_message(escaped(f"--- {stages[event.job]} / {event.job}"))
        last = event.job
        print_log(event.text)
    return exit_codes.of_run(runs.get(run.run_id))


def _chosen(run: Run, options: argparse.Namespace) -> list[RunJob]:
    """Return the run's jobs that ``--stage`` and ``--job`` name. Raises `Failure` if there is no such one."""
    stages = list(dict.fromkeys(job.stage for job in run.jobs))
    if options.stage is not None and options.stage not in stages:
        raise Failure(
            f"the run has no stage {options.stage!r}; it has {', '.join(stages)}", exit_codes.USAGE_ERROR
        )
    inside = [job for job in run.jobs if options.stage in (None, job.stage)]
    jobs = [job for job in inside if options.job in (None, job.name, job.definition)]
    if options.job is not None and not jobs:
        place = "the run" if options.stage is None else f"the stage {options.stage!r}"
        raise Failure(
            f"{place} has no job {options.job!r}; it has {', '.join(job.name for job in inside)}",
            exit_codes.USAGE_ERROR,
        )
    return jobs


def rerun(options: argparse.Namespace) -> int:
    """Start a new run on the same files, and follow it."""
    display = Display(StatusLine())
    configured = settings(options)
    with Interrupts() as interrupts, connected(configured) as client:
        runs = Runs(client)
        found = runs.find(options.id)
        made = runs.rerun(
            found.run_id,
            failed=options.failed,
            stage=options.stage,
            job=options.job,
            secrets=runs.needed_secrets(found),
        )
        remote = RemoteRun(client, display, interrupts, run=made)
        follow = partial(_follow, updates_of=_named_only(configured), as_json=options.json)
        return attend(
            remote,
            lambda: announce(remote, follow, display, is_async=options.asynchronous, as_json=options.json),
        )


def cancel(options: argparse.Namespace) -> int:
    """Cancel a run, or a part of it."""
    with connected(settings(options)) as client:
        runs = Runs(client)
        found = runs.find(options.id)
        try:
            found = runs.cancel(found.run_id, stage=options.stage, job=options.job)
        except SubmissionRefused as error:  # it has already ended
            raise Failure(str(error)) from error
    if options.json:
        print_json(found.fields)
        return exit_codes.OK
    part = f" {options.job or options.stage!r} of" if options.job or options.stage else ""
    print_line(escaped(f"Cancelling{part} {found.title}."))
    return exit_codes.OK


def report(options: argparse.Namespace) -> int:
    """Print a report in one of the six shapes, or the report of all pipelines."""
    name = options.named or options.name
    if options.job and not options.stage:
        raise Failure("--stage parameter is required when using --job", exit_codes.USAGE_ERROR)
    if name is None and (options.number or options.stage):
        raise Failure("--run and --stage need the name of the pipeline", exit_codes.USAGE_ERROR)
    parts: list[object] = []
    wanted: dict[str, str | None] = {}
    if name is not None:
        parts = [name]
        if options.number is not None:
            parts += ["runs", options.number]
            parts += ["stages", options.stage] if options.stage else []
            parts += ["jobs", options.job] if options.job else []
        else:
            wanted = {"stage": options.stage, "job": options.job}
    with connected(settings(options)) as client:
        found = Runs(client).report(*parts, **wanted)
    write(sys.stdout, report_formats.rendered(found, "json" if options.json else options.format))
    return exit_codes.OK


def past_durations(options: argparse.Namespace, pipeline: str) -> dict[str, float]:
    """Return planned name → past duration in seconds; {} if no runner is available."""
    found = settings(options)
    if found.url is None:
        return {}
    try:
        with connected(found) as client:
            return Runs(client).durations(pipeline)
    except ClientError:
        return {}


def artifacts(options: argparse.Namespace) -> int:
    """Fetch the artifacts of all jobs of a run, into one folder per job."""
    from pytest_remote_ci.artifacts import run_artifacts

    with connected(settings(options)) as client:
        found = Runs(client).find(options.id)
        jobs = _chosen(found, options)
        if options.list or options.json:
            _list_artifacts(client, jobs, as_json=options.json)
            return exit_codes.OK
        name = f"{found.pipeline}-{found.number}"
        base = (
            artifact_folder.default(name, Path.cwd())
            if options.artifacts_dir is None
            else artifact_folder.named(Path(options.artifacts_dir))
        )
        is_complete = run_artifacts.fetch(client, jobs, base, StatusLine(), print_message)
    return exit_codes.OK if is_complete else exit_codes.FAILED
