"""A job's verdict from the state of its container: the table in docs/reference/wire.md as a pure function.

A requested stop (cancel, timeout, disk) takes precedence; then the engine's report; then the worker's exit frame. A
worker's "passed" is never trusted against the engine's exit code.
"""

from __future__ import annotations

from ci_runner.controller.engine import Observed
from ci_runner.controller.snapshot import Policy, SpoolResult
from ci_runner.controller.spool.reader import ExitFrame
from ci_runner.model.job import Job
from ci_runner.model.verdict import CONTAINER_LOST, Verdict, cancelled, failed, first_line, ran
from pytest_remote_ci.job.crash import Limits, limit_behind, out_of_memory
from pytest_remote_ci.wire import formats


def stopped(job: Job, intent: str, policy: Policy, running: str | None = None) -> Verdict:
    """Return the verdict of a job stopped for `intent` (see `Job.stop_intent`) during the test `running`."""
    if intent == "cancel":
        return cancelled(job.cancelled_by or "its user")
    if intent == "disk":
        return failed(_naming(f"disk limit of {formats.size(policy.disk)} exceeded", running))
    if intent == "full":
        return failed(_naming("wrote too much: the runner's disk is nearly full", running))
    if job.phase == "preparing":
        return failed(
            f"timed out after {formats.duration(policy.prepare_timeout)} of preparing", timed_out=True
        )
    words = f"timed out after {formats.duration(timeout_of(job, policy))} of testing"
    return failed(_naming(words, running), timed_out=True)


def ended(job: Job, observed: Observed | None, ending: SpoolResult, policy: Policy) -> Verdict:
    """Return the verdict after the job's container has ended, or is gone (`observed` is None)."""
    if job.cancel_requested_at is not None:
        return stopped(job, "cancel", policy)
    if job.stop_intent is not None:
        return stopped(job, job.stop_intent, policy, ending.running)
    code = observed.exit_code if observed is not None else None
    limits = _limits(job, policy)
    if observed is not None and observed.oom_killed and (ending.exit is None or code == 137):
        return failed(_naming(out_of_memory(limits.memory), ending.running))
    if ending.exit is None:
        return failed(_naming(CONTAINER_LOST, ending.running))
    if ending.exit.stopped and ending.exit.code != 0:
        # The runner did not request this: the engine or the machine went down, so the command's exit is not a verdict.
        return failed(_naming(f"{CONTAINER_LOST} (it was stopped from outside the runner)", ending.running))
    if ending.exit.code is None:
        return ran(1, _crash_reason(ending.exit, limits))
    if ending.exit.code == 0 and code not in (0, None):
        return failed(f"{CONTAINER_LOST} (it ended with code {code})")
    died = ending.exit.died
    return ran(ending.exit.code, first_line(died) if died else None)


def _naming(reason: str, running: str | None) -> str:
    return f"{reason} while running {running}" if running else reason


def _crash_reason(exit_frame: ExitFrame, limits: Limits) -> str:
    if exit_frame.oom:
        return f"a test took pytest down: {out_of_memory(limits.memory)}"
    return f"a test took pytest down: it was ended by {exit_frame.signal}{limit_behind(exit_frame.signal, limits)}"


def timeout_of(job: Job, policy: Policy) -> float:
    """Return the seconds of testing: the job's request, capped by the operator's limit."""
    asked = job.options.submitted.timeout
    return policy.test_timeout if asked is None else min(asked, policy.test_timeout)


def _limits(job: Job, policy: Policy) -> Limits:
    """Return the limits of the job's container in words."""
    asked = job.options.submitted
    return Limits(
        memory=formats.size(min(asked.memory or policy.memory, policy.max_memory)),
        file_size=formats.size(asked.file_size or policy.file_size),
        shm_size=formats.size(asked.shm_size or policy.shm_size),
    )
