"""Parameters of requests: each is one value, by which a route reads it and the OpenAPI document describes it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final, Generic, Literal, TypeVar

import falcon

from ci_runner.errors import InvalidSubmission
from ci_runner.model.job import parse_time
from ci_runner.model.json_schema import Schema
from ci_runner.server.openapi import openapi_json
from ci_runner.store import KINDS, MAX_RUNS, Kind
from pytest_remote_ci.wire.protocol import STATUSES, Status

_T = TypeVar("_T", bound=str)

_TRUE: Final = frozenset({"true", "1", "yes", "y", "on", "t"})
_FALSE: Final = frozenset({"false", "0", "no", "n", "off", "f"})
#: Numbers of events and of runs are smaller.
MAX_NUMBER: Final = 10**15
#: Maximum number of items in one response.
PAGE: Final = 1000
_LONGEST_KEY: Final = 255


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter with any text as its value."""

    name: str
    #: What it does, for people.
    about: str = ""
    where: Literal["query", "header", "path"] = "query"

    def text(self, req: falcon.Request) -> str | None:
        """Return the text in the request's query or headers, or None."""
        if self.where == "header":
            return req.get_header(self.name)
        return req.get_param(self.name)

    @property
    def schema(self) -> Schema:
        """The schema of its values."""
        return {"type": "string"}

    def described(self) -> openapi_json.Parameter:
        """Return its description for the OpenAPI document."""
        found: openapi_json.Parameter = {"name": self.name, "in": self.where, "schema": self.schema}
        if self.where == "path":
            found["required"] = True
        if self.about:
            found["description"] = self.about
        return found


@dataclass(frozen=True, kw_only=True)
class Number(Parameter):
    """A whole number from `least` to `most`."""

    least: int = 0
    most: int = MAX_NUMBER
    default: int | None = None

    def read(self, req: falcon.Request) -> int:
        """Return the number, or the default; raises `InvalidSubmission`."""
        found = self.given(req)
        if found is None:
            assert self.default is not None, f"{self.name} has no default"
            return self.default
        return found

    def given(self, req: falcon.Request) -> int | None:
        """Return the number if the request has one; raises `InvalidSubmission`."""
        text = self.text(req)
        if text is None or (self.where == "header" and not text):
            return None
        return self.parse(text)

    def parse(self, text: str) -> int:
        """Return `text` as a number; raises `InvalidSubmission` with the name."""
        is_number = text.isascii() and text.isdigit() and len(text) <= 18
        if not is_number or not self.least <= int(text) <= self.most:
            raise InvalidSubmission(f"{self.name}: must be a whole number from {self.least} to {self.most}")
        return int(text)

    @property
    def schema(self) -> Schema:
        """The schema of its values."""
        found: Schema = {"type": "integer", "minimum": self.least, "maximum": self.most}
        if self.default is not None:
            found["default"] = self.default
        return found


@dataclass(frozen=True, kw_only=True)
class Flag(Parameter):
    """True or false, in the spellings of the reference system; false by default."""

    def read(self, req: falcon.Request) -> bool:
        """Return the value; raises `InvalidSubmission`."""
        text = self.text(req)
        if text is None or text.lower() in _FALSE:
            return False
        if text.lower() in _TRUE:
            return True
        raise InvalidSubmission(f"{self.name}: must be true or false")

    @property
    def schema(self) -> Schema:
        """The schema of its values."""
        return {"type": "boolean", "default": False}


@dataclass(frozen=True, kw_only=True)
class Filter(Parameter, Generic[_T]):
    """One of a few words, or nothing."""

    words: tuple[_T, ...]

    def given(self, req: falcon.Request) -> _T | None:
        """Return the word, or None; raises `InvalidSubmission`."""
        text = self.text(req)
        if text is None:
            return None
        for word in self.words:
            if word == text:
                return word
        raise InvalidSubmission(f"{self.name}: must be one of {', '.join(self.words)}")

    @property
    def schema(self) -> Schema:
        """The schema of its values."""
        return {"enum": list(self.words)}


@dataclass(frozen=True, kw_only=True)
class Choice(Filter[_T]):
    """One of a few words."""

    default: _T

    def read(self, req: falcon.Request) -> _T:
        """Return the word, or the default; raises `InvalidSubmission`."""
        found = self.given(req)
        return self.default if found is None else found

    @property
    def schema(self) -> Schema:
        """The schema of its values."""
        return {"enum": list(self.words), "default": self.default}


@dataclass(frozen=True, kw_only=True)
class Moment(Parameter):
    """A time."""

    def given(self, req: falcon.Request) -> dt.datetime | None:
        """Return the time, or None; raises `InvalidSubmission`."""
        try:
            return parse_time(self.text(req))
        except ValueError as error:
            message = f"{self.name}: must be a time such as 2026-01-31T12:00:00Z"
            raise InvalidSubmission(message) from error

    @property
    def schema(self) -> Schema:
        """The schema of its values."""
        return {"type": "string", "format": "date-time", "description": "RFC 3339, UTC"}


