"""Reader of spool files: from a position to events and the next position.

It has no memory, so after a crash it resumes at the position that was stored with the events. The files are written
by untrusted code: they are opened without following links, only regular files count, lines are capped, and invalid
frames are skipped. The format is in docs/internals/index.md.
"""

from __future__ import annotations

import codecs
import contextlib
import datetime as dt
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from ci_runner.controller.spool import records
from ci_runner.controller.spool.masking import NOTHING_TO_MASK, MaskedBytes, Masker
from ci_runner.model import seals
from ci_runner.model.job import JobEvent
from ci_runner.store import SpoolPosition
from pytest_remote_ci.wire import records as wire
from pytest_remote_ci.wire.protocol import LOG_CHUNK_BYTES, LogStream

#: Longer lines are not valid frames and are skipped.
MAX_FRAME_BYTES: Final = 1 << 20
#: Frames per reading, so that one container's flood does not delay others.
MAX_FRAMES: Final = 1000
#: Bytes of output per reading: one transaction stores them.
READ_BYTES: Final = 1 << 20

#: Bytes at the end of the records that are searched for the running test.
_LOOK_BACK: Final = 4 << 20

_SIGNAL = re.compile(r"SIG[A-Z0-9+-]{1,16}\Z")

#: Kinds of frames after which another program writes, or none.
_ENDS: Final = ("again", "exit")

Output = Literal["terminal", "stdout", "stderr"]
SpoolFile = Literal["frames", "records", "terminal", "stdout", "stderr"]
#: In the order of reading: between two records, pytest's own output comes before that of tests.
_OUTPUTS: Final[tuple[Output, ...]] = ("terminal", "stdout", "stderr")
#: Files with sizes in frames.
_SIZED: Final = ("records", *_OUTPUTS)


@dataclass(frozen=True)
class ExitFrame:
    """How the command ended: the worker's last frame."""

    #: None if a signal ended the command.
    code: int | None
    #: Name of that signal.
    signal: str | None = None
    #: Some process of the container was killed for lack of memory.
    oom: bool = False
    #: The worker had been asked to stop.
    stopped: bool = False
    #: How pytest died, if it did; it may have been restarted since.
    died: str | None = None


@dataclass(frozen=True)
class Frame:
    """One line of the worker."""

    #: "" for an invalid line.
    kind: str = ""
    #: Bytes of each file that precede it, as it claims.
    sizes: Mapping[str, int] = field(default_factory=dict)
    #: Of an exit frame.
    exit: ExitFrame | None = None


@dataclass(frozen=True)
class Reading:
    """The result of reading a spool once."""

    events: tuple[JobEvent, ...]
    position: SpoolPosition
    #: The command runs, or has run.
    started: bool = False
    #: Only from the frames of this reading; `final_frame` returns the whole spool's.
    exit: ExitFrame | None = None
    #: More can be read at once.
    more: bool = False
    #: There is output without a frame.
    behind: bool = False


