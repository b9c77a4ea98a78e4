"""Analyse the records of a session after pytest died: which test caused it, and whether to continue.

The worker calls `CrashResolution.resolve` when pytest ended without completing its session. The outcome is written as
ordinary records, so clients need no special handling. A restarted pytest calls `read` for the state of the earlier
ones (see `resume`). The records were written next to hostile code: malformed ones are skipped. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import BinaryIO, Callable, ClassVar, Iterator, Mapping, NamedTuple

from ..wire import records as wire

#: Longest line in bytes that counts as a record.
_LONGEST = 4 << 20
#: Limits in bytes and lines for the end of standard error that is shown with the failure.
_TAIL_BYTES = 16384
_TAIL_LINES = 60
#: Output files, in the order of a record's sizes.
_OUTPUTS = ("terminal", "stdout", "stderr")
#: Signal -> the limit that leads to it, besides those that a job can set.
_LIMITS = {
    "SIGXCPU": " (it used more processor time than a job may)",
    "SIGSYS": " (it made a system call that jobs may not make)",
}
#: Exit codes: a test took pytest down; pytest died before any test.
FAILED, INTERRUPTED = 1, 2


class Limits(NamedTuple):
    """Limits that a job can set, in words; "" if unknown."""

    memory: str = ""
    file_size: str = ""
    shm_size: str = ""


class Begun(NamedTuple):
    """A test that has begun."""

    record: wire.Started
    #: Bytes of standard error before it.
    stderr: int


class SessionState:
    """The state of one job's session, over all its pytest processes. Fields marked "newest" start again with each."""

    def __init__(self) -> None:
        #: Node ids in the order in which they were first collected, and those of tests that began.
        self.collected: dict[str, None] = {}
        self.started: dict[str, None] = {}
        #: Node ids of collectors that failed.
        self.broken: set[str] = set()
        #: Tests that have begun and not ended, by node id.
        self.running: dict[str, Begun] = {}
        #: Node id -> the last reported phase of those tests.
        self.phases: dict[str, str] = {}
        #: The number of failures that count for ``--maxfail``, and that limit (0: none).
        self.failures = 0
        self.maxfail = 0
        #: The number of pytest processes that died.
        self.deaths = 0
        self.xdist = False
        #: Newest: number of tests that it began; whether its session was ending; the collector at work.
        self.fresh = 0
        self.ending = False
        self.collecting = ""
        #: Newest: pytest's exit status, None if it did not get that far.
        self.status: int | None = None
        #: Newest: whether the session is not recorded.
        self.unavailable = False
        self.last = ""
        #: Bytes of standard error before the record at hand.
        self._stderr = 0

    @property
    def rest(self) -> list[str]:
        """Node ids of the tests that never began."""
        return [nodeid for nodeid in self.collected if nodeid not in self.started]

    @property
    def reached_maxfail(self) -> bool:
        """Whether the failures reach the limit of ``-x`` or ``--maxfail``."""
        return 0 < self.maxfail <= self.failures + len(self.broken)

    def update(self, raw: Mapping[str, object]) -> None:
        """Handle what one line contains; call this in the order in which they were written."""
        sizes = raw.get("sizes")
        stderr = sizes[2] if isinstance(sizes, list) and len(sizes) == len(_OUTPUTS) else 0
        self._stderr = stderr if type(stderr) is int else 0
        for part in wire.parts_of(raw):
            try:
                record = wire.parse(part)
            except wire.RecordError:
                continue
            handle = self._HANDLERS.get(type(record))
            if handle is not None:
                handle(self, record)

    def _session(self, record: wire.Session) -> None:
        self.xdist = record.xdist
        self.maxfail = record.maxfail or 0

    def _unavailable(self, record: wire.Unavailable) -> None:
        self.unavailable = True

    def _tree(self, record: wire.Tree) -> None:
        for item in record.items:
            self.collected[item.nodeid] = None

    def _collecting(self, record: wire.CollectingFile) -> None:
        self.collecting = record.id

    def _collected(self, record: wire.Collected) -> None:
        self.collecting = ""

    def _collect_report(self, record: wire.CollectReport) -> None:
        if record.outcome == "failed":
            self.broken.add(record.nodeid)

    def _started(self, record: wire.Started) -> None:
        self.collecting = ""
        self.fresh += 1
        self.started[record.id] = None
        self.running[record.id] = Begun(record, self._stderr)

    def _report(self, record: wire.Report) -> None:
        self.phases[record.nodeid] = record.when
        if record.outcome == "failed" and "wasxfail" not in record.d:
            self.failures += 1

    def _passed(self, record: wire.Passed) -> None:
        self.phases[record.id] = record.when

    def _finished(self, record: wire.Finished) -> None:
        self.last = record.id
        self.running.pop(self.last, None)
        self.phases.pop(self.last, None)

    def _over(self, record: wire.Record) -> None:
        self.ending = True

    def _status(self, record: wire.End | wire.Returned) -> None:
        self.status = record.exitstatus

    def _died(self, record: wire.Died) -> None:
        self.deaths += 1
        self.ending = self.unavailable = False
        self.fresh, self.collecting, self.status = 0, "", None
        self.running.clear()

    #: Class of a record -> its handler.
    _HANDLERS: ClassVar[Mapping[object, Callable[..., None]]] = {
        wire.Session: _session,
        wire.Unavailable: _unavailable,
        wire.Tree: _tree,
        wire.CollectingFile: _collecting,
        wire.Collected: _collected,
        wire.CollectReport: _collect_report,
        wire.Started: _started,
        wire.Report: _report,
        wire.Passed: _passed,
        wire.Finished: _finished,
        wire.TestsOver: _over,
        wire.Interrupt: _over,
        wire.InternalError: _over,
        wire.End: _status,
        wire.Returned: _status,
        wire.Died: _died,
    }


