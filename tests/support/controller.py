"""A runner without server or containers for tests of the controller: real store, real files, any engine.

`SimplePreparer` makes working folders and specs as the real preparer does, without workspaces and environments.
`Runner` runs a controller in this process; `check_invariants` says what must hold once everything is over, whatever
was killed in between. `faults/controller_process.py` runs the same as a program of its own, which may be killed.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci_runner.controller.artifacts.collect import JobOutput
from ci_runner.controller.engine import SPOOL, Bind, ContainerSpec, Engine, Limits, Overlay
from ci_runner.controller.engines.process.engine import ProcessEngine
from ci_runner.controller.environments import worker_command
from ci_runner.controller.environments.container_specs import Prepared
from ci_runner.controller.loop import Controller
from ci_runner.controller.snapshot import Policy
from ci_runner.model.job import Job, JobEvent, User, utcnow
from ci_runner.model.job_options import JobOptions
from ci_runner.pipelines import script
from ci_runner.pipelines.plan import Plan
from ci_runner.pipelines.run import Run
from ci_runner.settings.groups import ReconcileSettings, StorageSettings
from ci_runner.store import Store
from support.waiting import wait_until

USER = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"
#: Several jobs at once, one build at a time, short times.
POLICY = Policy(concurrency=4, builds=1, test_timeout=60, grace=0.3)
TOOLS = Path(__file__).parents[2] / "pytest_remote_ci" / "job"


def process_engine(data_dir: Path) -> ProcessEngine:
    """The engine of one runner's folder; a later one of the same folder finds what this one started."""
    return ProcessEngine("faults", folder=data_dir / "engine")


#: What `SimplePreparer.prepare` returns.
PREPARED = Prepared(
    image="host",
    mount_point="/workspace",
    lowers=(),
    binds=(),
    python=sys.executable,
    env={},
    path=(),
    key="simple",
    module=True,
)


