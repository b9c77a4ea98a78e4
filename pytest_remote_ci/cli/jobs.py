"""``remote-ci list``, ``show``, ``tests``, ``artifacts``: information about earlier jobs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pytest_remote_ci import exit_codes
from pytest_remote_ci.cli.context import Failure, connected, folder, print_json, print_line, settings
from pytest_remote_ci.config.config import project_root
from pytest_remote_ci.session import arguments
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.control_characters import escaped

_COLUMNS = (("JOB ID", 38), ("STATUS", 12), ("START TIME", 22), ("END TIME", 22), ("SUCCESS", 8))
_RULE = "-" * 110


def list_jobs(options: argparse.Namespace) -> int:
    """Print the jobs of the key's owner, newest submission first."""
    with connected(settings(options)) as client:
        jobs = client.jobs(status=options.status, limit=options.limit)
    if options.json:
        print_json(jobs)
    elif not jobs:
        print_line("No jobs found.")
    else:
        print_line(" ".join(f"{title:<{width}}" for title, width in _COLUMNS).rstrip())
        print_line(_RULE)
        for job in jobs:
            print_line(
                " ".join(
                    f"{escaped(cell):<{width}}"
                    for cell, (_, width) in zip(_cells(job), _COLUMNS, strict=True)
                ).rstrip()
            )
    return exit_codes.OK


def show(options: argparse.Namespace) -> int:
    """Print all data of a job."""
    with connected(settings(options)) as client:
        job_id = client.job_id(options.id)
        job = client.job(job_id)
        found = list(client.tests(job_id)) if options.tests else []
    if options.json:
        print_json({**job, "tests": found} if options.tests else job)
        return exit_codes.OK
    for name, value in job.items():
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


def tests(options: argparse.Namespace) -> int:
    """Print statistics about the current project's tests from its newest runs."""
    here = Path.cwd()
    root = None if options.everywhere else str(arguments.find_place(project_root(here, here), here).root)
    with connected(settings(options)) as client:
        report = client.test_report(options.kind or "all", root=root, runs=options.runs, limit=options.limit)
    if options.json:
        print_json(report)
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
        found = [vars(item) for item in client.artifacts(job_id)] if options.list or options.json else []
        if options.json:
            print_json(found)
        elif options.list:
            from pytest_remote_ci.artifacts.download import shown

            for item in found:
                print_line(f"{item['size']:>12}  {shown(item['path'])}")
        else:
            from pytest_remote_ci.artifacts.fetch import ArtifactFetcher, reason

            line = StatusLine()
            fetcher = ArtifactFetcher(client, job_id, folder(configured)(job_id), line, line.print_message)
            try:
                return exit_codes.OK if fetcher.fetch_all() else exit_codes.FAILED
            except OSError as error:
                raise Failure(reason(error)) from error
    return exit_codes.OK


def _cells(job: dict[str, Any]) -> tuple[str, str, str, str, str]:
    success = {True: "✓", False: "✗"}.get(job.get("success"), "-")  # type: ignore[arg-type]  # None, too, has an answer
    return (
        str(job.get("job_id")),
        str(job.get("status")),
        formats.time(job.get("start_time")),
        formats.time(job.get("end_time")),
        success,
    )
