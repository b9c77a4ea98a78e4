"""The file of a session's records in the job's container, and pytest's terminal output next to it.

A regular file, opened for appending, with one write per record: it never blocks a test, survives any crash, and works
without a reader. Each record carries the sizes of `terminal`, `stdout` and `stderr` at the time of writing, by which
the reader interleaves them exactly. The code must survive hostile tests: closed and reused file descriptors, forks,
patched modules. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TextIO

# Relative imports: in a container these files are a package of another name (see `boot`).
from ..wire.records import OutputMark, Record, Several

#: Longest captured section in characters; of a longer one the beginning and the end are sent.
SECTION_LIMIT = 1 << 20
#: Limits for a record in bytes and for a text in characters. In a longer record every text is cut; if that is not
#: enough, the text is dropped.
RECORD_LIMIT = 3 << 20
TEXT_LIMIT = 64 << 10
#: Bytes that are buffered while they cannot be written.
LATE_LIMIT = 4 << 20
#: Lowest number of our file descriptors: out of reach of the usual ``closerange(3, 20)``.
_HIGH = 700


class Records:
    """Appends to `records` and `terminal` of the spool folder. A forked child records nothing."""

    def __init__(self, folder: str) -> None:
        """Create this before any other code runs: descriptors 1 and 2 must be the spool's `stdout` and `stderr`."""
        # Bound early: tests patch `os.write`, `json` or the whole file system.
        self._open, self._write, self._fstat, self._getpid = os.open, os.write, os.fstat, os.getpid
        self._flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        # No check for cycles, which takes time: a cycle ends in a RecursionError, which is handled, too.
        self._encode = json.JSONEncoder(separators=(",", ":"), default=plain, check_circular=False).encode
        self._pid = os.getpid()
        self._paths = {name: os.path.join(folder, name) for name in ("records", "terminal")}
        self.path = self._paths["records"]
        self._handles: dict[str, int] = {}
        self._identities: dict[str, tuple[int, int] | None] = {}
        self._folder, self._close = folder, os.close
        self._outputs = [_high_copy(1), _high_copy(2)]
        self._output_files = [self._identity(1), self._identity(2)]
        self._written = (0, 0)
        #: File name -> bytes that could not be written yet.
        self._late = {name: bytearray() for name in self._paths}
        self._held: list[object] = []
        for name in self._paths:
            self._reopen(name)

    def add(self, added: Record) -> None:
        """Append one record. Never raises because of its content."""
        if self._getpid() != self._pid:
            return
        held, self._held = self._held, []
        record = added.dump()
        if held:
            record = Several(of=[*held, record]).dump()
        out, err = self._written = self._output_sizes()
        record["sizes"] = [self._terminal_size(), out, err]
        self._append("records", self._line(record))

    def hold(self, record: Record) -> None:
        """Write this record together with the next one, for records that are only useful with it."""
        self._held.append(record.dump())

    def terminal(self, text: str) -> None:
        """Append to pytest's own output, after all output of the tests since the last record."""
        if self._getpid() != self._pid:
            return
        # Held records are never shown together with this text, so their order does not matter.
        if self._output_sizes() != self._written:
            self.add(OutputMark())
        self._append("terminal", text.encode("utf-8", "backslashreplace"))

    @property
    def is_captured(self) -> bool:
        """Whether pytest captures the output of a test at the moment: file descriptor 1 is redirected."""
        return self._identity(1) not in (self._output_files[0], None)

    def in_place_of(self, stream: TextIO) -> Terminal:
        """Return the file that pytest's terminal writer gets instead of `stream`."""
        return Terminal(self, stream)

    @staticmethod
    def cut(text: str, limit: int = SECTION_LIMIT) -> str:
        """Return `text`, or its first quarter and its end if it is longer than `limit`."""
        if len(text) <= limit:
            return text
        head = limit // 4
        tail = limit - head
        left_out = len(text) - limit
        return f"{text[:head]}\n[... {left_out} characters cut by remote-ci ...]\n{text[-tail:]}"

    def _line(self, record: dict[str, object]) -> bytes:
        try:
            text = self._encode(record)
        except (TypeError, ValueError, RecursionError):  # odd keys, cycles
            text = self._encode(_clean_record(record))
        if len(text) > RECORD_LIMIT:
            length, record = len(text), _clean_record(record, TEXT_LIMIT)
            text = self._encode(record)
            if len(text) > RECORD_LIMIT:
                text = self._encode(_without_text(record, length))
        return text.encode("ascii") + b"\n"

    def _append(self, name: str, data: bytes) -> None:
        late = self._late[name]
        view = memoryview(bytes(late) + data if late else data)
        late.clear()
        try:
            while view:
                view = view[self._write(self._handle(name), view) :]
        except OSError:  # full disk or no descriptor left: continue, and write this later
            if len(view) <= LATE_LIMIT:
                late += view

    def _handle(self, name: str) -> int:
        """Return the file's descriptor; reopen it if a test closed it or reused its number."""
        if name in self._handles and self._identity(self._handles[name]) == self._identities[name]:
            return self._handles[name]
        self._reopen(name)
        return self._handles[name]

    def _reopen(self, name: str) -> None:
        self._handles[name] = _moved_high(self._open(self._paths[name], self._flags, 0o644))
        self._identities[name] = self._identity(self._handles[name])

    def _identity(self, handle: int) -> tuple[int, int] | None:
        try:
            status = self._fstat(handle)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _terminal_size(self) -> int:
        try:
            return self._fstat(self._handle("terminal")).st_size
        except OSError:
            return 0

    def _output_sizes(self) -> tuple[int, int]:
        return self._output_size(0), self._output_size(1)

    def _output_size(self, index: int) -> int:
        try:
            status = self._fstat(self._outputs[index])
            if (status.st_dev, status.st_ino) == self._output_files[index]:
                return status.st_size
        except OSError:
            pass
        return self._read_output_size(index)

    def _read_output_size(self, index: int) -> int:
        """Find the file again after a test closed the descriptor or reused its number; return its size."""
        path = os.path.join(self._folder, ("stdout", "stderr")[index])
        for by_name in (True, False):
            with contextlib.suppress(OSError):
                handle = _moved_high(self._open(path, os.O_RDONLY) if by_name else os.dup(index + 1))
                if self._identity(handle) == self._output_files[index]:
                    self._outputs[index] = handle
                    return self._fstat(handle).st_size
                self._close(handle)
        return self._written[index]


