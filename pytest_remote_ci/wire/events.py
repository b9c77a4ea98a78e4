"""Events: what the stream of a job or a run sends, read through types. docs/reference/wire.md describes them.

An event may come from a newer runner, so unknown types and keys are ignored, and a missing value is read as None or "".
Records (`pytest_remote_ci.wire.records`) travel in events; they are parsed when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

from pytest_remote_ci.wire import records
from pytest_remote_ci.wire.records import Record, RecordError
from pytest_remote_ci.wire.timing import Timing

#: Fields that the events of a batch have in common.
_COMMON = ("type", "timestamp", "job", "job_id")


class Event:
    """One event. Do not change it after it was made."""

    __slots__ = ("_record", "fields", "kind", "type")

    def __init__(self, fields: Mapping[str, object]) -> None:
        #: The event as it was sent.
        self.fields = fields
        #: Its type; "" if it has none.
        self.type = _text(fields.get("type"))
        #: The kind of its record; None if it has none.
        self.kind = _text(fields.get("t")) or None
        self._record: Record | None = None

    @classmethod
    def of(cls, record: Record, timestamp: str = "") -> Event:
        """Return an event that has only a record."""
        event = cls({"type": record.event_type, "t": record.kind, "timestamp": timestamp})
        event._record = record
        return event

    @property
    def record(self) -> Record | None:
        """The record; None if there is none, or its kind is unknown. Raises `RecordError`."""
        if self._record is None and self.kind is not None:
            self._record = records.parse(self.fields)
        return self._record

    @property
    def valid_record(self) -> Record | None:
        """The same, but None for an invalid one."""
        try:
            return self.record
        except RecordError:
            return None

    @property
    def nodeid(self) -> str | None:
        """Node id of the test or collector that the record belongs to; None if there is none."""
        record = self.valid_record
        if isinstance(record, (records.Report, records.CollectReport)):
            return str(record.d["nodeid"])
        return _text(getattr(record, "id", None)) or None

    @property
    def seq(self) -> int:
        """Its number in its job or run; 0 if it has none."""
        number = self.fields.get("seq")
        return number if type(number) is int else 0

    @property
    def timestamp(self) -> str:
        """When it happened, in RFC 3339."""
        return _text(self.fields.get("timestamp"))

    @property
    def job(self) -> str:
        """Name of the job, in the stream of a run."""
        return _text(self.fields.get("job"))

    @property
    def job_id(self) -> str:
        """Id of the job's attempt, in the stream of a run."""
        return _text(self.fields.get("job_id"))

    @property
    def text(self) -> str:
        """The text of a log."""
        return str(self.fields.get("data") or "")

    @property
    def stream(self) -> str | None:
        """The stream of a log: "terminal", "stdout", "stderr", "runner"; None from the reference's runner."""
        return _text(self.fields.get("stream")) or None

    @property
    def phase(self) -> str:
        """The new phase of a job."""
        return _text(self.fields.get("phase"))

    @property
    def queue_position(self) -> object:
        """The place of a queued job."""
        return self.fields.get("queue_position")

    @property
    def detail(self) -> str:
        """What a job does in its phase."""
        return str(self.fields.get("detail") or "")

    @property
    def status(self) -> str:
        """The final status of a job."""
        return _text(self.fields.get("status"))

    @property
    def reason(self) -> str:
        """Why a job ended without a verdict."""
        return str(self.fields.get("reason") or "")

    @property
    def exit_code(self) -> int | None:
        """The exit code of a job's command."""
        code = self.fields.get("exit_code")
        return code if type(code) is int else None

    @property
    def is_cancelled(self) -> bool:
        """Whether the job was cancelled."""
        return self.status == "cancelled" or bool(self.fields.get("cancelled"))

    @property
    def has_artifacts(self) -> bool:
        """Whether the job that is over has artifacts."""
        return bool(self.fields.get("artifacts"))

    @property
    def has_changes(self) -> bool:
        """Whether the job that is over changed files of the project."""
        return bool(self.fields.get("changes"))

    @property
    def artifacts_folder(self) -> str | None:
        """The folder of these artifacts in the job, "" if unknown; None if there are none."""
        found = self.fields.get("artifacts")
        return str(found.get("root") or "") if isinstance(found, dict) else None

    @property
    def timing(self) -> Timing | None:
        """How long the phases of the job that is over took; None from runners that do not measure."""
        return Timing.parse(self.fields.get("timing"))

    @property
    def has_passed(self) -> bool:
        """Whether the job passed."""
        return bool(self.fields.get("success"))

    def with_stream(self, stream: str) -> Event:
        """Return a log as one of another stream."""
        return Event({**self.fields, "stream": stream})

    def with_text(self, text: str) -> Event:
        """Return a log with another text."""
        return Event({**self.fields, "data": text})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and (self.fields, self.valid_record) == (
            other.fields,
            other.valid_record,
        )

    __hash__ = None  # type: ignore[assignment]  # changeable, so it cannot be hashed

    def __repr__(self) -> str:
        return f"Event({self.fields})"


def events_of(fields: Mapping[str, object]) -> list[Event]:
    """Return the event, or the events batched in it; drop parts that are not events, because tests can write them."""
    parts = fields.get("of") if fields.get("t") == records.Several.kind else None
    if not isinstance(parts, list):
        return [Event(fields)]
    common = {name: fields[name] for name in _COMMON if name in fields}
    found = [part for part in parts if isinstance(part, dict)]
    for part in found:
        part.update(common)
    return [Event(part) for part in found] or [Event(fields)]


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
