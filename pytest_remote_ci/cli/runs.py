"""``remote-ci pipeline run`` and the commands for existing runs: status, logs, report, artifacts, rerun, cancel.

Exit codes are in `pytest_remote_ci.exit_codes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_remote_ci import exit_codes
from pytest_remote_ci.cli import report_formats
from pytest_remote_ci.cli.context import Failure, connected, print_line, print_log, say, settings, write
from pytest_remote_ci.client.runs import Run, Runs
from pytest_remote_ci.errors import ClientError, SubmissionRefused
from pytest_remote_ci.session.submission import CommandSubmission
from pytest_remote_ci.session.submit import announce, attend, held_interrupts, submit
from pytest_remote_ci.session.submitted_run import SubmittedRun
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.run_view import block, state_of, tail_heading, verdict
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire.control_characters import escaped

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client

#: Function that adds one sub-command and returns its parser.
Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]

#: Function that adds options to a parser.
AddOptions = Callable[[argparse.ArgumentParser], None]


def add(command: Command, add_pipeline: AddOptions, add_choice: AddOptions) -> None:
    """Add the sub-commands of ``pipeline`` for runs."""
    sub = command("run", run, "send this project and run a pipeline on it")
    add_pipeline(sub)
    add_choice(sub)
    sub.add_argument("--dry-run", action="store_true", help="show the jobs, in order, and run nothing")
    sub.set_defaults(format="text")  # of the dry run
    sub.add_argument(
        "--keep-going", action="store_true", help="go on with what does not depend on a failed job"
    )
    sub.add_argument("--timeout", type=float, metavar="SECONDS", help="for the whole run")
    sub.add_argument(
        "--async", dest="asynchronous", action="store_true", help="print the run's id and return"
    )
    sub = command("status", status, "show a run with its stages and jobs")
    which = sub.add_mutually_exclusive_group(required=True)
    text = "its id, the beginning of it, NAME#NUMBER, or the pipeline's NAME for its newest run"
    which.add_argument("id", nargs="?", metavar="RUN", help=text)
    which.add_argument(
        "-p", "--pipeline", dest="named", metavar="NAME", help="the newest run of this pipeline"
    )
    sub.add_argument("--watch", action="store_true", help="until its end")
    sub = command("logs", logs, "show what the jobs of a run wrote")
    sub.add_argument("id", metavar="RUN")
    sub.add_argument("--stage", metavar="S", help="only the jobs of this stage")
    sub.add_argument("--job", metavar="J", help="only this job")
    sub = command("rerun", rerun, "run it again on the same files")
    sub.add_argument("id", metavar="RUN")
    sub.add_argument("--failed", action="store_true", help="only what did not pass, and what depends on it")
    sub.add_argument(
        "--stage", metavar="S", help="only this stage, what depends on it, and what did not pass"
    )
    sub.add_argument("--job", metavar="J", help="only this job, what depends on it, and what did not pass")
    sub.add_argument(
        "--async", dest="asynchronous", action="store_true", help="print the run's id and return"
    )
    sub = command("cancel", cancel, "ask for the end of a run")
    sub.add_argument("id", metavar="RUN")
    sub.add_argument("--stage", metavar="S", help="only of this stage")
    sub.add_argument("--job", metavar="J", help="only of this job")
    sub = command("report", report, "what runs, stages and jobs came to")
    sub.add_argument("name", nargs="?", metavar="NAME", help="the pipeline; without it: all of them")
    sub.add_argument("-p", "--pipeline", dest="named", metavar="NAME", help="the same")
    sub.add_argument("--run", dest="number", type=int, metavar="N", help="only this run")
    sub.add_argument("--stage", metavar="S", help="only this stage")
    sub.add_argument("--job", metavar="J", help="only this job of the stage")
    sub.add_argument("--format", choices=report_formats.FORMATS, default="text", help="default: text")
    sub = command("artifacts", artifacts, "fetch what the jobs of a run left behind")
    sub.add_argument("id", metavar="RUN")
    sub.add_argument("--stage", metavar="S", help="only of the jobs of this stage")
    sub.add_argument("--job", metavar="J", help="only of this job")
    sub.add_argument(
        "-d", dest="folder", metavar="DIR", help="where to; default: .remote-ci-artifacts/NAME-NUMBER"
    )


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
        parts = CommandSubmission(settings(options), display, resources, is_async=options.asynchronous)
        sent = parts.run_options()

        def connect(client: Client) -> SubmittedRun:
            return SubmittedRun(
                client,
                display,
                interrupts,
                plan,
                sent,
                keep_going=options.keep_going,
                timeout=options.timeout,
            )

        return submit(parts, connect, _follow)


def _follow(remote: SubmittedRun) -> int:
    return _finish(remote.runs, remote.watch())


def _finish(runs: Runs, run: Run) -> int:
    """Print the logs of failed jobs and the result; return the exit code."""
    for job in run["jobs"]:
        if job["job_id"] is not None and state_of(job) == "failed":
            tail = runs.tail(job["job_id"])
            if tail:
                say(f"\n--- {tail_heading(run, job)}")
                print_log("".join(f"{line}\n" for line in tail))
    say(verdict(run))
    return exit_codes.of_run(run)


def status(options: argparse.Namespace) -> int:
    """Show one run: as it is now, or until its end."""
    with connected(settings(options)) as client:
        runs = Runs(client)
        found = runs.find(options.id) if options.named is None else runs.newest(options.named)
        if options.watch and found["end_time"] is None:
            try:
                found = SubmittedRun(client, Display(StatusLine()), Interrupts(), run=found).watch()
            except KeyboardInterrupt:
                say(
                    f"Stopped watching; the run goes on. Come back with: remote-ci pipeline status {options.id} --watch"
                )
                return exit_codes.INTERRUPTED
            say(verdict(found))
            return exit_codes.of_run(found)
        from datetime import datetime, timezone

        print_line(escaped(f"{found['pipeline']}#{found['number']}  {found['status']}  {found['run_id']}"))
        for _, line in block(found, datetime.now(timezone.utc)):
            print_line(line)
        if found["end_time"] is not None:
            print_line(verdict(found))
        return exit_codes.of_run(found) if found["end_time"] is not None else exit_codes.OK


def logs(options: argparse.Namespace) -> int:
    """Print the logs of jobs, one after the other."""
    with connected(settings(options)) as client:
        runs = Runs(client)
        found = runs.find(options.id)
        jobs = _chosen(found, options)
        for job in jobs:
            if len(jobs) > 1:
                say(escaped(f"--- {job['stage']} / {job['name']}"))
            if job["job_id"] is None:
                say(escaped(f"{job['name']} has not run: {job['reason'] or 'it waits'}"))
            else:
                print_log(runs.log(job["job_id"]))
    return exit_codes.OK


def _chosen(run: Run, options: argparse.Namespace) -> list[Any]:
    """Return the run's jobs that ``--stage`` and ``--job`` name. Raises `Failure` if there is no such one."""
    stages = list(dict.fromkeys(job["stage"] for job in run["jobs"]))
    if options.stage is not None and options.stage not in stages:
        raise Failure(
            f"the run has no stage {options.stage!r}; it has {', '.join(stages)}", exit_codes.USAGE_ERROR
        )
    inside = [job for job in run["jobs"] if options.stage in (None, job["stage"])]
    jobs = [job for job in inside if options.job in (None, job["name"], job["definition"])]
    if options.job is not None and not jobs:
        place = "the run" if options.stage is None else f"the stage {options.stage!r}"
        raise Failure(
            f"{place} has no job {options.job!r}; it has {', '.join(job['name'] for job in inside)}",
            exit_codes.USAGE_ERROR,
        )
    return jobs


