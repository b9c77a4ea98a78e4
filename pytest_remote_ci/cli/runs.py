"""``remote-ci pipeline run`` and the commands for existing runs: status, logs, report, artifacts, rerun, cancel.

Exit codes are in `pytest_remote_ci.exit_codes`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_remote_ci import exit_codes
from pytest_remote_ci.cli import report_formats
from pytest_remote_ci.cli.context import Failure, connected, print_line, print_log, say, settings, write
from pytest_remote_ci.client.runs import Run, Runs
from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.errors import ClientError, SubmissionRefused
from pytest_remote_ci.session import arguments
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.run_view import RunView, block, state_of, tail_heading, verdict
from pytest_remote_ci.terminal.status_line import Bar, StatusLine
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.protocol import SubmitOptions
from pytest_remote_ci.workspace import scm_version

#: Function that adds one sub-command and returns its parser.
Command = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]

#: Function that adds options to a parser.
AddOptions = Callable[[argparse.ArgumentParser], None]

#: Seconds between two requests for a run's state while events change only output and counts.
_LOOK = 0.5


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
    from pytest_remote_ci.workspace import collect as workspace

    if options.dry_run:
        return pipelines.dry_run(options)
    plan = pipelines.plan_for(options)
    if plan is None:
        return exit_codes.USAGE_ERROR
    settings_here = settings(options)
    cwd = Path.cwd()
    place = arguments.find_place(configuration.project_root(cwd, cwd), cwd)

    def collect() -> workspace.Workspace:
        return workspace.collect(place.root, include=settings_here.include, exclude=settings_here.exclude)

    with Interrupts() as interrupts, connected(settings_here) as client:
        runs = Runs(client)
        progress = interrupts.held_after(Bar(StatusLine(), "uploading"))
        try:
            made = runs.submit(
                collect(),
                plan,
                _shared(settings_here, place.root),
                again=collect,
                keep_going=options.keep_going,
                timeout=options.timeout,
                progress=progress,
            )
            StatusLine().clear()
        except KeyboardInterrupt:
            say("Interrupted: nothing was left on the runner.")
            return exit_codes.INTERRUPTED
        return _sent(runs, made, options.asynchronous, interrupts)


def _shared(settings_here: configuration.Config, root: Path) -> SubmitOptions:
    import pytest

    options = settings_here.submit_options(
        root=root,
        cwd=root,
        pytest_version=pytest.__version__,
        scm_version=scm_version.version(root),
        columns=shutil.get_terminal_size().columns,
    )
    return replace(options, records=True)  # so that tests are counted


def _sent(runs: Runs, made: Run, asynchronous: bool, interrupts: Interrupts) -> int:
    """Print that a run was submitted, and follow it to its end unless `asynchronous`; return the exit code."""
    if asynchronous:
        print_line(escaped(f"Run submitted: {made['run_id']} ({made['pipeline']}#{made['number']})"))
        return exit_codes.OK
    say(escaped(f"Run {made['pipeline']}#{made['number']}: {made['run_id']}"))
    try:
        interrupts.release()
        return _finish(runs, _watch(runs, made))
    except KeyboardInterrupt:
        say("Cancelling the run … (press Ctrl-C again to leave at once)")
        try:
            runs.cancel(made["run_id"])
            _watch(runs, made)
            say("Run cancelled by user.")
        except KeyboardInterrupt:
            say(f"Not waiting for its end; see: remote-ci pipeline status {made['run_id']}")
        except ClientError as error:
            say(f"remote-ci: {error}")
        return exit_codes.INTERRUPTED


def _watch(runs: Runs, run: Run) -> Run:
    """Show the run until it ends, and return its final state."""
    view = RunView(sys.stderr)
    looked = 0.0
    for event in runs.stream(
        run["run_id"], view="all", on_trouble=lambda text: view.say(f"{text}; reconnecting …")
    ):
        kind, clock = event.get("type"), time.monotonic()
        # Output is frequent and changes no state. A terminal also shows the elapsed time and the counts.
        due = clock - looked > _LOOK if kind in ("log", "report", "started") else kind != "run_complete"
        if due and (kind not in ("log", "report", "started") or view.is_terminal):
            looked = clock
            run = runs.get(run["run_id"])
        view.show(run, hurried=kind in ("log", "report", "started"))
    run = runs.get(run["run_id"])
    view.show(run)
    view.keep()
    return run


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
                found = _watch(runs, found)
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
        return _sent(runs, made, options.asynchronous, interrupts)


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