class Spool:
    """The files of one spool folder, each opened once it exists. Not thread-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[SpoolFile, int] = {}

    def size(self, name: SpoolFile) -> int:
        """Return the current size in bytes; 0 if there is no such regular file."""
        handle = self._open(name)
        return os.fstat(handle).st_size if handle is not None else 0

    def read(self, name: SpoolFile, offset: int, length: int) -> bytes:
        """Return at most `length` bytes from `offset`; fewer at the end."""
        handle = self._open(name)
        return os.pread(handle, length, offset) if handle is not None and length > 0 else b""

    def key(self) -> str | None:
        """Return the key of the worker's seal; None without one, as in attempts that an older version began."""
        with contextlib.suppress(OSError, ValueError):
            key = (self._folder.parent / "seal").read_text()
            return key if seals.is_key(key) else None
        return None

    def close(self) -> None:
        """Close the open files; the next call opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def _open(self, name: SpoolFile) -> int | None:
        if name in self._files:
            return self._files[name]
        with contextlib.suppress(OSError):
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                handle = os.open(name, flags, dir_fd=folder)
            finally:
                os.close(folder)
            if stat.S_ISREG(os.fstat(handle).st_mode):
                self._files[name] = handle
                return handle
            os.close(handle)
        return None


def read(
    spool: Spool,
    position: SpoolPosition,
    *,
    now: dt.datetime,
    over: bool = False,
    impatient: bool = False,
    discard: bool = False,
    masker: Masker = NOTHING_TO_MASK,
) -> Reading:
    """Return the next events after `position`.

    Output is read up to the sizes in the newest frame, so that output and frames interleave exactly. `over`: nothing
    will be added, read everything. `impatient`: no frame came for a while, read all that exists. `discard`: skip the
    output without making events. `masker`: masks secrets in the events; the end of an output that could begin a
    secret is left for later.
    """
    # Read sizes first: later growth belongs to a later frame.
    sizes: dict[str, int] = {name: spool.size(name) for name in _OUTPUTS}
    taking = _Taking(spool, position, now, discard, masker)
    frames, more = _frames(spool, position.frames)
    started, ending = False, None
    for end, frame in frames:
        goals = {name: min(frame.sizes.get(name, 0), size) for name, size in sizes.items()}
        if not taking.records(frame.sizes.get("records", 0)) or not taking.advance(
            goals, last=False, ends=frame.kind in _ENDS
        ):
            events = tuple(masker.events(taking.events))
            return Reading(events, taking.position, started, ending, more=True)
        taking.position = replace(taking.position, frames=end)
        ending = frame.exit or ending
        started = started or frame.kind == "started" or ending is not None
    if not more:  # each record states itself what comes before it, so it needs no frame
        more = not taking.records(spool.size("records"), last=over)
    if not more and (over or impatient):
        more = not taking.advance(sizes, last=over, ends=over)
    behind = any(taking.is_behind(name, sizes[name]) for name in _OUTPUTS)
    return Reading(tuple(masker.events(taking.events)), taking.position, started, ending, more, behind)


def final_frame(spool: Spool, *, over: bool) -> ExitFrame | None:
    """Return the exit frame if it is the last complete line; without it the container is lost.

    It counts only with the worker's seal; if the worker has none, only once the container is `over`.
    """
    size = spool.size("frames")
    start = max(0, size - 65536)
    lines = spool.read("frames", start, size - start).split(b"\n")
    if len(lines) < 2:
        return None
    key = spool.key()
    if not (over if key is None else seals.is_sealed(lines[-2], key)):
        return None
    return parse_frame(lines[-2]).exit


def parse_frame(line: bytes) -> Frame:
    """Return the frame of one line; an empty one for an invalid line."""
    raw = _parse(line)
    kind = raw.get("t")
    if not isinstance(kind, str):
        return Frame()
    sizes = {name: size for name in _SIZED if type(size := raw.get(name)) is int}
    return Frame(kind, sizes, _exit_of(raw) if kind == "exit" else None)


def _exit_of(frame: Mapping[str, object]) -> ExitFrame | None:
    code, name, died = frame.get("code"), frame.get("signal"), frame.get("died")
    if type(code) is not int or not 0 <= code <= 255:
        code = None
    if not (isinstance(name, str) and _SIGNAL.match(name)):
        name = None
    if code is None and name is None:
        return None
    died = died if isinstance(died, str) and died else None
    return ExitFrame(code, name, bool(frame.get("oom")), bool(frame.get("stopped")), died)


def running_test(spool: Spool) -> str | None:
    """Return the test that was last started and not finished, by the last records."""
    size = spool.size("records")
    start = max(0, size - _LOOK_BACK)
    ended: set[str] = set()
    for line in reversed(spool.read("records", start, size - start).split(b"\n")[:-1]):
        for raw in reversed(wire.parts_of(_parse(line))):
            kind = wire.kind_of(raw)
            if kind in (wire.Died, wire.Collected):
                return None
            with contextlib.suppress(wire.RecordError):
                if kind is wire.Finished:
                    ended.add(wire.Finished.parse(raw).id)
                elif kind is wire.Started and (nodeid := wire.Started.parse(raw).id) not in ended:
                    return nodeid
    return None


@dataclass
class _Taking:
    """Turns output and records into events until the reading is full."""

    spool: Spool
    position: SpoolPosition
    now: dt.datetime
    #: Skip output; records have a limit of their own.
    discard: bool
    masker: Masker
    events: list[JobEvent] = field(default_factory=list)
    left: int = READ_BYTES

    def advance(self, goals: dict[str, int], *, last: bool, ends: bool) -> bool:
        """Read all outputs up to `goals`; return False if the reading is full before that.

        `ends`: another program writes afterwards, so nothing is withheld.
        """
        reached = [self._stream(name, goals[name], last, ends) for name in _OUTPUTS]
        return all(reached)

    def records(self, goal: int, *, last: bool = False) -> bool:
        """Read records up to the byte `goal`, each after the output that precedes it; return False if full.

        An unfinished line is left for later, unless nothing will be added (`last`).
        """
        goal = min(goal, self.spool.size("records"))
        while self.position.records < goal:
            start = self.position.records
            data = self.spool.read("records", start, min(goal - start, records.MAX_RECORD_BYTES))
            whole = data.rfind(b"\n") + 1
            if not whole:
                if not last and len(data) < records.MAX_RECORD_BYTES:
                    return True
                self.position = replace(self.position, records=start + (len(data) or goal - start))
            for line in data[:whole].split(b"\n")[:-1]:
                if not self._record(line):
                    return False
        return True

    def _record(self, line: bytes) -> bool:
        record = records.parse(line, self.now)
        sizes, position = record.sizes, self.position
        # pytest's own output may wait until tests write something: it and records are never shown together.
        if sizes.get("stdout", 0) > position.stdout or sizes.get("stderr", 0) > position.stderr:
            goals: dict[str, int] = {
                name: min(sizes.get(name, 0), self.spool.size(name)) for name in _OUTPUTS
            }
            if not self.advance(goals, last=False, ends=True):
                return False
        if self.left <= 0:
            return False
        end = self.position.records + len(line) + 1
        if end > records.KEPT_BYTES:
            if self.position.records <= records.KEPT_BYTES:
                self.events.append(records.truncated(self.now))
        elif record.event is not None:
            self.events.append(record.event)
        self.left -= len(line)
        self.position = replace(self.position, records=end)
        return True

    def _stream(self, name: Output, goal: int, last: bool, ends: bool) -> bool:
        start: int = getattr(self.position, name)
        if goal <= start:
            return True
        if self.discard:
            self.position = replace(self.position, **{name: goal})
            return True
        data = self.spool.read(name, start, min(goal - start, max(self.left, 0)))
        full = len(data) < goal - start and len(data) == max(self.left, 0)
        shown = self._masked(data, ends and not full)
        used = 0
        for text, length in pieces(shown.data, last=last and not full, follows=full):
            self.events.append(
                JobEvent("log", text, timestamp=self.now, fields={"stream": self._label(name)})
            )
            used += length
        used = shown.read(used)
        self.left -= used
        self.position = replace(self.position, **{name: start + used})
        return not full

    def is_behind(self, name: Output, size: int) -> bool:
        """Return whether output of that size has unread bytes other than withheld ones."""
        start: int = getattr(self.position, name)
        if not self.masker or not 0 < size - start < self.masker.longest:
            return size > start
        data = self.spool.read(name, start, size - start)
        return self.masker.withheld(data) < len(data)

    def _masked(self, data: bytes, ends: bool) -> MaskedBytes:
        if not self.masker:
            return MaskedBytes(data, ())
        withheld = 0 if ends else self.masker.withheld(data)
        return self.masker.data(data[: len(data) - withheld])

    def _label(self, name: Output) -> LogStream:
        """Return the stream's label: without records, pytest's own output is on `stdout`, like all other."""
        return "terminal" if name == "stdout" and not self.position.records else name


def pieces(data: bytes, *, last: bool, follows: bool = False) -> Iterator[tuple[str, int]]:
    """Yield texts of at most `LOG_CHUNK_BYTES` of UTF-8, each with the number of raw bytes that it stands for.

    Cut at the last line end if there is one, and never inside a character; invalid UTF-8 becomes U+FFFD. An
    unfinished character at the end is left for later, unless this is the `last` of its stream. `follows`: more output
    exists already, so the end of `data` is an arbitrary place to cut.
    """
    start = 0
    while start < len(data):
        window = data[start : start + LOG_CHUNK_BYTES]
        whole = start + len(window) == len(data)
        if not whole or follows:
            line_end = window.rfind(b"\n") + 1
            if whole and not line_end and start:
                return  # the rest of a line that the next reading completes
            window = window[:line_end] or window
            whole = start + len(window) == len(data)
        text, used = _decode(window, final=whole and last)
        if len(text.encode()) > LOG_CHUNK_BYTES:  # U+FFFD is three bytes for one
            text, used = _decode(window[: LOG_CHUNK_BYTES // 3], final=False)
        if used == 0:
            return
        yield text, used
        start += used


def _decode(data: bytes, *, final: bool) -> tuple[str, int]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final)
    return text, len(data) - len(decoder.getstate()[0])


def _frames(spool: Spool, start: int) -> tuple[list[tuple[int, Frame]], bool]:
    """Return complete lines from `start` as (offset after the line, frame), and whether there are more."""
    data = spool.read("frames", start, MAX_FRAME_BYTES)
    full = len(data) == MAX_FRAME_BYTES
    end = data.rfind(b"\n") + 1
    if end == 0:
        return ([(start + len(data), Frame())], True) if full else ([], False)
    frames: list[tuple[int, Frame]] = []
    offset = 0
    while offset < end and len(frames) < MAX_FRAMES:
        line_end = data.index(b"\n", offset) + 1
        frames.append((start + line_end, parse_frame(data[offset:line_end])))
        offset = line_end
    return frames, full or offset < end


def _parse(line: bytes) -> Mapping[str, object]:
    """Return the object of one line of JSON; an empty one for an invalid line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
