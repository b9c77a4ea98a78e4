"""Records: what a job's recorder writes about a pytest session, one class per kind.

A kind's fields, their types and the values that a reader accepts stand here once; docs/reference/wire.md describes
them for people. Writers dump records (`Record.dump`), readers parse them (`parse`, `Record.parse`). A field whose
default is None is left out while it is None. Readers ignore unknown keys and kinds, and read an absent field as its
default, or as None if it may be null.

This module also runs inside a job's container, next to the modules of `pytest_remote_ci.job`: standard library only,
for CPython 3.8 and newer, without imports from the rest of the package.
"""

from __future__ import annotations

import math
from typing import (
    TYPE_CHECKING,
    Callable,
    ClassVar,
    Dict,
    Final,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: object) -> Callable[[type], type]:
        """Return a decorator that changes nothing."""
        return lambda made: made


#: Newest version of the format. A reader understands all older ones.
VERSION = 2

#: Largest whole number in a record, as in all JSON that JavaScript reads, too.
_LARGEST = 1 << 53

#: Largest number of tests.
_MOST_TESTS = 10_000_000

#: A number of tests.
Count = int
#: File, line from 0 and name of a test.
Location = Tuple[str, Optional[int], str]
#: A path and a line.
Place = Tuple[str, int]
#: Title and text of captured output.
Section = Tuple[str, str]
#: ["literal", Python's notation] or ["text", text] of a value that JSON would change.
Value = Tuple[str, str]
#: Category, letter, and the word, maybe with its markup, that pytest shows for a report.
Status = Tuple[str, str, Union[str, Tuple[str, Dict[str, object]]]]
#: A mark's name and its keyword arguments that are text, numbers, booleans or null.
MarkData = Tuple[str, Dict[str, object]]
#: A report as pytest itself serializes it; plugins add fields. Only `nodeid` is checked.
ReportData = Dict[str, object]

#: In place of an absent field: it must be there; it is null; it has its default.
_MISSING: Final = object()
_NULL: Final = object()
_DEFAULT: Final = object()

_R = TypeVar("_R", bound="Record")


class RecordError(ValueError):
    """A record has a field of another type, or lacks one. The message is one line."""


class TreeNode(NamedTuple):
    """A collector: nodes are numbered from 0 in the order in which they are sent, each before its children."""

    #: The parent's number; -1 for the session.
    parent: int
    type: str
    name: str
    nodeid: str
    #: Relative to the rootdir.
    path: str
    #: "Class", "Module", "File" or "Dir".
    base: str
    doc: str | None


class FoundItem(NamedTuple):
    """A test that a collector found; numbered from -1 downwards."""

    parent: int
    type: str
    name: str
    line: int | None
    #: None if it is the parent's node id, "::" and the name.
    nodeid: str | None


class TreeItem(NamedTuple):
    """A test that will run."""

    parent: int
    type: str
    name: str
    nodeid: str
    location: Location
    has_parameters: bool
    original_name: str | None
    is_skipped: bool
    doc: str | None
    marks: tuple[MarkData, ...] = ()

    def dump(self) -> tuple[object, ...]:
        """Return the values to write: the marks are left out when there are none."""
        return self if self.marks else self[:-1]


# -- checks: each returns the checked value, or raises `RecordError` with what it must be


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise RecordError("must be text")


def _whole(value: object) -> int:
    if type(value) is int and -_LARGEST <= value <= _LARGEST:
        return value
    raise RecordError("must be a whole number")


def _count(value: object) -> Count:
    if type(value) is int and 0 <= value <= _MOST_TESTS:
        return value
    raise RecordError("must be a number of tests")


def _number(value: object) -> float:
    if type(value) is float and -math.inf < value < math.inf:
        return value
    return _whole(value)


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise RecordError("must be true or false")


def _list(value: object) -> list[object]:
    if isinstance(value, (list, tuple)):
        return list(value)
    raise RecordError("must be a list")


def _object(value: object) -> dict[str, object]:
    if isinstance(value, dict):
        return value
    raise RecordError("must be an object")


