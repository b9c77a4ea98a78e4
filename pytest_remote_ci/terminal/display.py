"""Display of a job's events: output to stdout and stderr, everything else on a temporary status line."""

from __future__ import annotations

import math
import re
import sys
from collections import deque
from collections.abc import Mapping
from typing import Final, TextIO

from pytest_remote_ci import exit_codes
from pytest_remote_ci.errors import NoVerdict
from pytest_remote_ci.terminal.ansi import Output
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.events import Event

_DIM, _PLAIN = "\x1b[2m", "\x1b[0m"
#: Most chunks of the runner's own log (dependency installation) that are stored in case the preparation fails.
_KEPT_CHUNKS = 1000
#: Texts for the phases before the first output.
_PHASES = {"queued": "queued", "preparing": "preparing the environment", "starting": "starting the container"}


class Display:
    """Display of the events of one job. Raises BrokenPipeError if stdout or stderr is closed by its reader."""

    def __init__(self, line: StatusLine, *, is_strict: bool = False, stdout: TextIO | None = None) -> None:
        """Write to stdout, stderr and `line`; with `is_strict`, files and pipes get the same text as a terminal.

        Without `is_strict`, files and pipes get what a direct run of pytest would write. `stdout` replaces stdout.
        """
        self.line = line
        self._out = Output(stdout or sys.stdout, is_strict=is_strict)
        self._err = Output(sys.stderr, is_strict=is_strict)
        self._runner_log: deque[str] = deque(maxlen=_KEPT_CHUNKS)
        self._has_output = False
        self._at_line_start = True
        self._last_message = ""
        self._trouble: tuple[str, int | None] | None = None

    def show(self, event: Event) -> None:
        """Show one event. Events that are not for display, or newer than this client, are ignored."""
        if event.type == "log":
            self._log(event.text, event.stream)
        elif event.type == "state":
            self._state(event)
        elif event.type == "complete":
            self._complete(event)

    def trouble(self, text: str, left: float | None = None) -> None:
        """Show that the connection was interrupted, and that the runner stays away: for `left` more seconds at most.

        Files and pipes get a line for each reason, and for each minute.
        """
        words = trouble_words(text, left)
        minute = None if left is None else math.ceil(left / 60)
        if self.line.is_terminal or (text, minute) != self._trouble:
            self._status(words)
        self._trouble = (text, minute)

    def print_message(self, text: str) -> None:
        """Print a permanent line on stderr, starting a new line if output is in the middle of one."""
        self._end_line()
        self.line.print_message(text)

    def _log(self, text: str, stream: str | None) -> None:
        if stream == "runner":
            self._runner(text)
            return
        self.line.clear()
        if not text:
            return
        if stream == "stderr":
            self._err.write(text)
        else:
            self._has_output = True
            self._out.write(text)
        self._at_line_start = text.endswith("\n")

    def _runner(self, text: str) -> None:
        if self._has_output or not self.line.is_terminal:
            self.line.clear()
            self._end_line()
            self._err.write(f"{_DIM}{text}{_PLAIN}" if self._err.is_terminal else text)
            return
        self._runner_log.append(text)
        lines = text.strip().splitlines()
        if lines:
            self.line.show(lines[-1], hurried=True)

    def _state(self, event: Event) -> None:
        words = _PHASES.get(event.phase)
        if words is None:
            self.line.clear()
            return
        if event.queue_position and event.phase == "queued":
            words = f"queued, position {event.queue_position}"
        if event.detail:
            words = f"{words}: {event.detail}"
        self._status(words)

    def _status(self, words: str) -> None:
        if self.line.is_terminal and not self._has_output:
            self.line.show(words)
        elif words != self._last_message:
            self.print_message(f"remote-ci: {escaped(words)}")
        self._last_message = words

    def _complete(self, event: Event) -> None:
        self.line.clear()
        self._out.close()
        self._err.close()
        if event.status == "failed":
            self._end_line()
            for text in self._runner_log:
                self._err.write(text)
                self._at_line_start = text.endswith("\n")
        self._runner_log.clear()
        self._end_line()

    def _end_line(self) -> None:
        """End a line of output before a line of this class, if both streams are on a terminal."""
        if not self._at_line_start and self.line.is_terminal and self._out.is_terminal:
            self._err.write("\n")
        self._at_line_start = True


def trouble_words(text: str, left: float | None) -> str:
    """Return the text about an interruption, with the seconds after which the client gives up."""
    if left is None:
        return f"{text}; reconnecting …"
    return (
        f"{text}; trying for {formats.duration(round(left))} more (Ctrl-C leaves what was submitted running)"
    )


def exit_code(complete: Event) -> int:
    """Return the exit code for this `complete` event. Raises `NoVerdict` with the runner's reason."""
    reason = complete.reason
    if complete.is_cancelled:
        raise NoVerdict(f"the job was {escaped(reason or 'cancelled')}")
    if complete.status == "failed":
        text = reason or "no reason was given"
        raise NoVerdict(f"the runner could give no verdict: {escaped(text)}{_setting_of(text)}")
    return exit_codes.of_job(complete)


#: Beginning of a reason, as a pattern -> the setting of the limit that it names.
_SETTINGS: Final = (
    (r"timed out after [^/]{1,40} of testing", "`timeout`, at most `test-timeout` of the runner"),
    (r"timed out after [^/]{1,40} of preparing", "`prepare-timeout` of the runner"),
    (r"disk limit of ", "`disk` of the runner"),
)


def _setting_of(reason: str) -> str:
    """Return, in parentheses, the setting of the limit that ended a job; "" if none did or the reason has it."""
    for pattern, setting in _SETTINGS:
        if re.match(pattern, reason):
            return f" (setting: {setting})"
    return ""


def local_color(choice: str, environ: Mapping[str, str], is_terminal: bool) -> bool:
    """Return whether pytest would use colours locally.

    `choice` is the value of ``--color``. Environment variables are read as pytest reads them.
    """
    if choice in ("yes", "no"):
        return choice == "yes"
    if environ.get("PY_COLORS") in ("0", "1"):
        return bool(environ["PY_COLORS"] == "1")
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR"):
        return True
    return is_terminal and environ.get("TERM") != "dumb"
