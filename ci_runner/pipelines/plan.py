"""The plan of one run: jobs with matrix cells and defaults filled in, and the jobs that each waits for.

A plan is made once, when a run is submitted, and is stored with it as JSON (`ci_runner.pipelines.plan_json`); the
definition is not read afterwards. The annotations of the fields are what a plan from a client must satisfy, and its
schema in the OpenAPI document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from ci_runner.model.decode import words
from ci_runner.model.field_types import HostName, Positive, Python
from pytest_remote_ci.wire import globs, limits, system_packages
from pytest_remote_ci.wire.checks import MAX_SERVICES, MAX_SIZE
from pytest_remote_ci.wire.system_packages import MAX_PACKAGES

#: Maximum number of jobs in one run.
MOST_JOBS: Final = 1000
#: Maximum length of a job's name, with its cell.
LONGEST_NAME: Final = 1000
_LONGEST: Final = 131_071  # MAX_ARG_STRLEN of Linux
_MOST_TEXTS: Final = 10_000


def _name_problem(text: str) -> str | None:
    return None if text.strip() and text.isprintable() else _NAME


def _path_problem(text: str) -> str | None:
    if text.startswith(("/", "\\")) or ".." in text.replace("\\", "/").split("/"):
        return f"{text!r} must be a path below the project, without '..'"
    return None


def _pattern_problem(pattern: str) -> str | None:
    problem = globs.problem(pattern)
    return None if problem is None else f"{pattern!r} {problem}"


def _package_problem(name: str) -> str | None:
    problem = system_packages.problem(name)
    return None if problem is None else f"{name[:200]!r} {problem}"


def _services_problem(raw: list[dict[str, object]]) -> str | None:
    return "two services have one name" if len({each["name"] for each in raw}) < len(raw) else None


_MEMORY: Final = f"must be an integer from 1 to {MAX_SIZE}"
_NAME: Final = f"must be a name of 1 to {LONGEST_NAME} printable characters"
_TEXT: Final = f"must be text without NUL characters, at most {_LONGEST} long"
Name = Annotated[str, words(_NAME, check=_name_problem, min_length=1, max_length=LONGEST_NAME)]
Text = Annotated[str, words(_TEXT, pattern=r"^[^\x00]*$", max_length=_LONGEST)]
_VARIABLE: Final = "{value} is not a valid name of an environment variable"
Variable = Annotated[str, words(_VARIABLE, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)", max_length=_LONGEST)]
Folder = Annotated[Text, words(check=_path_problem)]
Pattern = Annotated[Text, words(check=_pattern_problem)]
Package = Annotated[Text, words(check=_package_problem)]
Names = Annotated[tuple[Name, ...], words("must be a list of strings", max_length=_MOST_TEXTS)]
Texts = Annotated[tuple[Text, ...], words("must be a list of strings", max_length=_MOST_TEXTS)]
LimitSize = Annotated[
    int,
    words(
        f"must be an integer from {limits.LEAST_SIZE} to {limits.MOST_SIZE}",
        ge=limits.LEAST_SIZE,
        le=limits.MOST_SIZE,
    ),
]
Environment = Annotated[Mapping[Variable, Text], words("must be an object of texts")]

#: The outcomes after which a job's artifacts are stored.
ArtifactsWhen = Literal["always", "success", "failure"]


@dataclass(frozen=True)
class Retries:
    """How often a job may be retried, and for which causes."""

    #: Maximum number of retries.
    count: Annotated[int, words("must be an integer from 0 to 100", ge=0, le=100)] = 0
    #: Exit codes of the command that allow a retry; empty: only the runner's own faults do.
    exit_codes: Annotated[
        tuple[Annotated[int, words("must be an integer from 1 to 255", ge=1, le=255)], ...],
        words("must be a list of integers", max_length=256),
    ] = ()


@dataclass(frozen=True)
class Service:
    """A program that runs alongside a job, in a network used by that job alone."""

    #: Host name by which the job connects to it.
    name: HostName
    image: Name
    env: Environment = field(default_factory=dict)
    #: Shell command that exits with 0 once the service is ready; None: ready as soon as it runs.
    health: Text | None = None
    #: TCP ports that must accept connections before the job starts.
    ports: Annotated[
        tuple[Annotated[int, words("must be an integer from 1 to 65535", ge=1, le=65535)], ...],
        words("must be a list of integers", max_length=256),
    ] = ()
    #: Replaces the image's own command; empty: the image's command.
    command: Texts = ()
    #: Bytes of its /dev/shm; None: the runner's default.
    shm_size: LimitSize | None = None


@dataclass(frozen=True)
class PlannedJob:
    """One job of a run."""

    #: Unique in the run: ``tests``, or with its cell ``tests (python=3.12, database=none)``.
    name: Name
    #: Name in the definition, shared by all cells of a matrix.
    definition: Name
    stage: Name
    #: Axis → value of this cell, in the order of the definition; empty without a matrix.
    cell: Annotated[Mapping[Name, Text], words("must be an object of texts")] = field(default_factory=dict)
    #: Names of jobs that must succeed (or fail and have `allow_failure`) before this one starts, including jobs of
    #: earlier stages. None of them is `skipped`, unless this one is, too.
    needs: Names = ()
    #: Those of `needs` with artifacts for this job: the ones that the definition names.
    artifacts_from: Names = ()
    image: Name | None = None
    python: Python | None = None
    #: Packages of the image's distribution to install; None: those of the run's options.
    packages: (
        Annotated[
            tuple[Package, ...],
            words(f"must be a list of at most {MAX_PACKAGES} packages", max_length=MAX_PACKAGES),
        ]
        | None
    ) = None
    #: Commands of a POSIX shell, run in order until one fails; None means pytest.
    script: Texts | None = None
    #: pytest's arguments.
    args: Texts = ()
    env: Environment = field(default_factory=dict)
    #: Names of variables with values from the developer's environment, which are never stored in the plan.
    secrets: Annotated[tuple[Variable, ...], words("must be a list of strings", max_length=_MOST_TEXTS)] = ()
    #: Working directory of the job, relative to the project, in POSIX form.
    working_dir: Folder = ""
    allow_failure: bool = False
    retries: Retries = Retries()
    #: Seconds of testing; None: the runner's default.
    timeout: Positive | None = None
    #: Globs, relative to the project.
    artifacts: Annotated[tuple[Pattern, ...], words("must be a list of strings", max_length=_MOST_TEXTS)] = ()
    artifacts_when: Annotated[ArtifactsWhen, words("must be always, success or failure")] = "always"
    #: Days for which artifacts are stored; None: the runner's default.
    artifacts_days: Positive | None = None
    services: Annotated[
        tuple[Service, ...],
        words(
            f"must be a list of at most {MAX_SERVICES} services",
            check=_services_problem,
            max_length=MAX_SERVICES,
        ),
    ] = ()
    cpus: Positive | None = None
    #: Bytes.
    memory: Annotated[int, words(_MEMORY, ge=1, le=MAX_SIZE)] | None = None
    #: Bytes of folders in memory and of the largest file, and open files of a process; None: the runner's defaults.
    shm_size: LimitSize | None = None
    tmp_size: LimitSize | None = None
    home_size: LimitSize | None = None
    file_size: LimitSize | None = None
    open_files: (
        Annotated[int, words(f"must be {limits.FILES_WORDS}", ge=limits.LEAST_FILES, le=limits.MOST_FILES)]
        | None
    ) = None
    #: The reason why the job is left out of this run ("no file below docs/ changed"); None: it takes part.
    skipped: Text | None = None


@dataclass(frozen=True)
class Plan:
    """All jobs of one run, in the order of stages, then of the definition."""

    pipeline: Name
    #: In order; a stage may be empty.
    stages: Names
    jobs: Annotated[
        tuple[PlannedJob, ...],
        words(f"must be a list of at most {MOST_JOBS} jobs", max_length=MOST_JOBS),
    ]
    #: Continue with jobs that do not depend on a failed job.
    keep_going: bool = False
    #: Stage → seconds from the moment when its first job leaves the queue; stages without a limit are missing.
    stage_timeouts: Annotated[Mapping[Name, Positive], words("must be an object of numbers")] = field(
        default_factory=dict
    )

    def to_dict(self) -> dict[str, object]:
        """Return the plan for JSON, with the format's version; fields of jobs with default values are left out."""
        from ci_runner.pipelines.plan_json import write

        return write(self)

    @classmethod
    def from_dict(cls, raw: object) -> Plan:
        """Parse and check a plan from `to_dict` or from a client; raises `WireError` with the field's name."""
        from ci_runner.pipelines.plan_json import read

        return read(raw)