def _first(value: object, count: int) -> list[object]:
    """Return the first `count` values of a list; newer writers can append more."""
    if isinstance(value, (list, tuple)) and len(value) >= count:
        return list(value[:count])
    raise RecordError(f"must be a list of {count} values")


def _list_of(check: Callable[[object], object]) -> Callable[[object], list[object]]:
    def checked(value: object) -> list[object]:
        return [check(item) for item in _list(value)]

    return checked


def _optional(check: Callable[[object], object]) -> Callable[[object], object]:
    def checked(value: object) -> object:
        return None if value is None else check(value)

    return checked


def _location(value: object) -> Location:
    if isinstance(value, (list, tuple)) and len(value) == 3:
        path, line, name = value
        if isinstance(path, str) and isinstance(name, str):
            return path, _line_or_none(line), name
    raise RecordError("must be file, line and name")


def _line_or_none(value: object) -> int | None:
    """Return a line; None for anything else, because a plugin's item can have any line."""
    return value if type(value) is int and -_LARGEST <= value <= _LARGEST else None


def _place(value: object) -> Place:
    path, line = _first(value, 2)
    return _text(path), _whole(line)


def _pair(value: object) -> tuple[str, str]:
    first, second = _first(value, 2)
    return _text(first), _text(second)


def _values(value: object) -> dict[int, Value]:
    found = {}
    for index, pair in _object(value).items():
        if not (index.isdecimal() and len(index) < 10):
            raise RecordError("must be an object whose keys are numbers")
        found[int(index)] = _pair(pair)
    return found


def _status(value: object) -> Status:
    category, letter, word = _first(value, 3)
    if isinstance(word, str):
        return _text(category), _text(letter), word
    shown, markup = _first(word, 2)
    return _text(category), _text(letter), (_text(shown), _object(markup))


def _report_data(value: object) -> ReportData:
    data = _object(value)
    if not isinstance(data.get("nodeid"), str):
        raise RecordError("must be a report with a node id")
    return data


def _property(value: object) -> tuple[str, object]:
    name, given = _first(value, 2)
    return _text(name), given


def _mark(value: object) -> MarkData:
    name, arguments = _first(value, 2)
    return _text(name), _object(arguments)


def _texts(*values: object) -> None:
    for value in values:
        if type(value) is not str:
            _text(value)


def _node(value: object) -> TreeNode:
    values = _first(value, 7)
    parent, kind, name, nodeid, path, base, doc = values
    _whole(parent)
    _texts(kind, name, nodeid, path, base, "" if doc is None else doc)
    return TreeNode._make(values)


def _found_item(value: object) -> FoundItem:
    parent, kind, name, line, nodeid = _first(value, 5)
    _texts(kind, name, "" if nodeid is None else nodeid)
    return FoundItem._make((_whole(parent), kind, name, _line_or_none(line), nodeid))


def _item(value: object) -> TreeItem:
    values = _list(value)
    parent, kind, name, nodeid, location, has_parameters, original, is_skipped, doc = _first(values, 9)
    _texts(kind, name, nodeid, "" if doc is None else doc)
    return TreeItem._make(
        (
            _whole(parent),
            kind,
            name,
            nodeid,
            _location(location),
            bool(has_parameters),
            original if isinstance(original, str) else None,
            bool(is_skipped),
            doc,
            tuple(map(_mark, _list(values[9]))) if len(values) > 9 else (),
        )
    )


#: Annotation of a field → its check.
_CHECKS: dict[str, Callable[[object], object]] = {
    "str": _text,
    "int": _whole,
    "Count": _count,
    "float": _number,
    "bool": _flag,
    "Location": _location,
    "Place": _place,
    "Status": _status,
    "ReportData": _report_data,
    "dict[str, object]": _object,
    "dict[int, Value]": _values,
    "list[object]": _list,
    "list[str]": _list_of(_text),
    "list[int]": _list_of(_whole),
    "list[Section]": _list_of(_pair),
    "list[Value]": _list_of(_pair),
    "list[tuple[str, object]]": _list_of(_property),
    "list[TreeNode]": _list_of(_node),
    "list[FoundItem]": _list_of(_found_item),
    "list[TreeItem]": _list_of(_item),
    "list[dict[str, object]]": _list_of(_object),
}

