"""``remote-ci list``, ``show``, ``logs``, ``tests``, ``artifacts``: information about earlier jobs."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_remote_ci import exit_codes
from pytest_remote_ci.cli.context import (
    Failure,
    connected,
    folder,
    print_json,
    print_line,
    print_log,
    print_message,
    settings,
)
from pytest_remote_ci.client.ids import PAGE
from pytest_remote_ci.config.config import project_root
from pytest_remote_ci.session import arguments
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.control_characters import escaped

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.wire.answers import Job

#: Outcomes of tests that have a message.
_FAILURES: Final = ("failed", "error")
#: Number of newest jobs that are listed by default.
NEWEST: Final = 20


def list_jobs(options: argparse.Namespace) -> int:
    """Print the jobs of the key's owner, newest submission first. Never starts an embedded runner."""
    with connected(settings(options), starts=False) as client:
        jobs = list(_listed(client, options))
    if options.json:
        print_json([job.fields for job in jobs])
        return exit_codes.OK
    if not jobs:
        print_line("No jobs found.")
        return exit_codes.OK
    from pytest_remote_ci.cli import tables

    for line in tables.jobs(jobs, datetime.now(timezone.utc)):
        print_line(line)
    if not options.all and len(jobs) == (options.limit or NEWEST):
        print_message(f"The newest {len(jobs)} jobs; --all lists all of them.")
    return exit_codes.OK


def _listed(client: Client, options: argparse.Namespace) -> Iterator[Job]:
    """Yield the jobs that the options choose."""
    before = None
    while True:
        limit = PAGE if options.all else options.limit or NEWEST
        found = client.jobs(
            status=options.status, since=options.since, query=options.search, limit=limit, before=before
        )
        yield from found
        if not options.all or len(found) < limit:
            return
        before = found[-1].job_id


def logs(options: argparse.Namespace) -> int:
    """Print a job's output so far; with ``--follow``, until the job ends."""
    from pytest_remote_ci.client.runs import Runs

    with connected(settings(options)) as client:
        job_id = client.job_id(options.id)
        log = Runs(client)
        if options.json:
            print_json({"job_id": job_id, "log": log.log(job_id)})
        elif options.follow:
            return follow(client, job_id)
        else:
            print_log(log.log(job_id))
    return exit_codes.OK


def follow(client: Client, job_id: str) -> int:
    """Print a job's output until the job ends; return its exit code. Ctrl-C ends only this command."""
    from pytest_remote_ci.terminal.display import trouble_words

    def on_trouble(text: str, left: float | None) -> None:
        print_message(escaped(trouble_words(text, left)))

    for event in client.stream(job_id, view="log", on_trouble=on_trouble):
        if event.type == "log":
            print_log(event.text)
        elif event.type == "complete":
            return exit_codes.of_job(event)
    raise AssertionError("a stream ends with `complete` or an error")


def show(options: argparse.Namespace) -> int:
    """Print all data of a job."""
    with connected(settings(options)) as client:
        job_id = client.job_id(options.id)
        job = client.job(job_id)
        if options.json and options.timing:
            print_json(job.fields.get("timing"))
            return exit_codes.OK
        found = list(client.tests(job_id)) if options.tests else []
        messages = None
        if options.json and any(test.outcome in _FAILURES for test in found):
            from pytest_remote_ci.client import failed_tests

            messages = failed_tests.messages(client, job_id)
    if options.json:
        tests = [
            test.fields if messages is None else {**test.fields, "message": messages.get(test.id)}
            for test in found
        ]
        print_json({**job.fields, "tests": tests} if options.tests else job.fields)
        return exit_codes.OK
    if options.timing:
        return _show_timing(job)
    for name, value in job.fields.items():
        if name == "timing":
            continue
        if name.endswith(("_time", "_at")):
            value = formats.time(value)
        elif isinstance(value, dict):
            value = ", ".join(f"{count} {outcome}" for outcome, count in value.items())
        if value not in (None, ""):
            print_line(escaped(f"{name.replace('_', ' ') + ':':<16}{value}"))
    if options.tests:
        from pytest_remote_ci.cli.tables import results

        for line in results(found):
            print_line(line)
    return exit_codes.OK


def _show_timing(job: Job) -> int:
    """Print how long the phases of a job took."""
    from pytest_remote_ci.terminal import phase_times

    if job.timing is None:
        print_line(f"job {job.job_id} has no timing: it is not over, or its runner did not measure it")
        return exit_codes.OK
    for line in phase_times.table(job.timing):
        print_line(line)
    return exit_codes.OK


def tests(options: argparse.Namespace) -> int:
    """Print statistics about the current project's tests from its newest runs."""
    here = Path.cwd()
    root = None if options.everywhere else str(arguments.find_place(project_root(here, here), here).root)
    with connected(settings(options)) as client:
        report = client.test_report(options.kind or "all", root=root, runs=options.runs, limit=options.limit)
    if options.json:
        print_json(report.fields)
    else:
        from pytest_remote_ci.cli.tables import report as lines_of

        for line in lines_of(report):
            print_line(line)
    return exit_codes.OK


def artifacts(options: argparse.Namespace) -> int:
    """Fetch or list a job's artifacts."""
    configured = settings(options)
    with connected(configured) as client:
        job_id = client.job_id(options.id)
        found = client.artifacts(job_id) if options.list or options.json else []
        if options.json:
            print_json([vars(item) for item in found])
        elif options.list:
            from pytest_remote_ci.artifacts.download import shown

            for item in found:
                print_line(f"{item.size:>12}  {shown(item.path)}")
        else:
            from pytest_remote_ci.artifacts.fetch import ArtifactFetcher, reason

            line = StatusLine()
            fetcher = ArtifactFetcher(client, job_id, folder(configured)(job_id), line, line.print_message)
            try:
                return exit_codes.OK if fetcher.fetch_all() else exit_codes.FAILED
            except OSError as error:
                raise Failure(reason(error)) from error
    return exit_codes.OK
