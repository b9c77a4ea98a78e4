"""Answers: what a runner returns for a request, read through types. docs/reference/wire.md describes them.

Each class reads an object once, when it arrives, and raises `AnswerError` for a value of another type. Unknown members
are ignored. A member that older runners do not send has a default. `fields` is the object as it was sent, for output
as JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from pytest_remote_ci.wire.events import Event
from pytest_remote_ci.wire.timing import Timing

_T = TypeVar("_T")

#: Largest whole number in JSON that all programs read.
_LARGEST: Final = 1 << 53
#: Most items of a list, and of an object whose names are not known.
_MOST: Final = 1_000_000


class AnswerError(ValueError):
    """An answer is of another shape. The message is one line that names the member; "" if nothing of it fits."""


class Fields:
    """The members of an object, each checked when it is read. A null counts as a missing member."""

    __slots__ = ("_raw",)

    def __init__(self, raw: object) -> None:
        self._raw = as_object(raw)

    def _read(self, name: str, check: Callable[[object], _T], default: _T | None) -> _T:
        value = self._raw.get(name)
        if value is None:
            if default is None:
                raise AnswerError(f"{name} is missing")
            return default
        return _named(name, check, value)

    def _read_or_none(self, name: str, check: Callable[[object], _T]) -> _T | None:
        value = self._raw.get(name)
        return None if value is None else _named(name, check, value)

    def text(self, name: str, default: str | None = None) -> str:
        """Return a text."""
        return self._read(name, _as_text, default)

    def text_or_none(self, name: str) -> str | None:
        """Return a text, or None."""
        return self._read_or_none(name, _as_text)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """Return a boolean."""
        return self._read(name, _as_flag, default)

    def flag_or_none(self, name: str) -> bool | None:
        """Return a boolean, or None."""
        return self._read_or_none(name, _as_flag)

    def whole(self, name: str, default: int | None = None) -> int:
        """Return a whole number."""
        return self._read(name, _as_whole, default)

    def whole_or_none(self, name: str) -> int | None:
        """Return a whole number, or None."""
        return self._read_or_none(name, _as_whole)

    def number_or_none(self, name: str) -> float | None:
        """Return a finite number, or None."""
        return self._read_or_none(name, _as_number)

    def texts(self, name: str) -> list[str]:
        """Return a list of texts; [] if it is missing."""
        return self._read(name, texts, [])

    def texts_or_none(self, name: str) -> list[str] | None:
        """Return a list of texts, or None."""
        return self._read_or_none(name, texts)

    def wholes(self, name: str) -> list[int]:
        """Return a list of whole numbers; [] if it is missing."""
        return self._read(name, lambda value: as_list(value, _as_whole), [])

    def numbers_by_name(self, name: str) -> dict[str, float]:
        """Return an object of numbers; {} if it is missing."""
        return self._read(name, numbers_by_name, {})

    def counts(self, name: str) -> dict[str, int]:
        """Return an object of whole numbers; {} if it is missing."""
        return self._read(name, lambda value: _by_name(value, _as_whole), {})

    def texts_by_name(self, name: str) -> dict[str, str]:
        """Return an object of texts; {} if it is missing."""
        return self._read(name, lambda value: _by_name(value, _as_text), {})

    def one_or_none(self, name: str, parse: Callable[[object], _T]) -> _T | None:
        """Return an object of a type of its own, or None."""
        return self._read_or_none(name, parse)

    def many(self, name: str, parse: Callable[[object], _T], *, is_needed: bool = False) -> list[_T]:
        """Return a list of such objects; [] if it is missing and not needed."""
        return self._read(name, lambda value: as_list(value, parse), None if is_needed else [])


class Answer:
    """Base of all answers. Do not change one after it was made."""

    def __init__(self, raw: object) -> None:
        #: The object as it was sent.
        self.fields: Mapping[str, object] = as_object(raw)


class Job(Answer):
    """A job."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.job_id = read.text("job_id")
        self.status = read.text("status")
        #: Whether it passed; None while that is not known.
        self.success = read.flag_or_none("success")
        self.exit_code = read.whole_or_none("exit_code")
        #: Why it has no verdict.
        self.reason = read.text("reason", "")
        self.phase = read.text("phase", "")
        self.queue_position = read.whole_or_none("queue_position")
        #: Why a waiting job does not start.
        self.detail = read.text("detail", "")
        self.name = read.text("name", "")
        self.project = read.text("project", "")
        #: Outcome → number of tests.
        self.counts = read.counts("counts")
        #: Times in RFC 3339.
        self.submitted_at = read.text_or_none("submitted_at")
        self.start_time = read.text_or_none("start_time")
        self.end_time = read.text_or_none("end_time")
        #: Of a job of a run: the run's id, and the job's stage and name in the plan.
        self.run_id = read.text("run_id", "")
        self.stage = read.text("stage", "")
        self.planned = read.text("planned", "")
        #: Seconds of the phases that were measured; None from runners that measure none.
        self.timing = Timing.parse(self.fields.get("timing"))