class Terminal:
    """The file that pytest's terminal writer gets instead of standard output."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, records: Records, behind: TextIO) -> None:
        """`behind`: the stream of the tests' output; it is flushed first, to keep the order of the calls."""
        self._records = records
        self._behind = behind

    def write(self, text: str) -> int:
        """Append to `terminal`; while a test's output is captured, write there, as pytest would without us."""
        if self._records.is_captured:
            return self._behind.write(text)
        with contextlib.suppress(Exception):
            self._behind.flush()
        self._records.terminal(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream behind; `terminal` is not buffered."""
        with contextlib.suppress(Exception):
            self._behind.flush()

    def isatty(self) -> bool:
        """Return False, as without us: there is no terminal in a container."""
        return False

    def fileno(self) -> int:
        """Return the descriptor of standard output, which some callers use to find the terminal's size."""
        return self._behind.fileno()


def plain(value: object) -> object:
    """Return a JSON-compatible substitute for a value that JSON does not have."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    try:
        return str(value)
    except Exception as error:  # a hostile __str__
        return f"<unprintable {type(value).__name__}: {type(error).__name__}>"


def clean(value: object, depth: int = 0, limit: int | None = None) -> object:
    """Return the value as far as JSON can represent it, with texts of at most `limit` characters."""
    if depth > 40:
        return "<...>"
    if isinstance(value, str):
        return value if limit is None else Records.cut(value, limit)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, dict):
        return {
            key if isinstance(key, str) else repr(key): clean(item, depth + 1, limit)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [clean(item, depth + 1, limit) for item in value]
    return clean(plain(value), depth + 1, limit)


def _clean_record(record: dict[str, object], limit: int | None = None) -> dict[str, object]:
    return {str(clean(name)): clean(value, 1, limit) for name, value in record.items()}


def _without_text(record: dict[str, object], length: int) -> dict[str, object]:
    parts = record.get("of")
    if isinstance(parts, list):
        return {**record, "of": [_without_text(part, length) for part in parts]}
    note = f"<{length >> 20} MB dropped by remote-ci>"
    result = {key: value for key, value in record.items() if key != "args"}
    result.update({key: empty for key, empty in (("text", note), ("lines", [note])) if key in record})
    data = result.get("d")
    if isinstance(data, dict):
        result["d"] = {**data, "sections": [], "user_properties": [], "longrepr": note}
        result.pop("shared", None)
        result.pop("markup", None)
        result.pop("comparison", None)
    return result


def _high_copy(handle: int) -> int:
    """Return a copy of a descriptor that later redirections do not affect."""
    try:
        import fcntl

        return fcntl.fcntl(handle, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    except (ImportError, OSError, ValueError):
        return os.dup(handle)


def _moved_high(handle: int) -> int:
    moved = _high_copy(handle)
    os.close(handle)
    return moved