@dataclass
class SimplePreparer:
    """Makes working folders; a job's `options["extra"]` says what else happens.

    `build`: seconds of building an environment. `command`: the argument list to run (engines that run one).
    `broken_attempts`: how many attempts end before the command runs.
    """

    data_dir: Path
    prefix: str = "cir-"
    #: Called in place of the whole preparation, if set; may raise.
    hook: Callable[[Job], None] | None = None
    #: Job ids in the order in which preparing began.
    prepared: list[str] = field(default_factory=list)
    evictions: list[frozenset[str]] = field(default_factory=list)
    ahead: None = None

    def prepare(
        self,
        job: Job,
        *,
        log: Callable[[str], None],
        building: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> Prepared:
        self.prepared.append(job.id)
        if self.hook is not None:
            self.hook(job)
        seconds: Any = job.options.submitted.extra.get("build", 0)
        if seconds:
            building()
            log("building")
            done = threading.Event()
            for _ in range(int(seconds / 0.02)):
                if stopping():
                    raise RuntimeError("stopped")
                done.wait(0.02)
        return PREPARED

    def container_spec(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        work = self.data_dir / "work" / f"{job.id}-{attempt}"
        for part in ("upper", "work", "spool"):
            (work / part).mkdir(parents=True, exist_ok=True)
        extra: Mapping[str, Any] = job.options.submitted.extra
        command = extra.get("command", [sys.executable, "-c", "print('hello')"])
        if job.options.script is not None:
            command = [script.SHELL, "-c", script.program(job.options.script)]
        content: worker_command.Description = {
            "protocol": 1,
            "argv": command,
            "cwd": "/workspace",
            "env": {},
            "grace": 1,
        }
        worker_command.write(work, prepared, content, None)
        worker = (sys.executable, "-I", "-S", "/ci/tools/worker.py", SPOOL)
        broken = attempt <= extra.get("broken_attempts", 0)
        return ContainerSpec(
            name=f"{self.prefix}{job.id}-{attempt}",
            image_id=prepared.image,
            argv=(sys.executable, "-c", "raise SystemExit(9)") if broken else worker,
            role="test",
            job_id=job.id,
            attempt=attempt,
            binds=(Bind(work / "spool", SPOOL, read_only=False), Bind(TOOLS, "/ci/tools")),
            overlay=Overlay((), work / "upper", work / "work", "/workspace"),
            limits=Limits(),
        )

    def in_use(self) -> frozenset[str]:
        return frozenset()

    def remove_work(self, job_id: str) -> None:
        for folder in (self.data_dir / "work").glob(f"{job_id}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def written(self, job: Job) -> JobOutput:
        return JobOutput(self.data_dir / "work" / f"{job.id}-{job.attempt}" / "upper", "/workspace", dict)

    def expect_kept(self, job: Job) -> None:
        pass

    def store_kept(self, job: Job) -> None:
        pass

    def compile_bytecode(self, job: Job, stopping: Callable[[], bool]) -> None:
        pass

    def evict(self, keep: frozenset[str]) -> None:
        self.evictions.append(keep)


@dataclass
class Runner:
    """A store with two users and a controller that can be started and stopped."""

    data_dir: Path
    engine: Engine
    preparer: SimplePreparer
    store: Store
    settings: ReconcileSettings
    policy: Policy
    finished: list[Job] = field(default_factory=list)

    def submit(self, user: str = USER, *, wait: bool = False, **fields: Any) -> str:
        """Create a job; `extra` and other options go into its options. Its id."""
        options: dict[str, Any] = {
            name: fields.pop(name)
            for name in ("timeout", "memory", "artifacts", "reports", "services", "extra")
            if name in fields
        }
        job = Job(str(uuid.uuid4()), user_id=user, options=JobOptions.from_dict(options), **fields)
        self.store.jobs.create(job)
        if wait:
            self.until_over(job.id)
        return job.id

    def submit_run(self, plan: Plan, user: str = USER, **options: Any) -> Run:
        """Create a run."""
        return self.store.runs.create(Run(str(uuid.uuid4()), user, plan, "0" * 64, options=options))

    def until_run_over(self, run_id: str, timeout: float = 60) -> Run:
        """Wait until the run is over and its jobs are cleaned."""

        def over() -> bool:
            jobs = self.store.runs.executions(run_id)
            return run().is_over and all(job.cleaned_at is not None for job in jobs)

        def run() -> Run:
            found = self.store.runs.get(run_id)
            assert found is not None
            return found

        wait_until(over, timeout, what=f"the end of run {run_id}")
        return run()

    @contextlib.contextmanager
    def controller(self) -> Iterator[Controller]:
        """A controller that ticks while the block runs."""
        controller = Controller(
            StorageSettings(data_dir=self.data_dir),
            self.settings,
            store=self.store,
            engine=self.engine,
            preparer=self.preparer,
            policy=self.policy,
            finished=self.finished.append,
        )
        stop = threading.Event()
        errors: list[BaseException] = []

        def run() -> None:
            try:
                controller.run(stop)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, name="controller")
        thread.start()
        try:
            yield controller
        finally:
            stop.set()
            thread.join(30)
            assert not thread.is_alive()
        if errors:
            raise errors[0]

    def job(self, job_id: str) -> Job:
        job = self.store.jobs.get(job_id)
        assert job is not None
        return job

    def until(
        self, job_id: str, predicate: Callable[[Job], bool], timeout: float = 20, what: str = ""
    ) -> Job:
        """Wait until the job is as `predicate` says."""
        wait_until(lambda: predicate(self.job(job_id)), timeout, what=what or f"job {job_id}")
        return self.job(job_id)

    def until_over(self, *job_ids: str, timeout: float = 30) -> list[Job]:
        """Wait until the jobs are over and cleaned."""
        return [
            self.until(job_id, lambda job: job.cleaned_at is not None, timeout, "over and cleaned")
            for job_id in job_ids
        ]

    def events(self, job_id: str) -> list[JobEvent]:
        found: list[JobEvent] = []
        while more := self.store.events.after(job_id, len(found)):
            found += more
        return found

    def text(self, job_id: str, stream: str = "terminal") -> str:
        """The log text of one stream, joined."""
        return "".join(
            event.data or ""
            for event in self.events(job_id)
            if event.type == "log" and event.fields.get("stream") == stream
        )


@contextlib.contextmanager
def runner(data_dir: Path, engine: Engine, policy: Policy | None = None, **settings: Any) -> Iterator[Runner]:
    """A `Runner` on an empty folder, or on what an earlier one left there."""
    store = Store.open(data_dir / "runner.db")
    for number, user in enumerate((USER, OTHER)):
        if store.users.get(user) is None:
            store.users.create(User(user, f"user {number}", f"user{number}@example.org", utcnow()))
    chosen = policy or Policy()
    reconcile = ReconcileSettings(**{"interval": 0.5, **settings})
    try:
        yield Runner(data_dir, engine, SimplePreparer(data_dir), store, reconcile, chosen)
    finally:
        store.close()


def check_invariants(found: Runner, job_ids: Sequence[str]) -> None:
    """What holds when all is over: one end each, nothing left, no number missing, nothing that is nobody's."""
    assert found.store.jobs.open() == []
    assert found.store.jobs.uncleaned() == []
    assert found.engine.list() == []
    work = found.data_dir / "work"
    assert not work.is_dir() or list(work.iterdir()) == []
    for job_id in job_ids:
        events = found.events(job_id)
        assert [event.seq for event in events] == list(range(1, len(events) + 1)), "numbers without gaps"
        ends = [event for event in events if event.type == "complete"]
        assert ends == events[-1:], "one end, and it is last"
        job = found.job(job_id)
        assert ends[0].fields["status"] == job.status
        assert job.is_over