@dataclass(frozen=True, kw_only=True)
class Key(Parameter):
    """A key that the client chooses."""

    def given(self, req: falcon.Request) -> str | None:
        """Return the key, or None; raises `InvalidSubmission`."""
        key = self.text(req)
        if key is None:
            return None
        if not key.strip() or len(key) > _LONGEST_KEY or not key.isprintable():
            raise InvalidSubmission(f"{self.name}: must be 1 to {_LONGEST_KEY} printable characters")
        return key

    @property
    def schema(self) -> Schema:
        """The schema of its values."""
        return {"type": "string", "minLength": 1, "maxLength": _LONGEST_KEY}


View = Literal["log", "report", "all"]

VIEW: Final = Choice[View](
    name="view",
    words=("log", "report", "all"),
    default="log",
    about="`log`: text and the end; `report`: everything but what pytest itself prints; `all`: both",
)
IDEMPOTENCY_KEY: Final = Key(
    name="Idempotency-Key",
    where="header",
    about="A submission that is repeated with the same key gets the first one's job.",
)
FROM_BEGINNING: Final = Flag(name="from_beginning", about="all events, not only new ones")
AFTER: Final = Number(name="after", about="only events numbered above this; a run has its own numbers")
LAST_EVENT_ID: Final = Number(name="Last-Event-ID", where="header", about="overrides `after`")

STATUS: Final = Filter[Status](name="status", words=STATUSES, about="only with this status")
SINCE: Final = Moment(name="since", about="only what was submitted then or later")
BEFORE: Final = Parameter(name="before", about="an id of this list: the page behind it")


def limit(default: int, about: str) -> Number:
    """Return the parameter for the most items in a response."""
    return Number(name="limit", least=1, most=PAGE, default=default, about=about)


def path(name: str) -> Parameter:
    """Return a part of a route's path."""
    return Parameter(name=name, where="path")


JOB_ID: Final = path("job_id")
RUN_ID: Final = path("run_id")
RUN_NUMBER: Final = Number(name="run_number", where="path", least=1)
STREAM: Final = (FROM_BEGINNING, AFTER, LAST_EVENT_ID, VIEW)

#: `GET /jobs`.
JOB_QUERY: Final = Parameter(name="q", about="beginning of the id, or part of the name")
JOBS_LIMIT: Final = limit(PAGE, "most jobs")
JOBS: Final = (STATUS, SINCE, JOB_QUERY, JOBS_LIMIT, BEFORE)

#: `GET /jobs/{job_id}/events` and `GET /runs/{run_id}/events`.
EVENTS_AFTER: Final = Number(name="after", default=0, about="only events numbered above this")
EVENTS_LIMIT: Final = limit(500, "most events")
EVENTS_WAIT: Final = Number(name="wait", most=60, default=0, about="seconds to wait for one")
EVENTS: Final = (EVENTS_AFTER, EVENTS_LIMIT, EVENTS_WAIT, VIEW)

#: `GET /jobs/{job_id}/artifacts/{path}`.
RANGE: Final = Parameter(name="Range", where="header", about="one part, in bytes")
IF_RANGE: Final = Parameter(name="If-Range", where="header")
IF_NONE_MATCH: Final = Parameter(name="If-None-Match", where="header")

#: `GET /jobs/{job_id}/tests`.
TESTS_AFTER: Final = Parameter(name="after", about="only tests after this id")
TESTS_LIMIT: Final = limit(PAGE, "most tests")

#: `GET /reports/tests`.
REPORT_KIND: Final = Choice[Kind](name="kind", words=KINDS, default="all", about="kind of report")
REPORT_ROOT: Final = Parameter(name="root", about="only jobs of the project in this folder of the client")
REPORT_JOBS: Final = Number(name="runs", least=1, most=MAX_RUNS, default=50, about="newest jobs")
REPORT_LIMIT: Final = limit(50, "most tests")
TEST_REPORT: Final = (REPORT_KIND, REPORT_ROOT, REPORT_JOBS, REPORT_LIMIT)

#: `/kept`.
KEPT_ROOT: Final = Parameter(name="root", about="only the project in this folder of the client")

#: `GET /runs`.
PIPELINE: Final = Parameter(name="pipeline", about="only runs of this pipeline")
RUNS_LIMIT: Final = limit(PAGE, "most runs")
RUNS: Final = (PIPELINE, STATUS, SINCE, RUNS_LIMIT, BEFORE)

#: `DELETE /runs/{run_id}`.
CANCEL_STAGE: Final = Parameter(name="stage", about="only this stage")
CANCEL_JOB: Final = Parameter(name="job", about="only this job, or all cells of it")

#: `GET /reports/pipelines`.
HISTORY_STAGE: Final = Parameter(name="stage", about="a history of this stage")
HISTORY_JOB: Final = Parameter(name="job", about="a history of this job of the stage")
HISTORY_LIMIT: Final = limit(50, "most runs")
HISTORY: Final = (HISTORY_STAGE, HISTORY_JOB, STATUS, SINCE, HISTORY_LIMIT, BEFORE)
