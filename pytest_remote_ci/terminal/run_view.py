"""Display of a run: a block of stages and jobs that is redrawn or, without a terminal, plain lines.

The display is a pure function of the run (as the API returns it) and the time. Events only trigger a refresh.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Final, TextIO

from pytest_remote_ci.terminal.ansi import is_terminal
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.answers import Run, RunJob
from pytest_remote_ci.wire.control_characters import escaped, escaped_lines

_MARKS: Final = {
    "waiting": "·",
    "queued": "◦",
    "running": "▶",
    "passed": "✓",
    "failed": "✗",
    "allowed": "!",
    "cancelled": "-",
    "skipped": "-",
    "reused": "=",
}
_WORDS: Final = {"allowed": "failed, allowed", "skipped": "left out", "reused": "passed before"}
_COLOURS: Final = {"passed": "32", "failed": "31", "allowed": "33", "running": "36", "cancelled": "33"}
_BAR: Final = 12
#: Seconds between two redraws.
_INTERVAL: Final = 0.1


def state_of(job: RunJob) -> str:
    """Return a job's state as one word."""
    if job.is_skipped:
        return "skipped"
    status = job.status
    if status == "queued":
        return "waiting" if job.job_id is None else "queued"
    if status in ("running", "cancelled"):
        return status
    if status == "completed" and job.success:
        return "reused" if job.is_reused else "passed"
    return "allowed" if job.allow_failure else "failed"


def seconds_of(job: RunJob, now: datetime) -> float | None:
    """Return the seconds that a job has run so far; None before its start."""
    began = formats.parse_time(job.start_time)
    if began is None:
        return None
    return max(0.0, ((formats.parse_time(job.end_time) or now) - began).total_seconds())


def words(job: RunJob, now: datetime) -> str:
    """Return a job's details as the text after its name."""
    state = state_of(job)
    parts = [_WORDS.get(state, state)]
    if state == "running" and job.phase not in (None, "testing"):
        parts[0] = job.phase
    if job.retry:
        parts.append(f"try {job.retry + 1}")
    seconds = seconds_of(job, now)
    if seconds is not None and not job.is_reused:
        parts.append(formats.duration(seconds))
    counts = ", ".join(f"{number} {outcome}" for outcome, number in job.counts.items())
    if counts:
        parts.append(counts)
    if job.reason and state in ("failed", "allowed", "cancelled", "skipped"):
        parts.append(job.reason)
    elif state in ("failed", "allowed") and job.exit_code is not None:
        parts.append(f"exit code {job.exit_code}")
    return escaped("  ".join(parts))


def bar(job: RunJob, now: datetime) -> str:
    """Return a progress bar of a running job, relative to its past duration; "" if either is unknown."""
    past, seconds = job.past_seconds, seconds_of(job, now)
    if state_of(job) != "running" or not past or seconds is None:
        return ""
    filled = min(_BAR, int(_BAR * seconds / past))
    return "█" * filled + "░" * (_BAR - filled) + f" of {formats.duration(past)}  "


def block(run: Run, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield (state, line) for each stage and job."""
    width = max((len(escaped(job.name)) for job in run.jobs), default=0)
    for stage in run.stages:
        yield "", f"{escaped(stage)}:"
        for job in run.jobs:
            if job.stage == stage:
                state = state_of(job)
                yield (
                    state,
                    f"  {_MARKS[state]} {escaped(job.name):<{width}}  {bar(job, now)}{words(job, now)}",
                )


def verdict(run: Run) -> str:
    """Return the run's result as one line."""
    what = f"{run.pipeline} #{run.number}"
    if run.status == "completed":
        text = f"{what} passed" if run.success else f"{what} FAILED"
    else:
        text = f"{what} {'was ' if run.status == 'cancelled' else ''}{run.status}"
    return escaped(f"{text}: {run.reason}" if run.reason else text)


def tail_heading(run: Run, job: RunJob) -> str:
    """Return the heading for the tail of a job's log."""
    return escaped(
        f"{job.stage} / {job.name}: the end of its log (whole log: remote-ci pipeline logs "
        f"{run.title} --job {job.name!r})"
    )


class RunView:
    """Display of a run in progress. For one thread only."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_terminal = is_terminal(stream)
        self._drawn = 0
        self._drawn_at = float("-inf")
        self._printed: dict[str, str] = {}

    def show(self, run: Run, *, hurried: bool = False) -> None:
        """Show the run as it is now; with `hurried`, at most ten times a second."""
        now = datetime.now(timezone.utc)
        if not self.is_terminal:
            self._print_changes(run, now)
            return
        clock = time.monotonic()
        if hurried and clock - self._drawn_at < _INTERVAL:
            return
        self._drawn_at = clock
        size = shutil.get_terminal_size()
        lines = [self._line(state, text, size.columns) for state, text in block(run, now)][
            : max(1, size.lines - 2)
        ]
        self.clear()
        self._write("".join(f"{line}\n" for line in lines))
        self._drawn = len(lines)

    def clear(self) -> None:
        """Remove the block, before other output."""
        if self._drawn:
            self._write(f"\x1b[{self._drawn}A\x1b[J")
            self._drawn = 0

    def keep(self) -> None:
        """Leave the block on the terminal."""
        self._drawn = 0

    def print_message(self, text: str) -> None:
        """Print a permanent line."""
        self.clear()
        self._write(f"{escaped_lines(text)}\n")

    def _print_changes(self, run: Run, now: datetime) -> None:
        """Print one line for each job that has changed its state."""
        for job in run.jobs:
            state = state_of(job)
            if state == self._printed.get(job.name, "waiting"):
                continue
            self._printed[job.name] = state
            self._write(escaped(f"{job.stage} / {job.name}: {words(job, now)}") + "\n")

    def _line(self, state: str, text: str, columns: int) -> str:
        text = text if len(text) < columns else text[: columns - 2] + "…"
        colour = _COLOURS.get(state)
        return f"\x1b[{colour}m{text}\x1b[0m" if colour else text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self._stream.write(text.encode("ascii", "replace").decode("ascii"))
        self._stream.flush()