#: Annotation of a field → the type whose values all pass the check.
_ALWAYS_VALID: dict[str, type] = {"str": str, "bool": bool}

#: Kind → its class.
KINDS: dict[str, type[Record]] = {}


@dataclass_transform(kw_only_default=True)
class Record:
    """Base of all records, which are dataclasses to type checkers. Do not change one after it was made.

    The standard library's decorator takes 10 ms for all of them, in every job and in every client. A field that was
    not given has its default as an attribute of the class, so that small records of a kind with many fields are quick
    to make.
    """

    #: The record's `t`.
    kind: ClassVar[str]
    #: Type of the event in which clients get it; "" if only the runner reads it.
    event_type: ClassVar[str]
    #: First version of the format that has the kind.
    since: ClassVar[int]
    #: Fields that are left out while they are None.
    _left_out: ClassVar[frozenset[str]]
    #: Of each field: name, the type whose values need no check, the check, what stands for an absent one.
    _fields: ClassVar[tuple[tuple[str, type | None, Callable[[object], object], object], ...]]

    def __init_subclass__(cls, kind: str, event_type: str = "", since: int = 1) -> None:
        """Register a kind."""
        cls.kind, cls.event_type, cls.since = kind, event_type, since
        KINDS[kind] = cls
        members, fields, left_out = cls.__dict__, [], []
        for name, annotation in cls.__annotations__.items() if "__annotations__" in members else ():
            plain, _, null = annotation.partition(" | ")
            if name not in members:
                absent = _NULL if null else _MISSING
            elif members[name] is None:
                absent = None
                left_out.append(name)
            else:
                absent = _DEFAULT
            check = _optional(_CHECKS[plain]) if null else _CHECKS[plain]
            fields.append((name, _ALWAYS_VALID.get(plain), check, absent))
        cls._fields, cls._left_out = tuple(fields), frozenset(left_out)

    def __init__(self, **fields: object) -> None:
        self.__dict__ = fields

    @classmethod
    def parse(cls: type[_R], raw: Mapping[str, object]) -> _R:
        """Return the record with these fields. Raises `RecordError`."""
        made = cls.__new__(cls)
        values = made.__dict__
        name = ""
        try:
            for name, valid, check, absent in cls._fields:
                value = raw.get(name, absent)
                if type(value) is valid:
                    values[name] = value
                elif value is not absent:
                    values[name] = check(value)
                elif value is _MISSING:
                    raise RecordError("is missing")
                elif value is _NULL:
                    values[name] = None
        except RecordError as error:
            raise RecordError(f"a record of kind {cls.kind!r} makes no sense: {name} {error}") from None
        return made

    def dump(self) -> dict[str, object]:
        """Return the record as it is written in JSON."""
        record: dict[str, object] = {"t": self.kind}
        left_out = self._left_out
        for name, value in self.__dict__.items():
            if value is not None or name not in left_out:
                record[name] = value
        return record

    def replace(self: _R, **fields: object) -> _R:
        """Return the record with other values in these fields."""
        made = type(self).__new__(type(self))
        made.__dict__ = {**self.__dict__, **fields}
        return made

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            getattr(self, name, None) == getattr(other, name, None) for name, _, _, _ in self._fields
        )

    __hash__ = None  # type: ignore[assignment]  # changeable, so it cannot be hashed

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.dump()})"


class Recorder(Record, kind="recorder", event_type="session"):
    """The recorder works; written before everything else."""

    protocol: int
    cwd: str = ""


class Unavailable(Record, kind="unavailable", event_type="session"):
    """The session cannot be recorded: no more records follow."""

    reason: str


class Session(Record, kind="session", event_type="session"):
    """The session begins."""

    protocol: int
    pytest: str
    python: str
    rootdir: str
    #: Whether xdist distributes the tests.
    xdist: bool = False
    at: float = 0.0
    #: 0 for no limit; null from recorders beside a pytest that has no default.
    maxfail: int | None = 0
    #: The environment as pytest-metadata has it.
    metadata: dict[str, object] | None = None
    #: Whether pytest-cov measures.
    measured: bool = False
    plugins: list[str] | None = None


