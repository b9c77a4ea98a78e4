"""The exit codes of `pytest --remote-ci` and of every `remote-ci` command: one table.

0 to 5 are pytest's own. The others are from sysexits.h, so that a script can distinguish failed tests from a runner
that does not answer. A native session exits with 2 after Ctrl-C because pytest does; the commands do the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_remote_ci.wire.answers import Run
    from pytest_remote_ci.wire.events import Event

#: The tests passed, or the command succeeded.
OK: Final = 0
#: A test or a job of the run failed, or a command that runs no tests failed.
FAILED: Final = 1
#: Ctrl-C.
INTERRUPTED: Final = 2
#: Wrong arguments, wrong configuration, or a job or run that does not exist.
USAGE_ERROR: Final = 4
#: No test was selected.
NO_TESTS: Final = 5
#: No runner answers (EX_UNAVAILABLE).
UNREACHABLE: Final = 69
#: The job or run was cancelled, or the runner could not complete it (EX_SOFTWARE).
NO_VERDICT: Final = 70
#: The runner refuses the key (EX_NOPERM).
REFUSED: Final = 77


def of_job(complete: Event) -> int:
    """Return the exit code for a job's last event: the command's own, or `NO_VERDICT`."""
    code = complete.exit_code
    if complete.is_cancelled or complete.status == "failed":
        return NO_VERDICT
    if code is not None and 0 <= code <= 255:
        return code
    return OK if complete.has_passed else FAILED  # for runners that only send `success`


def of_run(run: Run) -> int:
    """Return the exit code for a run that has ended: `OK`, `FAILED`, or `NO_VERDICT`.

    A run has no verdict if it was cancelled, timed out, or failed only because of jobs that the runner could not
    complete.
    """
    if run.status != "completed":
        return NO_VERDICT
    if run.success:
        return OK
    counted = [job for job in run.jobs if not job.allow_failure and not job.is_skipped]
    failed = any(job.status == "completed" and not job.success for job in counted)
    return FAILED if failed else NO_VERDICT


def worst_of(run: Run) -> int:
    """Return the exit code for a run of one suite in several jobs that has ended: the worst of the jobs' own.

    From best to worst: passed, no tests, failed tests, pytest's other codes, no verdict.
    """
    code = of_run(run)
    if code in (OK, NO_VERDICT):
        return code
    found = [
        job.exit_code if job.status == "completed" and job.exit_code is not None else NO_VERDICT
        for job in run.jobs
        if not job.is_skipped
    ]
    order = (OK, NO_TESTS, FAILED)
    return max(found, key=lambda each: order.index(each) if each in order else len(order) + each)


def of_lost(error_code: int) -> int:
    """Return the exit code for a job with unreadable events, from the error's own code."""
    return error_code if error_code in (UNREACHABLE, REFUSED) else NO_VERDICT
