"""The tables as Peewee models, and the conversion of their columns to Python values.

Models are private to the package and not bound to a database: each query is executed on a given `Database`, so that
one process can have several stores. The tables are made by `migrations`; a test compares both.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeVar, cast

import peewee

from ci_runner.model.job import as_utc
from ci_runner.model.job_options import JobOptions

RowT = TypeVar("RowT", bound=Mapping[str, object])

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


def to_micros(moment: dt.datetime) -> int:
    """Return microseconds since 1970 in UTC: same number, order and index on every database."""
    if moment.tzinfo is None:
        moment = as_utc(moment)
    return (moment - _EPOCH) // dt.timedelta(microseconds=1)


def from_micros(micros: int) -> dt.datetime:
    """Return the inverse of `to_micros`."""
    return _EPOCH + dt.timedelta(microseconds=micros)


#: Made once: `json.dumps` with options makes an encoder in each call.
_encode: Final = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=dict).encode


def to_json(value: object) -> str:
    """Return JSON in ASCII: NUL and lone surrogates, which databases refuse in text, are escaped."""
    return _encode(value)


class UtcField(peewee.BigIntegerField):
    """A datetime as integer microseconds."""

    def db_value(self, value: object) -> object:
        return to_micros(value) if isinstance(value, dt.datetime) else value

    def python_value(self, value: object) -> dt.datetime | None:
        return from_micros(value) if isinstance(value, int) else None


class CleanTextField(peewee.TextField):
    """Text without characters that databases refuse: lone surrogates become question marks, NUL is removed."""

    def db_value(self, value: object) -> object:
        if isinstance(value, str):
            return value.replace("\0", "").encode("utf-8", "replace").decode()
        return value


class MappingField(peewee.TextField):
    """A JSON object."""

    def db_value(self, value: object) -> object:
        return to_json(dict(value)) if isinstance(value, Mapping) else value

    def python_value(self, value: object) -> object:
        return json.loads(value) if isinstance(value, str) and value else {}


class JobOptionsField(MappingField):
    """A JSON object that is parsed only on use, and written as it was read or made."""

    def db_value(self, value: object) -> object:
        return super().db_value(value.stored if isinstance(value, JobOptions) else value)

    def python_value(self, value: object) -> JobOptions:
        return JobOptions.from_dict(super().python_value(value))


def reader(columns: Sequence[peewee.Field], kind: type[RowT]) -> Callable[[Sequence[object]], RowT]:
    """Return a function that turns an unconverted row of these columns into Python values by name.

    `kind`: as for `Database.rows`.
    """
    names = [column.name for column in columns]
    assert set(names) == kind.__annotations__.keys()
    special = [
        (index, column.python_value)
        for index, column in enumerate(columns)
        if isinstance(column, (UtcField, MappingField, peewee.BooleanField))
    ]

    def read(row: Sequence[object]) -> RowT:
        values = list(row)
        for index, convert in special:
            if values[index] is not None:
                values[index] = convert(values[index])
        return cast(RowT, dict(zip(names, values, strict=True)))

    return read


class UserRow(peewee.Model):
    """A user; a row with `deleted_at` is a tombstone until all data of the user is removed."""

    id = CleanTextField(primary_key=True)
    name = CleanTextField()
    email = CleanTextField()
    #: The unique form of the address, case-folded; NULL in a tombstone.
    email_key = CleanTextField(null=True)
    created_at = UtcField()
    is_active = peewee.BooleanField()
    priority_cap = CleanTextField()
    #: When a job of the user last left the queue.
    served_at = UtcField(null=True)
    deleted_at = UtcField(null=True)

    class Meta:
        table_name = "users"


class KeyRow(peewee.Model):
    """An API key, without the key itself."""

    id = CleanTextField(primary_key=True)
    user_id = CleanTextField()
    key_hash = CleanTextField()
    name = CleanTextField(null=True)
    created_at = UtcField()
    last_used_at = UtcField(null=True)
    is_active = peewee.BooleanField()
    expires_at = UtcField(null=True)

    class Meta:
        table_name = "api_keys"


class JobRow(peewee.Model):
    """A job; columns have the names of the fields of `ci_runner.model.job.Job`."""

    id = CleanTextField(primary_key=True)
    user_id = CleanTextField(null=True)
    status = CleanTextField()
    success = peewee.BooleanField(null=True)
    start_time = UtcField(null=True)
    #: NULL while the job is not over.
    end_time = UtcField(null=True)
    container_id = CleanTextField(null=True)
    zip_file_path = CleanTextField(null=True)
    phase = CleanTextField()
    exit_code = peewee.BigIntegerField(null=True)
    reason = CleanTextField(null=True)
    name = CleanTextField(null=True)
    priority = CleanTextField()
    submitted_at = UtcField()
    options = JobOptionsField()
    workspace = CleanTextField(null=True)
    attempt = peewee.IntegerField()
    building = peewee.BooleanField()
    environment = CleanTextField(null=True)
    cancel_requested_at = UtcField(null=True)
    cancelled_by = CleanTextField(null=True)
    phase_since = UtcField(null=True)
    stop_intent = CleanTextField(null=True)
    stop_requested_at = UtcField(null=True)
    cleaned_at = UtcField(null=True)
    last_seq = peewee.BigIntegerField()
    log_bytes = peewee.BigIntegerField()
    counts = MappingField()
    idempotency_key = CleanTextField(null=True)
    body_digest = CleanTextField(null=True)
    run_id = CleanTextField(null=True)
    stage = CleanTextField(null=True)
    planned = CleanTextField(null=True)
    retry = peewee.IntegerField()

    class Meta:
        table_name = "jobs"


class EventRow(peewee.Model):
    """A numbered event: `body` is the JSON of everything but type, number and time."""

    job_id = CleanTextField()
    seq = peewee.BigIntegerField()
    type = CleanTextField()
    at = UtcField()
    body = peewee.TextField()

    class Meta:
        table_name = "events"
        primary_key = peewee.CompositeKey("job_id", "seq")


class SpoolRow(peewee.Model):
    """How far an attempt's spool files have been read (bytes)."""

    job_id = CleanTextField()
    attempt = peewee.IntegerField()
    frames = peewee.BigIntegerField()
    stdout = peewee.BigIntegerField()
    stderr = peewee.BigIntegerField()
    records = peewee.BigIntegerField()
    terminal = peewee.BigIntegerField()

    class Meta:
        table_name = "spools"
        primary_key = peewee.CompositeKey("job_id", "attempt")