class Header(Record, kind="header", event_type="session"):
    """The lines below "test session starts"."""

    lines: list[str]


class Collecting(Record, kind="collecting", event_type="session"):
    """Command line and initial conftests were valid: collection begins."""


class CollectingFile(Record, kind="collecting_file"):
    """This file is being imported."""

    id: str


class JunitProperties(Record, kind="junit", event_type="session"):
    """Properties of the whole JUnit report."""

    properties: list[tuple[str, object]]


class JunitAttribute(Record, kind="junit_attribute", event_type="session"):
    """An attribute of a test in the JUnit report."""

    id: str
    name: str
    value: str


class WorkerLine(Record, kind="worker", event_type="session"):
    """A worker of xdist, with the line that describes it."""

    id: str
    line: str


class TestsOver(Record, kind="tests_over", event_type="session"):
    """The tests are over; if the session was stopped early, the reason."""

    __test__ = False

    shouldfail: str | None
    shouldstop: str | None


class Summary(Record, kind="summary", event_type="session"):
    """The summary begins; `metadata` if it has changed since the session began."""

    metadata: dict[str, object] | None = None


class End(Record, kind="end", event_type="session"):
    """The session is over. `cache`: name → content of files in pytest's cache."""

    exitstatus: int
    cache: dict[str, object] | None = None


class Returned(Record, kind="returned"):
    """pytest itself returned this exit status."""

    exitstatus: int


class Refused(Record, kind="refused", event_type="session"):
    """pytest refused its arguments or settings (exit status 4)."""

    #: Names of the distributions with pytest plugins.
    plugins: list[str]


class Interrupt(Record, kind="interrupt", event_type="session"):
    """Ctrl-C, `pytest.exit` or the like ended the session."""

    #: The exception's class and its module.
    name: str
    module: str
    message: str
    code: int | None
    at: Place | None


class InternalError(Record, kind="internal_error", event_type="session"):
    """pytest or a plugin had an internal error."""

    text: str
    exception: str


class Stopped(Record, kind="stopped", event_type="session"):
    """The job was asked to stop: what follows is the end of an interrupted pytest."""


class Died(Record, kind="died", event_type="session"):
    """How pytest died, and during which test."""

    text: str
    #: Whether it is started again for the rest.
    again: bool
    #: The job had been asked to stop.
    stopped: bool | None = None
    #: What the running test had written, in a job that was asked to stop.
    sections: list[Section] | None = None
    #: It died while collecting.
    collecting: bool | None = None


class Note(Record, kind="note", event_type="session"):
    """A line for people."""

    text: str


class Truncated(Record, kind="truncated", event_type="session"):
    """The runner keeps no more records of this job. Made by the runner."""


class OutputMark(Record, kind="mark"):
    """Only orders pytest's output and that of tests."""


class _PytestReport:
    """Values of a report that pytest itself serialized."""

    d: ReportData

    @property
    def nodeid(self) -> str:
        """The node id, which is always there."""
        return str(self.d["nodeid"])

    @property
    def outcome(self) -> str:
        """The outcome: "passed", "failed", "skipped", or another one of a plugin."""
        return str(self.d.get("outcome"))

    @property
    def when(self) -> str:
        """The phase: "setup", "call", "teardown", or another one of a plugin."""
        return str(self.d.get("when"))

    @property
    def message(self) -> str:
        """The message of the exception; of a failure that is only text, the whole text."""
        longrepr = self.d.get("longrepr")
        crash = longrepr.get("reprcrash") if isinstance(longrepr, dict) else None
        if isinstance(crash, dict):
            return str(crash.get("message"))
        return longrepr if isinstance(longrepr, str) else ""


class CollectReport(_PytestReport, Record, kind="collect_report", event_type="collected"):
    """The report of a collector; of one that passed also what it found."""

    d: ReportData
    nodes: list[TreeNode] | None = None
    items: list[FoundItem] | None = None
    #: Numbers of nodes and items.
    found: list[int] | None = None
    flattened: str | None = None
    markup: str | None = None
    worker: str | None = None


