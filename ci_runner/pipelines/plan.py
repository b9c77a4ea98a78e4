"""What one run of a pipeline will do: jobs with matrix cells and defaults filled in, and what each waits for.

A plan is made once, when a run is submitted, and is stored with it as JSON (`ci_runner.pipelines.plan_json`); nothing
of the definition is read afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

#: When a job's artifacts are kept.
ArtifactsWhen = Literal["always", "success", "failure"]


@dataclass(frozen=True)
class Retries:
    """How often a job may run again, and why."""

    #: Further runs after the first.
    count: int = 0
    #: Exit codes of the command that are worth another run; empty means: only the runner's own faults are.
    exit_codes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Service:
    """A program that runs beside a job, in a network of that job alone."""

    #: Host name under which the job reaches it.
    name: str
    image: str
    env: Mapping[str, str] = field(default_factory=dict)
    #: Shell command that ends with 0 once the service is ready; None means: as soon as it runs.
    health: str | None = None
    #: TCP ports that must accept connections before the job starts.
    ports: tuple[int, ...] = ()
    #: What the image runs instead of its own command; empty means its own.
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedJob:
    """One job of a run."""

    #: Unique in the run: ``tests``, or with its cell ``tests (python=3.12, database=none)``.
    name: str
    #: Name in the definition, which all cells of a matrix share.
    definition: str
    stage: str
    #: Axis → value of this cell, in the order of the definition; empty without a matrix.
    cell: Mapping[str, str] = field(default_factory=dict)
    #: Names of the jobs of the run that must have succeeded (or failed and be allowed to) before this one starts;
    #: what the stages before add is included. Never one that is `skipped`, unless this one is, too.
    needs: tuple[str, ...] = ()
    #: Those of `needs` whose artifacts this job gets: the ones that the definition names.
    artifacts_from: tuple[str, ...] = ()
    image: str | None = None
    python: str | None = None
    #: Commands of a POSIX shell, run one after the other until one fails; None means pytest.
    script: tuple[str, ...] | None = None
    #: pytest's arguments.
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    #: Names of variables whose values come from the developer's environment and are never stored in the plan.
    secrets: tuple[str, ...] = ()
    #: Directory below the project in which the job runs, in POSIX form.
    working_dir: str = ""
    allow_failure: bool = False
    retries: Retries = Retries()
    #: Seconds of testing; None means the runner's default.
    timeout: float | None = None
    #: Globs, relative to the project.
    artifacts: tuple[str, ...] = ()
    artifacts_when: ArtifactsWhen = "always"
    #: Days for which artifacts are kept; None means the runner's default.
    artifacts_days: float | None = None
    services: tuple[Service, ...] = ()
    cpus: float | None = None
    #: Bytes.
    memory: int | None = None
    #: Why the job is left out of this run ("no file below docs/ changed"); None: it takes part.
    skipped: str | None = None


@dataclass(frozen=True)
class Plan:
    """All jobs of one run, in the order of stages, then of the definition."""

    pipeline: str
    #: In order; a stage may be empty.
    stages: tuple[str, ...]
    jobs: tuple[PlannedJob, ...]
    #: Go on with what does not depend on a failed job.
    keep_going: bool = False
    #: Stage → seconds from the moment in which the first of its jobs is taken up; stages without a limit are missing.
    stage_timeouts: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the version of the form; a job's fields that hold their default are left out."""
        from ci_runner.pipelines.plan_json import write

        return write(self)

    @classmethod
    def from_dict(cls, raw: Any) -> Plan:
        """Parse and check what `to_dict` wrote, or a client sent; raises `WireError` naming the field."""
        from ci_runner.pipelines.plan_json import read

        return read(raw)