def read(file: BinaryIO) -> SessionState:
    """Return the session's state from the file of records, read from its beginning."""
    found = SessionState()
    for line in lines(file):
        try:
            raw = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(raw, dict):
            found.update(raw)
    return found


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield whole lines; skip lines longer than any record."""
    file.seek(0)
    inside = False
    while True:
        line = file.readline(_LONGEST)
        if not line:
            return
        whole = line.endswith(b"\n")
        if whole and not inside:
            yield line
        inside = not whole


def limit_behind(signal_name: str | None, limits: Limits) -> str:
    """Return, in parentheses, the limit that usually leads to this signal, and its setting; "" if there is none."""
    if signal_name == "SIGBUS":
        return f" (usually: /dev/shm is full{_words(limits.shm_size, 'shm-size', '; ')})"
    if signal_name == "SIGXFSZ":
        return (
            f" (a file grew beyond the largest size of a file{_words(limits.file_size, 'file-size', '; ')})"
        )
    return _LIMITS.get(signal_name or "", "")


def out_of_memory(memory: str) -> str:
    """Return what happened, the limit and its setting."""
    limit = _words(memory, "memory")
    return "out of memory" + (f" ({limit})" if limit else "")


def _words(limit: str, setting: str, before: str = "") -> str:
    return f"{before}limit {limit}; setting: {setting}" if limit else ""


def ending(code: int, signal_name: str | None, *, oom: bool, limits: Limits) -> str:
    """Describe how pytest ended."""
    if oom and signal_name == "SIGKILL":
        return f"pytest was killed: {out_of_memory(limits.memory)}"
    if signal_name:
        return f"pytest was ended by {signal_name}{limit_behind(signal_name, limits)}"
    return f"pytest ended with code {code} in the middle of its session"


class CrashResolution:
    """Decides how a job continues after its pytest died."""

    def __init__(self, folder: str, records: int, sizes: Callable[[], dict[str, int]]) -> None:
        """`folder`: the spool; `records`: descriptor of its `records`, open for reading and appending.

        `sizes()` returns the present sizes of the output files in bytes.
        """
        self._folder, self._records, self._sizes = folder, records, sizes
        with open(os.dup(records), "rb") as file:
            self._found = read(file)
        #: Describes what happened, for people.
        self.words = ""
        #: The job's exit code if pytest is not started again.
        self.code = FAILED

    @property
    def status(self) -> int | None:
        """The exit status that pytest had reached before it ended."""
        return self._found.status

    def resolve(self, how: str, sections: list[wire.Section], *, restarts: int, stopped: bool) -> bool:
        """Record the death and its effect on the running tests; return whether to start pytest again for the rest.

        `sections`: captured output of the running test; `restarts`: how many restarts are left; `stopped`: pytest
        ended because the job was asked to stop.
        """
        found = self._found
        began = bool(found.started)
        self.code = FAILED if began or found.unavailable or found.ending else INTERRUPTED
        self.words = f"{how} {self._where()}".rstrip()
        if stopped:  # the client knows the reason, and reports the running tests itself
            self._add(wire.Died(text=self.words, again=False, stopped=True, sections=sections))
            return False
        for nodeid, begun in list(found.running.items()):
            self._fail(nodeid, begun, how, sections)
        collecting = not began and bool(found.collecting)
        if collecting:
            self._fail_collecting(how)
        rest, enough = found.rest, found.reached_maxfail
        again = bool(found.fresh and rest and restarts > 0 and not (enough or found.xdist or found.ending))
        if enough and not found.ending:
            self._add(wire.TestsOver(shouldfail=f"stopping after {found.failures} failures", shouldstop=None))
        if again:
            self._write_to_terminal(f"\n\nremote-ci: {self.words}; starting pytest again for the rest\n\n")
        self._add(wire.Died(text=self.words, again=again, collecting=collecting))
        return again

    def _write_to_terminal(self, text: str) -> None:
        """Write a line into pytest's terminal output, for those who read it as text."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            handle = os.open(os.path.join(self._folder, "terminal"), flags, 0o644)
            try:
                os.write(handle, text.encode("utf-8", "backslashreplace"))
            finally:
                os.close(handle)

    def _where(self) -> str:
        found = self._found
        if found.running:
            ids = list(found.running)
            return f"while running {ids[0]}" + (f" and {len(ids) - 1} more" if len(ids) > 1 else "")
        if found.collecting:
            return f"while collecting {found.collecting}"
        if found.ending:
            return "after its tests"
        if found.fresh:
            return f"after {found.last}"
        return "before its first test"

    def _fail(self, nodeid: str, begun: Begun, how: str, sections: list[wire.Section]) -> None:
        """Add the reports that are missing for a test: a failure of its phase, an empty teardown, its end."""
        # The record of a passed setup is sent with the next one, so its absence does not mean that the setup failed.
        phase = "teardown" if self._found.phases.get(nodeid) == "call" else "call"
        location, at = begun.record.location, begun.record.at
        now = time.time()
        start = at if 0 < at <= now else now
        common = {
            "$report_type": "TestReport",
            "nodeid": nodeid,
            "location": location,
            "keywords": {},
            "user_properties": [],
            "sections": sections,
        }
        text = f"{how} while running {nodeid}{self._tail(begun.stderr)}"
        failure = {"outcome": "failed", "longrepr": text, "when": phase, "start": start, "stop": now}
        self._add(wire.Report(crash=True, d={**common, **failure, "duration": now - start}))
        if phase != "teardown":
            after = {"outcome": "passed", "longrepr": None, "when": "teardown", "start": now, "stop": now}
            self._add(wire.Report(crash=True, d={**common, **after, "duration": 0.0}))
        self._add(wire.Finished(id=nodeid, location=location))

    def _fail_collecting(self, how: str) -> None:
        nodeid = self._found.collecting
        text = f"{how} while collecting {nodeid}{self._tail(0)}"
        self._add(
            wire.CollectReport(
                d={
                    "$report_type": "CollectReport",
                    "nodeid": nodeid,
                    "outcome": "failed",
                    "longrepr": text,
                    "result": None,
                    "sections": [],
                }
            )
        )

    def _tail(self, start: int) -> str:
        """Return the end of standard error, from the byte `start` on."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(os.path.join(self._folder, "stderr"), flags), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                start = max(0, start, size - _TAIL_BYTES)
                text = os.pread(file.fileno(), _TAIL_BYTES, start).decode("utf-8", "replace").strip()
        except (OSError, ValueError, OverflowError):
            return ""
        lines = text.splitlines()
        if len(lines) > _TAIL_LINES:
            lines = [f"[... {len(lines) - _TAIL_LINES} lines ...]", *lines[-_TAIL_LINES:]]
        return "\n\nThe end of its standard error:\n" + "\n".join(lines) if text else ""

    def _add(self, record: wire.Record) -> None:
        sizes = self._sizes()
        written = {**record.dump(), "sizes": [sizes.get(name, 0) for name in _OUTPUTS]}
        self._found.update(written)
        line = json.dumps(written, separators=(",", ":")).encode() + b"\n"
        with contextlib.suppress(OSError):
            size = os.fstat(self._records).st_size
            if size and os.pread(self._records, 1, size - 1) != b"\n":  # pytest died during a write
                line = b"\n" + line
            os.write(self._records, line)