class Changes(Answer):
    """What a job did to files of the project; `pytest_remote_ci.wire.changes` reads the list."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        #: Where the project was on its client.
        self.root = Fields(raw).text_or_none("root")
        self.files = self.fields.get("files")


class TestResult(Answer):
    """The result of one test in one job."""

    __test__ = False

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        #: The node id.
        self.id = read.text("id")
        self.outcome = read.text("outcome")
        #: Seconds.
        self.duration = read.number_or_none("duration")


class FailingSince(Answer):
    """The first of a test's failures that no success followed."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.job_id = read.text("job_id", "")
        self.at = read.text_or_none("at")


class TestHistory(Answer):
    """The history of one test over several jobs."""

    __test__ = False

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.id = read.text("id")
        #: Outcome → number of jobs.
        self.counts = read.counts("counts")
        #: From 0 to 1.
        self.pass_rate = read.number_or_none("pass_rate")
        #: Mean seconds; the same of the older and of the newer half of the jobs.
        self.duration = read.number_or_none("duration")
        self.before = read.number_or_none("before")
        self.now = read.number_or_none("now")
        #: Whether it passed when it was run again; number of workspaces on which it both passed and failed.
        self.is_flaky = read.flag("flaky", default=False)
        self.flaky_workspaces = read.whole("flaky_workspaces", 0)
        self.failing_since = read.one_or_none("failing_since", FailingSince)


class RecordedJob(Answer):
    """A job in a report on tests."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        self.at = Fields(raw).text_or_none("at")


class TestReport(Answer):
    """A report on the tests of several jobs, the oldest job first."""

    __test__ = False

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.kind = read.text("kind", "")
        self.jobs = read.many("runs", RecordedJob)
        self.tests = read.many("tests", TestHistory, is_needed=True)


class KeptFolder(Answer):
    """What jobs of a project left for the next one, by pattern."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.pattern = read.text("pattern")
        #: The project's folder on the client.
        self.root = read.text("root", "")
        #: The job of a pipeline; "" for a job of its own.
        self.job = read.text("job", "")
        self.files = read.whole("files", 0)
        self.bytes = read.whole("bytes", 0)
        self.at = read.text_or_none("at")
        #: Why the last job's files did not replace it.
        self.problem = read.text("problem", "")


class Cleared(Answer):
    """How many kept folders were removed."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        self.removed = Fields(raw).whole("removed", 0)


class RunJob(Answer):
    """A job of a run's plan, with the newest job made for it."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        #: Unique in the run: with its cell where there is a matrix.
        self.name = read.text("name")
        self.definition = read.text("definition", self.name)
        self.stage = read.text("stage")
        #: Whether it runs pytest, not a script.
        self.is_pytest = read.text("kind", "") == "pytest"
        self.allow_failure = read.flag("allow_failure", default=False)
        self.is_skipped = read.flag("skipped", default=False)
        self.status = read.text("status")
        self.success = read.flag_or_none("success")
        self.exit_code = read.whole_or_none("exit_code")
        self.reason = read.text("reason", "")
        #: Of its newest job; None before the first.
        self.job_id = read.text_or_none("job_id")
        #: Number of jobs of the run before that one.
        self.retry = read.whole("retry", 0)
        #: Whether the job is one of the run that this one repeats.
        self.is_reused = read.flag("reused", default=False)
        self.phase = read.text_or_none("phase")
        self.start_time = read.text_or_none("start_time")
        self.end_time = read.text_or_none("end_time")
        self.counts = read.counts("counts")
        #: Names of secrets.
        self.secrets = read.texts("secrets")
        #: Seconds that jobs of that name usually take.
        self.past_seconds = read.number_or_none("past_seconds")