class GrantRow(peewee.Model):
    """A user once sent this content, and may therefore refer to it by digest."""

    user_id = CleanTextField()
    digest = CleanTextField()
    used_at = UtcField()

    class Meta:
        table_name = "blob_grants"
        primary_key = peewee.CompositeKey("user_id", "digest")


class ArtifactRow(peewee.Model):
    """An artifact of a job."""

    job_id = CleanTextField()
    path = CleanTextField()
    mode = peewee.IntegerField()
    size = peewee.BigIntegerField()
    #: "" if no content is stored.
    sha256 = CleanTextField()
    kept_until = UtcField()
    requested = peewee.BooleanField()
    #: "created", "changed" or "deleted"; NULL: not a file of the project.
    change = CleanTextField(null=True)
    before = CleanTextField(null=True)

    class Meta:
        table_name = "artifacts"
        primary_key = peewee.CompositeKey("job_id", "path")


class TestRow(peewee.Model):
    """The result of one test in one job."""

    __test__ = False

    job_id = CleanTextField()
    node_id = CleanTextField()
    #: Index in `ci_runner.model.test_results.OUTCOMES`.
    outcome = peewee.IntegerField()
    #: Microseconds.
    duration = peewee.BigIntegerField()
    reruns = peewee.IntegerField()
    at = UtcField()

    class Meta:
        table_name = "tests"
        primary_key = peewee.CompositeKey("job_id", "node_id")


class OutboxRow(peewee.Model):
    """A job that is over, with a notification pending for plugins."""

    job_id = CleanTextField(primary_key=True)

    class Meta:
        table_name = "outbox"


