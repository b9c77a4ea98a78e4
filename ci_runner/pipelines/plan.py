"""The plan of one run: jobs with matrix cells and defaults filled in, and the jobs that each waits for.

A plan is made once, when a run is submitted, and is stored with it as JSON (`ci_runner.pipelines.plan_json`); the
definition is not read afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: The outcomes after which a job's artifacts are kept.
ArtifactsWhen = Literal["always", "success", "failure"]


@dataclass(frozen=True)
class Retries:
    """How often a job may be retried, and for which causes."""

    #: Maximum number of retries.
    count: int = 0
    #: Exit codes of the command that allow a retry; empty: only the runner's own faults do.
    exit_codes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Service:
    """A program that runs beside a job, in a network used by that job alone."""

    #: Host name by which the job connects to it.
    name: str
    image: str
    env: Mapping[str, str] = field(default_factory=dict)
    #: Shell command that exits with 0 once the service is ready; None: ready as soon as it runs.
    health: str | None = None
    #: TCP ports that must accept connections before the job starts.
    ports: tuple[int, ...] = ()
    #: Replaces the image's own command; empty: the image's command.
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedJob:
    """One job of a run."""

    #: Unique in the run: ``tests``, or with its cell ``tests (python=3.12, database=none)``.
    name: str
    #: Name in the definition, shared by all cells of a matrix.
    definition: str
    stage: str
    #: Axis → value of this cell, in the order of the definition; empty without a matrix.
    cell: Mapping[str, str] = field(default_factory=dict)
    #: Names of jobs that must succeed (or fail and have `allow_failure`) before this one starts, including jobs of
    #: earlier stages. None of them is `skipped`, unless this one is, too.
    needs: tuple[str, ...] = ()
    #: Those of `needs` with artifacts for this job: the ones that the definition names.
    artifacts_from: tuple[str, ...] = ()
    image: str | None = None
    python: str | None = None
    #: Commands of a POSIX shell, run in order until one fails; None means pytest.
    script: tuple[str, ...] | None = None
    #: pytest's arguments.
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    #: Names of variables with values from the developer's environment, which are never stored in the plan.
    secrets: tuple[str, ...] = ()
    #: Working directory of the job, relative to the project, in POSIX form.
    working_dir: str = ""
    allow_failure: bool = False
    retries: Retries = Retries()
    #: Seconds of testing; None: the runner's default.
    timeout: float | None = None
    #: Globs, relative to the project.
    artifacts: tuple[str, ...] = ()
    artifacts_when: ArtifactsWhen = "always"
    #: Days for which artifacts are kept; None: the runner's default.
    artifacts_days: float | None = None
    services: tuple[Service, ...] = ()
    cpus: float | None = None
    #: Bytes.
    memory: int | None = None
    #: The reason why the job is left out of this run ("no file below docs/ changed"); None: it takes part.
    skipped: str | None = None


@dataclass(frozen=True)
class Plan:
    """All jobs of one run, in the order of stages, then of the definition."""

    pipeline: str
    #: In order; a stage may be empty.
    stages: tuple[str, ...]
    jobs: tuple[PlannedJob, ...]
    #: Continue with jobs that do not depend on a failed job.
    keep_going: bool = False
    #: Stage → seconds from the moment when its first job leaves the queue; stages without a limit are missing.
    stage_timeouts: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan for JSON, with the format's version; fields of jobs with default values are left out."""
        from ci_runner.pipelines.plan_json import write

        return write(self)

    @classmethod
    def from_dict(cls, raw: Any) -> Plan:
        """Parse and check a plan from `to_dict` or from a client; raises `WireError` with the field's name."""
        from ci_runner.pipelines.plan_json import read

        return read(raw)