class RunSummary(Answer):
    """A run of a pipeline, as in a list of runs."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.run_id = read.text("run_id")
        self.pipeline = read.text("pipeline")
        #: Counts the runs of this pipeline and user.
        self.number = read.whole("number")
        self.status = read.text("status")
        self.success = read.flag_or_none("success")
        self.reason = read.text("reason", "")
        self.start_time = read.text_or_none("start_time")
        self.end_time = read.text_or_none("end_time")

    @property
    def title(self) -> str:
        """The pipeline's name and the run's number, by which commands find the run."""
        return f"{self.pipeline}#{self.number}"

    @property
    def is_over(self) -> bool:
        """Whether the run has ended."""
        return self.end_time is not None


class Run(RunSummary):
    """A run with its stages and jobs."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.stages = read.texts("stages")
        self.jobs = read.many("jobs", RunJob, is_needed=True)


class PlannedService(Answer):
    """A program that runs alongside a job."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.name = read.text("name")
        self.image = read.text("image")


class PlannedRetries(Answer):
    """How often a job is repeated, and after which exit codes of its command."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.count = read.whole("count", 0)
        self.exit_codes = read.wholes("exit_codes")


class PlannedJob(Answer):
    """A job of a plan; members with default values are missing."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.name = read.text("name")
        self.stage = read.text("stage")
        #: Why it is left out of the run; "" if it takes part.
        self.skipped = read.text("skipped", "")
        #: Names of jobs that must succeed before; those of them with artifacts for this job.
        self.needs = read.texts("needs")
        self.artifacts_from = read.texts("artifacts_from")
        self.image = read.text("image", "")
        self.python = read.text("python", "")
        #: Commands of a shell; None means pytest, with these arguments.
        self.script = read.texts_or_none("script")
        self.args = read.texts("args")
        self.env = read.texts_by_name("env")
        #: Names of secrets.
        self.secrets = read.texts("secrets")
        self.working_dir = read.text("working_dir", "")
        self.allow_failure = read.flag("allow_failure", default=False)
        self.retries = read.one_or_none("retries", PlannedRetries) or PlannedRetries({})
        #: Seconds.
        self.timeout = read.number_or_none("timeout")
        self.artifacts = read.texts("artifacts")
        self.services = read.many("services", PlannedService)

    @property
    def is_pytest(self) -> bool:
        """Whether it runs pytest, not a script."""
        return self.script is None

    def with_args(self, args: list[str]) -> PlannedJob:
        """Return the job with other arguments for pytest."""
        return PlannedJob({**self.fields, "args": args})


class Plan(Answer):
    """The plan of a run. It goes back to the runner with all its members."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.pipeline = read.text("pipeline")
        self.stages = read.texts("stages")
        self.jobs = read.many("jobs", PlannedJob, is_needed=True)
        #: Stage → seconds.
        self.stage_timeouts = read.numbers_by_name("stage_timeouts")

    def with_jobs(self, jobs: list[PlannedJob]) -> Plan:
        """Return the plan with these jobs."""
        return Plan({**self.fields, "jobs": [job.fields for job in jobs]})


class Problem(Answer):
    """An error or a warning in a definition of a pipeline."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.file = read.text("file")
        #: None for values of TOML, which have no positions.
        self.line = read.whole_or_none("line")
        self.column = read.whole_or_none("column")
        #: The key.
        self.path = read.text("path", "")
        self.is_error = read.text("severity") == "error"
        self.is_warning = read.text("severity") == "warning"
        self.message = read.text("message")


class CheckedPipelines(Answer):
    """What definitions of pipelines contain."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.problems = read.many("problems", Problem, is_needed=True)
        #: Whether any pipeline is defined.
        self.has_pipelines = bool(self.fields.get("pipelines"))
        #: If it was asked for, and there is no error.
        self.plan = read.one_or_none("plan", Plan)
        #: Why there is no plan, although there is no error.
        self.refused = read.text_or_none("refused")