class RunRow(peewee.Model):
    """One execution of a pipeline; `plan` is the JSON of `ci_runner.pipelines.plan.Plan`."""

    id = CleanTextField(primary_key=True)
    user_id = CleanTextField()
    pipeline = CleanTextField()
    #: Counts the runs of this pipeline and user from 1.
    number = peewee.IntegerField()
    plan = peewee.TextField()
    workspace = CleanTextField()
    options = MappingField()
    status = CleanTextField()
    success = peewee.BooleanField(null=True)
    reason = CleanTextField(null=True)
    submitted_at = UtcField()
    start_time = UtcField(null=True)
    #: NULL while the run is not over.
    end_time = UtcField(null=True)
    cancel_requested_at = UtcField(null=True)
    cancelled_by = CleanTextField(null=True)
    stop_intent = CleanTextField(null=True)
    #: The run that this one repeats.
    rerun_of = CleanTextField(null=True)
    #: Increased by every change that a decision may depend on.
    version = peewee.BigIntegerField()
    #: Number of the newest entry of the feed.
    last_seq = peewee.BigIntegerField()
    idempotency_key = CleanTextField(null=True)
    body_digest = CleanTextField(null=True)

    class Meta:
        table_name = "runs"


class RunJobRow(peewee.Model):
    """A job of a run's plan, and the newest job made for it."""

    run_id = CleanTextField()
    name = CleanTextField()
    position = peewee.IntegerField()
    stage = CleanTextField()
    job_id = CleanTextField(null=True)
    retry = peewee.IntegerField()
    #: Whether the job is from an earlier run and its result is reused.
    reused = peewee.BooleanField()
    #: The reason why it never starts.
    dropped = CleanTextField(null=True)
    #: The user or reason behind the request to end it.
    cancelled_by = CleanTextField(null=True)

    class Meta:
        table_name = "run_jobs"
        primary_key = peewee.CompositeKey("run_id", "name")


class RunSecretRow(peewee.Model):
    """A secret's value, encrypted, as long as the run is not over."""

    run_id = CleanTextField()
    name = CleanTextField()
    value = peewee.TextField()

    class Meta:
        table_name = "run_secrets"
        primary_key = peewee.CompositeKey("run_id", "name")


class JobSecretRow(peewee.Model):
    """A secret's value of a job without a run, encrypted, as long as the job is not over."""

    job_id = CleanTextField()
    name = CleanTextField()
    value = peewee.TextField()

    class Meta:
        table_name = "job_secrets"
        primary_key = peewee.CompositeKey("job_id", "name")


class FeedRow(peewee.Model):
    """A run's events in order: `number` events of a job from its event `first` on, or one event of the run itself."""

    run_id = CleanTextField()
    #: The number of the first of these events in the run.
    seq = peewee.BigIntegerField()
    number = peewee.IntegerField()
    job_id = CleanTextField(null=True)
    first = peewee.BigIntegerField()
    at = UtcField()
    #: JSON of the run's own event.
    body = peewee.TextField(null=True)

    class Meta:
        table_name = "run_feed"
        primary_key = peewee.CompositeKey("run_id", "seq")


class LeaseRow(peewee.Model):
    """The single row that identifies the controller with the right to write."""

    id = peewee.IntegerField(primary_key=True)
    epoch = peewee.BigIntegerField()
    holder = CleanTextField(null=True)
    acquired_at = UtcField(null=True)
    heartbeat_at = UtcField(null=True)
    #: Since when the engine does not answer the holder; NULL if it does.
    engine_silent_since = UtcField(null=True)

    class Meta:
        table_name = "lease"


MODELS: Final = (
    UserRow,
    KeyRow,
    JobRow,
    EventRow,
    SpoolRow,
    GrantRow,
    ArtifactRow,
    TestRow,
    OutboxRow,
    RunRow,
    RunJobRow,
    RunSecretRow,
    JobSecretRow,
    FeedRow,
    LeaseRow,
)
