"""`Run`: one execution of a plan on a workspace, as a frozen value; and the jobs made for it.

A job of a run is an ordinary job with the run's id, its stage and its name in the plan. Its id is derived from these,
so making it twice gives the same job.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.pipelines.plan import Plan, PlannedJob, Service
from ci_runner.pipelines.report_status import ExecutionStatus, of_job
from ci_runner.pipelines.scheduler import Facts, StopIntent
from pytest_remote_ci.wire import limits
from pytest_remote_ci.wire.checks import ServiceOptions
from pytest_remote_ci.wire.protocol import Status, SubmitOptions

_NAMESPACE: Final = uuid.UUID("5f0c4f4e-2f6a-4e0e-9a55-6d6f7e1f6b0b")


@dataclass(frozen=True)
class Run:
    """One execution of a pipeline."""

    #: UUID4 as text.
    id: str
    user_id: str
    plan: Plan
    #: Digest of the workspace's manifest.
    workspace: str
    #: Counts the runs of this pipeline and user from 1; 0 before it is stored.
    number: int = 0
    #: `SubmitOptions.to_dict()` shared by all jobs; `mtimes` as a job's; `run_timeout`: seconds for the whole run.
    options: Mapping[str, object] = field(default_factory=dict)
    status: Status = "queued"
    success: bool | None = None
    reason: str | None = None
    submitted_at: dt.datetime | None = None
    #: When its first job left the queue.
    start_time: dt.datetime | None = None
    end_time: dt.datetime | None = None
    cancel_requested_at: dt.datetime | None = None
    cancelled_by: str | None = None
    #: Why it is being stopped, once that is decided.
    stop_intent: StopIntent | None = None
    #: The run that it repeats.
    rerun_of: str | None = None
    version: int = 0
    last_seq: int = 0

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self.plan.pipeline

    @property
    def is_over(self) -> bool:
        """Whether it has its final status."""
        return self.end_time is not None

    @property
    def word(self) -> ExecutionStatus:
        """Its status as one of the reference system's words."""
        return of_job(self.status, self.success)

    @property
    def timeout(self) -> float | None:
        """Seconds for the whole run, from the moment when its first job leaves the queue."""
        value = self.options.get("run_timeout")
        return float(value) if isinstance(value, (int, float)) else None

    @property
    def mtimes(self) -> str | None:
        """Digest of the blob with its files' modification times."""
        value = self.options.get("mtimes")
        return value if isinstance(value, str) and value else None


@dataclass(frozen=True)
class PlannedState:
    """A job of the plan with its state, for display."""

    planned: PlannedJob
    facts: Facts
    #: The newest job made for it.
    job: Job | None = None
    #: That job belongs to the run that this one repeats.
    reused: bool = False
    #: Usual duration of jobs with that name, in seconds.
    past_seconds: float | None = None


def job_id_of(run_id: str, name: str, retry: int) -> str:
    """Return the id of the job for a planned job and its number of retries."""
    return str(uuid.uuid5(_NAMESPACE, f"{run_id}/{retry}/{name}"))


def job_of(run: Run, name: str, retry: int, sources: Mapping[str, str], now: dt.datetime) -> Job:
    """Return the job that runs planned job `name`.

    `sources`: the jobs of the run with artifacts for this one, name → id.
    """
    planned = next(job for job in run.plan.jobs if job.name == name)
    raw = options_of(run.options, planned)
    if sources:
        raw["artifacts_from"] = [sources[need] for need in planned.artifacts_from if need in sources]
    options = JobOptions.from_dict(raw)
    return Job(
        job_id_of(run.id, name, retry),
        user_id=run.user_id,
        name=f"{run.pipeline} #{run.number}: {name}"[:1000],
        priority=options.submitted.priority,
        submitted_at=now,
        phase_since=now,
        options=options,
        workspace=run.workspace,
        run_id=run.id,
        stage=planned.stage,
        planned=name,
        retry=retry,
    )


def options_of(base: Mapping[str, object], planned: PlannedJob) -> dict[str, object]:
    """Return a job's options: those shared by the run's jobs, overridden by the plan's for this job."""
    options = {name: value for name, value in base.items() if name != "run_timeout"}
    shared = SubmitOptions.from_dict({name: base[name] for name in ("args", "env") if name in base})
    own: dict[str, object] = {
        "timeout": planned.timeout,
        "cpus": planned.cpus,
        "memory": planned.memory,
        **{name: getattr(planned, name) for name in limits.NAMES},
        "cwd": planned.working_dir or None,
    }
    if planned.image is not None or planned.python is not None:
        options.pop("image", None)
        options.pop("python", None)
        own |= {"image": planned.image, "python": planned.python}
    options |= {name: value for name, value in own.items() if value is not None}
    options["env"] = {**shared.env, **planned.env}
    options["args"] = [*shared.args, *planned.args]
    if planned.packages is not None:
        options["packages"] = list(planned.packages)
    if planned.artifacts:
        options["artifacts"] = list(planned.artifacts)
        options["artifacts_when"] = planned.artifacts_when
        if planned.artifacts_days is not None:
            options["artifacts_days"] = planned.artifacts_days
    if planned.script is not None:
        options["script"] = list(planned.script)
        options.pop("records", None)
        options["args"] = []
    if planned.services:
        options["services"] = [service_dict(service) for service in planned.services]
    if planned.secrets:
        options["secrets"] = list(planned.secrets)
    checked = SubmitOptions.from_dict(options).to_dict()
    return {
        **{name: value for name, value in options.items() if name not in SubmitOptions.__dataclass_fields__},
        **checked,
    }


def service_dict(service: Service) -> ServiceOptions:
    """Return a service for JSON."""
    found: ServiceOptions = {
        "name": service.name,
        "image": service.image,
        "env": dict(service.env),
        "health": service.health,
        "ports": list(service.ports),
        "command": list(service.command),
    }
    if service.shm_size is not None:
        found["shm_size"] = service.shm_size
    return found