class Execution(Answer):
    """A job made for a job of a report."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.id = read.text("id")
        self.status = read.text("status")
        self.reason = read.text("reason", "")
        self.exit_code = read.whole_or_none("exitCode")
        self.allow_failure = read.flag("allowFailure", default=False)
        self.start_time = read.text_or_none("startTime")
        self.completion_time = read.text_or_none("completionTime")


class JobReport(Answer):
    """A job of a report, its newest execution first."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.name = read.text("name")
        self.pipeline_name = read.text("pipelineName", "")
        self.run_number = read.whole_or_none("runNumber")
        self.stage_name = read.text("stageName", "")
        self.commit_hash = read.text("commitHash", "")
        self.status = read.text("status")
        self.reason = read.text("reason", "")
        self.executions = read.many("executions", Execution, is_needed=True)


class StageReport(Answer):
    """A stage of a report."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.id = read.text("id")
        self.name = read.text("name")
        self.status = read.text("status")
        self.pipeline_name = read.text("pipelineName", "")
        self.run_number = read.whole_or_none("runNumber")
        self.start_time = read.text_or_none("startTime")
        self.completion_time = read.text_or_none("completionTime")
        self.jobs = read.many("jobs", JobReport, is_needed=True)


class PipelineReport(Answer):
    """A run in a report."""

    def __init__(self, raw: object) -> None:
        super().__init__(raw)
        read = Fields(raw)
        self.id = read.text("id")
        self.name = read.text("name")
        self.run_number = read.whole_or_none("runNumber")
        self.commit_hash = read.text("commitHash", "")
        self.status = read.text("status")
        self.reason = read.text("reason", "")
        self.start_time = read.text_or_none("startTime")
        self.completion_time = read.text_or_none("completionTime")
        self.stages = read.many("stages", StageReport, is_needed=True)


Report = PipelineReport | StageReport | JobReport


def report_of(raw: object) -> Report:
    """Return the report of a run, a stage or a job."""
    found = as_object(raw)
    if isinstance(found.get("stages"), list):
        return PipelineReport(found)
    return StageReport(found) if isinstance(found.get("jobs"), list) else JobReport(found)


def texts(value: object) -> list[str]:
    """Return a list of texts."""
    return as_list(value, _as_text)


def list_of(parse: Callable[[object], _T]) -> Callable[[object], list[_T]]:
    """Return a function that parses a list of such objects."""
    return lambda value: as_list(value, parse)


def events_in(value: object) -> list[Event]:
    """Return a page of events."""
    return as_list(value, lambda item: Event(as_object(item)))


def as_object(value: object) -> Mapping[str, object]:
    """Return the value if it is a JSON object."""
    if isinstance(value, dict):
        return value
    raise AnswerError


def as_list(value: object, parse: Callable[[object], _T]) -> list[_T]:
    """Return the parsed items of a JSON list."""
    if not isinstance(value, list) or len(value) > _MOST:
        raise AnswerError
    return [_named(f"item {index}", parse, item) for index, item in enumerate(value)]


def numbers_by_name(value: object) -> dict[str, float]:
    """Return a JSON object of numbers."""
    return _by_name(value, _as_number)


def _by_name(value: object, check: Callable[[object], _T]) -> dict[str, _T]:
    found = as_object(value)
    if len(found) > _MOST:
        raise AnswerError
    return {name: check(item) for name, item in found.items()}


def _named(name: str, check: Callable[[object], _T], value: object) -> _T:
    """Return the checked value; an error names where it is."""
    try:
        return check(value)
    except AnswerError as error:
        detail = str(error)
        raise AnswerError(f"{name}: {detail}" if detail else f"{name} is of another type") from None


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise AnswerError


def _as_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise AnswerError


def _as_whole(value: object) -> int:
    if type(value) is int and -_LARGEST <= value <= _LARGEST:
        return value
    raise AnswerError


def _as_number(value: object) -> float:
    if isinstance(value, float) and math.isfinite(value):
        return value
    return _as_whole(value)
