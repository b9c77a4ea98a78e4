"""`ActionHandlers`: how each action is performed, on the engine and the store. Thin: `decide` has made the decisions.

Every step may be repeated after a crash at any of its failpoints: a row is changed by compare-and-set on its phase,
and engine calls adopt or skip what exists. Before each engine call the lease is checked: a controller that lost it
must not touch containers that now belong to another.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, TypeVar

from ci_runner import failpoints
from ci_runner.controller import actions, run_step
from ci_runner.controller.artifacts.collect import (
    ArtifactCollector,
    CollectedArtifacts,
    JobOutput,
    KeepingStopped,
)
from ci_runner.controller.clock import SteadyClock
from ci_runner.controller.engine import ContainerSpec, Engine
from ci_runner.controller.environments.container_specs import Prepared
from ci_runner.controller.environments.credentials import is_credential
from ci_runner.controller.process_state import ProcessState
from ci_runner.controller.snapshot import Policy
from ci_runner.controller.spool.job_log import JobLog
from ci_runner.controller.timing import JobTimer
from ci_runner.controller.warm import AheadPreparer, WarmContainers
from ci_runner.errors import LeaseLost, NotFound, PermanentError
from ci_runner.model.job import Job, JobEvent, utcnow
from ci_runner.model.verdict import Verdict
from ci_runner.store import Store
from pytest_remote_ci.wire.protocol import Phase
from pytest_remote_ci.wire.timing import Timing

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ci_runner.store.rows import PhaseChanges

_log = logging.getLogger(__name__)

#: Seconds from a job's end to the start of a container for the next one.
_REFILL_AFTER: Final = 0.5


def _point(name: str, where: str) -> str:
    return failpoints.register(f"controller.{name}", where)


_CLAIM = (_point("claim.before", "job decided to be taken up"), _point("claim.after", "job taken up"))
_PREPARE = (_point("prepare.before", "preparing begins"), _point("prepare.after", "prepared, not recorded"))
_PREPARED = _point("prepare.recorded", "prepared and recorded")
_BEFORE_CREATE = _point("launch.before_create", "working folder made, no container")
_CREATED = _point("launch.created", "container created, its id not recorded")
_RECORDED = _point("launch.recorded", "container's id recorded")
_BEFORE_START = _point("launch.before_start", "container about to be started")
_STARTED = _point("launch.started", "container started")
_STOP = (_point("stop.before", "stop decided"), _point("stop.recorded", "intent recorded, no signal sent"))
_STOPPED = _point("stop.after", "TERM sent")
_KILL = (_point("kill.before", "KILL decided"), _point("kill.after", "KILL sent"))
_RETRY = (_point("retry.before", "attempt lost"), _point("retry.after", "next attempt recorded"))
_FINISH = (_point("finish.before", "verdict decided"), _point("finish.after", "verdict stored"))
_REMOVE = (
    _point("remove.before", "remains to be removed"),
    _point("remove.removed", "removed, not recorded"),
)
_REMOVED = _point("remove.after", "removal recorded")


class JobPreparer(Protocol):
    """The controller's interface to job preparation; `environments.preparer.Preparer` implements it."""

    @property
    def ahead(self) -> AheadPreparer | None:
        """Return what containers need that are started before their job; None if there are none."""

    def prepare(
        self,
        job: Job,
        *,
        log: Callable[[str], None],
        building: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> Prepared:
        """Block until the workspace and environment are ready; takes milliseconds if they already are."""

    def container_spec(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        """Return the container to create; make the attempt's working folder."""

    def written(self, job: Job) -> JobOutput:
        """Return where the files of the job's current attempt are; works after a restart, too."""

    def expect_kept(self, job: Job) -> None:
        """Let the next job of the same project wait for `store_kept`, which follows."""

    def store_kept(self, job: Job) -> None:
        """Keep what the job leaves to the next one; its container must be gone."""

    def in_use(self) -> frozenset[str]:
        """Return the names of the build containers in use by current calls."""

    def compile_bytecode(self, job: Job, stopping: Callable[[], bool]) -> None:
        """Do work that can wait until the job has ended and speeds up the next one; may take minutes."""

    def remove_work(self, job_id: str) -> None:
        """Remove the working folders of all of the job's attempts."""

    def evict(self, keep: frozenset[str]) -> None:
        """Remove cached data beyond the limits, except for the keys in `keep`."""


class Interrupted(Exception):
    """A preparation ended because its job, or this controller, is being stopped."""


_A = TypeVar("_A", bound=actions.Action)


def _handled(
    kind: type[_A], handle: Callable[[ActionHandlers, _A], None]
) -> tuple[type[actions.Action], Callable[[ActionHandlers, actions.Action], None]]:
    """Return a kind of action and its handler, which takes no other."""

    def perform(handlers: ActionHandlers, action: actions.Action) -> None:
        assert isinstance(action, kind)
        handle(handlers, action)

    return kind, perform


@dataclass
class ActionHandlers:
    """The implementation of every action; `executor` has the threads, the counting and the error handling."""

    store: Store
    engine: Engine
    preparer: JobPreparer
    epoch: int
    policy: Policy
    now: SteadyClock
    #: Maximum bytes of log stored per job.
    budget: int
    #: Called when a job gets its terminal status.
    ended: Callable[[], None]
    keeper: ArtifactCollector
    warm: WarmContainers
    timer: JobTimer = field(default_factory=JobTimer)
    #: Runs work that delays nothing else, however long it takes.
    later: Callable[[Callable[[], None]], object] = field(default=lambda work: work())
    #: The same, for containers that are started ahead: a developer's next run may come soon.
    warm_later: Callable[[Callable[[], None]], object] = field(default=lambda work: work())
    #: Set when the controller ends: preparations give up.
    closing: threading.Event = field(default_factory=threading.Event)
    state: ProcessState = field(default_factory=ProcessState)

    def __post_init__(self) -> None:
        self.keeper.stopping = self.closing.is_set

    def perform(self, action: actions.Action) -> None:
        """Perform an action. Raises any error of the engine, the store and the preparer."""
        self._STEPS[type(action)](self, action)

    def _claim(self, action: actions.Claim) -> None:
        failpoints.hit(_CLAIM[0])
        moment = utcnow()
        self._advance(
            action,
            "queued",
            "preparing",
            status="running",
            start_time=moment,
            phase_since=self.now(),
            attempt=1,
        )
        failpoints.hit(_CLAIM[1])

    def _prepare(self, action: actions.Prepare) -> None:
        job = self._job(action)
        if job.phase != "preparing":
            return
        failpoints.hit(_PREPARE[0])
        if job.submitted_at is not None:
            self.timer.add(job.id, {"queue": (utcnow() - job.submitted_at).total_seconds()})

        def building() -> None:
            """Release the run slot for the build; the preparer limits how many builds run at once."""
            self._advance(action, "preparing", "preparing", detail="building the environment", building=True)

        def stopping() -> bool:
            return self.closing.is_set() or self.state.is_signalled(job.id)

        try:
            needs_secrets = any(map(is_credential, job.options.secrets))
            prepared = self.preparer.prepare(
                run_step.with_secrets(job, self.store) if needs_secrets else job,
                log=JobLog(self.store, self.epoch, self.budget, job),
                building=building,
                stopping=stopping,
            )
        except Exception as error:
            if stopping() and not isinstance(error, LeaseLost):
                raise Interrupted from error
            raise
        failpoints.hit(_PREPARE[1])
        self.state.set_prepared(job.id, prepared)
        self.timer.add(job.id, prepared.timing.phases, prepared.timing.cold)
        self.timer.mark(job.id, "prepared")
        self._advance(action, "preparing", "starting", building=False, environment=prepared.key)
        failpoints.hit(_PREPARED)

    def _launch(self, action: actions.Launch) -> None:
        job = self._job(action)
        if job.phase != "starting" or job.attempt != action.attempt:
            return
        container_id = action.container_id
        if container_id is None:
            prepared = self.state.prepared(job.id)
            if prepared is None:  # prepared by an earlier controller: repeat it, which is quick
                self._advance(action, "starting", "preparing", quietly=True, phase_since=self.now())
                return
            self._hold_lease()
            container_id, why = self.warm.assign(job, prepared, action.attempt)
            self.timer.add(job.id, {}, container=why)
            if container_id is None:
                spec = self.preparer.container_spec(
                    run_step.with_secrets(job, self.store), prepared, action.attempt
                )
                self._hold_lease()
                failpoints.hit(_BEFORE_CREATE)
                container_id = self.engine.create(spec)
            failpoints.hit(_CREATED)
        if job.container_id != container_id and not self.store.jobs.advance(
            job.id, self.epoch, "starting", container_id=container_id, phase_since=self.now()
        ):
            return
        failpoints.hit(_RECORDED)
        self._hold_lease()
        failpoints.hit(_BEFORE_START)
        try:
            self.engine.start(container_id)
        except PermanentError:
            if self.engine.inspect(container_id) is not None:
                raise
            _log.warning("job %s: its container vanished before its start", job.id)
            return  # the next tick gives it another attempt
        failpoints.hit(_STARTED)
        self.state.set_prepared(job.id, None)

    def _record(self, action: actions.Record) -> None:
        phases: tuple[Phase, ...] = ("starting", "testing", "finishing")
        self.store.jobs.advance(action.job_id, self.epoch, phases, container_id=action.container_id)

    def _finishing(self, action: actions.Finishing) -> None:
        self._advance(action, "testing", "finishing")

    def _stop(self, action: actions.Stop) -> None:
        failpoints.hit(_STOP[0])
        if not self._intend(action.job_id, action.intent):
            return
        failpoints.hit(_STOP[1])
        if action.container_id is not None:
            self._hold_lease()
            self.engine.signal(action.container_id, "TERM")
        self.state.set_signalled(action.job_id)
        failpoints.hit(_STOPPED)

    def _kill(self, action: actions.Kill) -> None:
        failpoints.hit(_KILL[0])
        if not self._intend(action.job_id, action.intent):
            return
        self._hold_lease()
        self.engine.signal(action.container_id, "KILL")
        failpoints.hit(_KILL[1])

    def _intend(self, job_id: str, intent: str) -> bool:
        """Record why a job is stopped, unless a reason is recorded; return False if the job has ended."""
        job = self.store.get_job(job_id, events=False)
        if job is None or job.is_over or job.stop_intent is not None:
            return job is not None and not job.is_over
        return self.store.jobs.advance(
            job_id, self.epoch, job.phase, stop_intent=intent, stop_requested_at=self.now()
        )

    def _retry(self, action: actions.Retry) -> None:
        failpoints.hit(_RETRY[0])
        text = f"attempt {action.attempt}: {action.reason}; trying again\n"
        events = [JobEvent("log", text, fields={"stream": "runner"})]
        job = self._job(action)
        if job.attempt == action.attempt:
            self.store.jobs.advance(
                job.id,
                self.epoch,
                "starting",
                events=events,
                attempt=action.attempt + 1,
                container_id=None,
                phase_since=self.now(),
            )
        failpoints.hit(_RETRY[1])

    def _finish(self, action: actions.Finish) -> None:
        failpoints.hit(_FINISH[0])
        events: list[JobEvent] = []
        if action.post_mortem is not None:
            output = self.engine.output(action.post_mortem)
            events = [JobEvent("log", output, fields={"stream": "runner"})] if output else []
        try:
            collected = self._collected(action) if action.collect else CollectedArtifacts()
            if action.verdict.status == "completed":
                self.preparer.expect_kept(self._job(action))
            self.end(action.job_id, action.verdict, [*events, *collected.events()], collected)
        finally:
            self.keeper.quota.release(action.job_id)
        failpoints.hit(_FINISH[1])

    def _collected(self, action: actions.Finish) -> CollectedArtifacts:
        """Store the job's files durably and return them.

        They are read only after the container is removed, so that nothing writes to them any more.
        """
        job = self._job(action)
        if job.is_over:
            return CollectedArtifacts()

        def before_reading() -> None:
            if not self.state.is_collecting(job.id):
                self._advance(action, ("starting", "testing", "finishing"), "finishing", detail="collecting")
                self.state.set_collecting(job.id)
            if action.going is not None:  # its worker has sent its exit frame
                self._hold_lease()
                self.engine.remove(action.going)

        try:
            return self.keeper.keep(job, action.verdict, self.preparer.written(job), before_reading)
        except KeepingStopped as error:
            raise Interrupted from error
        except PermanentError as error:  # a repetition would fail, too: the job ends without its files
            return CollectedArtifacts(notes=(f"none is stored: {error}",))

    def end(
        self,
        job_id: str,
        verdict: Verdict,
        events: Sequence[JobEvent] = (),
        collected: CollectedArtifacts = CollectedArtifacts(),  # noqa: B008  # frozen
    ) -> None:
        """Write the job's terminal status, once; `Notifier` notifies the plugins."""
        job = self.store.get_job(job_id, events=False)
        timing = self.timer.pop(job_id, Timing() if job is None else job.options.timing)
        more = {**collected.fields(), "timing": timing.to_dict()}
        if not self.store.jobs.finish(
            job_id, self.epoch, verdict, events=events, artifacts=collected.artifacts, more=more
        ):
            return
        self.state.forget(job_id)
        _log.info(
            "job %s: %s (%s)", job_id, verdict.status, verdict.reason or f"exit code {verdict.exit_code}"
        )
        self.ended()

    def add_log_line(self, job_id: str, text: str) -> None:
        """Add a line of the runner to the job's log, for its user."""
        event = JobEvent("log", f"{text}\n", fields={"stream": "runner"})
        self.store.events.append(job_id, self.epoch, [event])

    def _clean(self, action: actions.Clean) -> None:
        failpoints.hit(_REMOVE[0])
        for container_id in action.container_ids:
            self._hold_lease()
            self.engine.remove(container_id)
        job = self._job(action)
        imported = self.warm.imported(job)
        self.preparer.store_kept(job)
        self.preparer.remove_work(action.job_id)
        if job.status == "completed":
            self.warm_later(lambda: self._refill(job, imported))
            self._compile_later(job)
        failpoints.hit(_REMOVE[1])
        self.store.jobs.cleaned(action.job_id, self.epoch)
        failpoints.hit(_REMOVED)

    def _refill(self, job: Job, imported: tuple[str, ...]) -> None:
        if self.closing.wait(_REFILL_AFTER):  # the client that fetches what the job left comes first
            return
        try:
            self.warm.refill(job, imported, self.closing.is_set)
        except Exception as error:
            _log.warning("job %s: no container waits for the next one: %s", job.id, error)

    def _compile_later(self, job: Job) -> None:
        """Let byte code be made, of one job of each user at a time: the next one's end tries again."""
        if self.state.begin_bytecode(job.user_id):
            self.later(lambda: self._compile_bytecode(job))

    def _compile_bytecode(self, job: Job) -> None:
        try:
            self.preparer.compile_bytecode(job, self.closing.is_set)
        except Exception as error:
            level = logging.DEBUG if self.closing.is_set() else logging.WARNING  # stopped normally
            _log.log(level, "job %s: nothing was done for the next one: %s", job.id, error)
        finally:
            self.state.end_bytecode(job.user_id)

    def _remove_container(self, action: actions.RemoveContainer) -> None:
        _log.info("removing container %s, which belongs to no job any more", action.name)
        self._hold_lease()
        self.engine.remove(action.container_id)

    def _advance_run(self, action: actions.AdvanceRun) -> None:
        run_step.advance(action, self.store, self.keeper.blobs, self.epoch)

    _STEPS: ClassVar[Mapping[type[actions.Action], Callable[[ActionHandlers, actions.Action], None]]] = dict(
        (
            _handled(actions.Claim, _claim),
            _handled(actions.Prepare, _prepare),
            _handled(actions.Launch, _launch),
            _handled(actions.Record, _record),
            _handled(actions.Finishing, _finishing),
            _handled(actions.Stop, _stop),
            _handled(actions.Kill, _kill),
            _handled(actions.Retry, _retry),
            _handled(actions.Finish, _finish),
            _handled(actions.Clean, _clean),
            _handled(actions.RemoveContainer, _remove_container),
            _handled(actions.AdvanceRun, _advance_run),
        )
    )

    def _job(self, action: actions.JobAction) -> Job:
        job = self.store.get_job(action.job_id, events=False)
        if job is None:
            raise NotFound("Job not found", action.job_id)
        return job

    def _hold_lease(self) -> None:
        """Check before an engine call that this controller still holds the lease."""
        state = self.store.lease.read()
        if state.epoch != self.epoch:
            raise LeaseLost(f"the lease now belongs to {state.holder}")

    def _advance(
        self,
        action: actions.JobAction,
        expect: Phase | Sequence[Phase],
        to: Phase,
        *,
        detail: str | None = None,
        quietly: bool = False,
        **changes: Unpack[PhaseChanges],
    ) -> bool:
        """Advance the job to the next phase, with an event (unless `quietly`) that may show a `detail` to people."""
        fields = {"phase": to} if detail is None else {"phase": to, "detail": detail}
        events = [] if quietly else [JobEvent("state", fields=fields)]
        changes.setdefault("phase_since", self.now())
        return self.store.jobs.advance(action.job_id, self.epoch, expect, phase=to, events=events, **changes)
