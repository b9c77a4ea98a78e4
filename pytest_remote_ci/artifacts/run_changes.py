"""Bring what the jobs of a run did to files of the project to their places, or name it, job after job.

If two jobs changed one file differently, the first one's version is taken and the second one's is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.artifacts.fetch import reason
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire.control_characters import escaped

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.updates import Updates
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.wire.answers import RunJob

#: Limit for the number of jobs with lines of their own.
_MOST_JOBS: Final = 5


def bring(
    client: Client,
    jobs: Iterable[RunJob],
    updates_of: Callable[[RunJob], Updates],
    sent: Mapping[str, str] | None,
    line: StatusLine,
    print_message: Callable[[str], None],
) -> None:
    """Apply and name the changes of these jobs of a run, as the run's description lists them.

    `updates_of` returns what comes home from a job; `sent`: path → digest, None if another process sent the project.
    Errors are reported but do not change the exit code.
    """
    found = list(jobs)
    for job in found[:_MOST_JOBS]:
        name, job_id = job.name, str(job.job_id)
        try:
            fetched = frozenset(item.path for item in client.artifacts(job_id))
            updates = replace(
                updates_of(job),
                fetched=fetched,
                label=name,
                author="the tests" if job.is_pytest else "the job",
            )
            updates.bring(client, job_id, sent, line, print_message)
        except (ClientError, OSError) as error:
            print_message(
                f"remote-ci: {escaped(name)}: files of the project that the job changed were not fetched: "
                f"{reason(error)}; try again: remote-ci pull {job_id}"
            )
        finally:
            line.clear()
    others = found[_MOST_JOBS:]
    if others:
        ids = ", ".join(str(job.job_id) for job in others[:_MOST_JOBS])
        print_message(
            f"remote-ci: {len(others)} more {'job' if len(others) == 1 else 'jobs'} changed files of the project: "
            f"{ids}{', …' if len(others) > _MOST_JOBS else ''}; list them with: remote-ci pull JOB --dry-run"
        )