def rerun(options: argparse.Namespace) -> int:
    """Start a new run on the same files, and follow it."""
    display = Display(StatusLine())
    with Interrupts() as interrupts, connected(settings(options)) as client:
        runs = Runs(client)
        found = runs.find(options.id)
        made = runs.rerun(
            found["run_id"],
            failed=options.failed,
            stage=options.stage,
            job=options.job,
            secrets=runs.needed_secrets(found),
        )
        remote = SubmittedRun(client, display, interrupts, run=made)
        return attend(remote, lambda: announce(remote, _follow, display, is_async=options.asynchronous))


def cancel(options: argparse.Namespace) -> int:
    """Cancel a run, or a part of it."""
    with connected(settings(options)) as client:
        runs = Runs(client)
        found = runs.find(options.id)
        try:
            runs.cancel(found["run_id"], stage=options.stage, job=options.job)
        except SubmissionRefused as error:  # it has already ended
            raise Failure(str(error)) from error
    part = f" {options.job or options.stage!r} of" if options.job or options.stage else ""
    print_line(escaped(f"Cancelling{part} {found['pipeline']}#{found['number']}."))
    return exit_codes.OK


def report(options: argparse.Namespace) -> int:
    """Print a report in one of the six shapes, or the report of all pipelines."""
    name = options.named or options.name
    if options.job and not options.stage:
        say("Error: --stage parameter is required when using --job")
        return exit_codes.USAGE_ERROR
    if name is None and (options.number or options.stage):
        raise Failure("name the pipeline", exit_codes.USAGE_ERROR)
    parts: list[Any] = []
    wanted: dict[str, Any] = {}
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
    write(sys.stdout, report_formats.rendered(found, options.format))
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
    from pytest_remote_ci.artifacts import artifact_folder, run_artifacts

    with connected(settings(options)) as client:
        found = Runs(client).find(options.id)
        name = f"{found['pipeline']}-{found['number']}"
        named = options.folder is not None
        base = (
            artifact_folder.named(Path(options.folder))
            if named
            else artifact_folder.default(name, Path.cwd())
        )
        is_complete = run_artifacts.fetch(client, _chosen(found, options), base, StatusLine(), say)
    return exit_codes.OK if is_complete else exit_codes.FAILED