class Deselected(Record, kind="deselected", event_type="collected"):
    """Deselected tests; `found` is None if their numbers are unknown."""

    count: Count
    found: list[int] | None


class Tree(Record, kind="tree", event_type="collected"):
    """A portion of the tests that will run, with the collectors above them."""

    nodes: list[TreeNode]
    items: list[TreeItem]

    def dump(self) -> dict[str, object]:
        """Return the record as it is written in JSON."""
        return {"t": self.kind, "nodes": self.nodes, "items": [item.dump() for item in self.items]}


class Collected(Record, kind="collected", event_type="collected"):
    """All tests that will run are known."""

    count: Count


class CollectedIds(Record, kind="collected_ids", event_type="collected"):
    """Node ids of the tests that xdist's workers will run."""

    ids: list[str]


class CollectionLines(Record, kind="collection_lines", event_type="collected"):
    """Lines such as "run-last-failure: …"."""

    lines: list[str]


class Started(Record, kind="started", event_type="started"):
    """A test begins."""

    id: str
    location: Location
    at: float = 0.0


class Finished(Record, kind="finished", event_type="finished"):
    """A test is over."""

    id: str
    location: Location


class Report(_PytestReport, Record, kind="report", event_type="report"):
    """The report of a phase, without what equals the test's previous phase."""

    d: ReportData
    #: True of the reports that a test did not live to get.
    crash: bool | None = None
    #: Type and coloured text of a representation that became text.
    flattened: str | None = None
    markup: str | None = None
    #: Worker of xdist.
    worker: str | None = None
    #: The status if it is not the ordinary one.
    status: Status | None = None
    #: It came while a test's output was captured.
    unseen: bool | None = None
    #: Log records of the phase, for pytest-json-report.
    logs: list[object] | None = None
    #: Number of leading sections that equal those of the previous phase.
    shared: int | None = None
    #: Index of a user property → its value, if JSON would change it.
    values: dict[int, Value] | None = None


class Passed(Record, kind="passed", event_type="report", since=2):
    """The report of a phase that only passed."""

    id: str
    when: str
    duration: float | None = None
    start: float | None = None
    stop: float | None = None
    #: Where they are not those of the test's start or of its previous phase.
    location: Location | None = None
    keywords: list[str] | None = None


class LogPiece(Record, kind="logs", event_type="report"):
    """A piece of the log records of the phase whose report follows: all pieces together are a list in JSON."""

    id: str
    when: str
    text: str


class RaisedException(Record, kind="exception", event_type="report"):
    """An exception that ended a phase or, before its report, a collector."""

    id: str
    when: str | None
    name: str
    text: str
    nodes: list[TreeNode] | None = None
    items: list[FoundItem] | None = None
    found: list[int] | None = None


class Compared(Record, kind="compared", event_type="report"):
    """Two compared values, for editors."""

    operator: str
    operands: list[Value]


class Several(Record, kind="several", event_type="report"):
    """Records that were written together, of any type, in their order."""

    of: list[object]


class RecordedWarning(Record, kind="warning", event_type="warning"):
    """A warning."""

    message: str
    #: The category's class, its module, and its builtin bases.
    name: str
    module: str
    bases: list[str]
    file: str
    lineno: int
    line: str | None
    when: str
    id: str
    location: Location | None


class TerminalCall(Record, kind="terminal", event_type="section"):
    """A call that a plugin made to the terminal reporter ("tr") or its writer ("tw")."""

    target: str
    method: str
    args: list[object]
    kwargs: dict[str, object]
    unseen: bool | None = None


def kind_of(raw: Mapping[str, object]) -> type[Record] | None:
    """Return the class of a record, or None if its kind is unknown."""
    kind = raw.get("t")
    return KINDS.get(kind) if isinstance(kind, str) else None


def parse(raw: Mapping[str, object]) -> Record | None:
    """Return the record, or None if its kind is unknown. Raises `RecordError`."""
    known = kind_of(raw)
    return None if known is None else known.parse(raw)


def parts_of(raw: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the record, or the records that were written together with it."""
    of = raw.get("of") if raw.get("t") == Several.kind else None
    return [part for part in of if isinstance(part, dict)] if isinstance(of, list) else [raw]
