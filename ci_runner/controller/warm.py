"""`WarmContainers`: containers that were started before their job, at most one per user, project and environment.

A job that ends leaves one for the next job like it. It is an optimisation: at any doubt, and after any error, a job
gets a container of its own. What waits is forgotten with the process; the next controller removes it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from ci_runner import failpoints
from ci_runner.controller.engine import Engine, Observed, WarmEngine
from ci_runner.controller.environments.ahead import Ahead
from ci_runner.controller.environments.container_specs import Prepared
from ci_runner.errors import EngineUnavailable, RunnerError
from ci_runner.model.job import Job
from pytest_remote_ci.wire.formats import size

_log = logging.getLogger(__name__)

_HANDED_OVER: Final = failpoints.register("warm.handed_over", "a waiting container's folder is the job's")
_TAKEN: Final = failpoints.register("warm.taken", "a waiting container has the job's name, and is frozen")

#: Seconds after which a container that no job has taken is removed.
IDLE: Final = 600.0
#: Seconds that one has to get ready.
_PATIENCE: Final = 20.0


class AheadPreparer(Protocol):
    """What the pool needs; `environments.ahead.AheadContainers` implements it."""

    def imported(self, job: Job) -> tuple[str, ...]:
        """Return which modules a job that has ended wrote that it imported; read it before its folders go."""

    def prepare(self, job: Job, imported: tuple[str, ...], stopping: Callable[[], bool]) -> Ahead | None:
        """Return a container like that of an ended job, with its folders; None if there is none."""

    def is_ready(self, ahead: Ahead) -> bool:
        """Return whether a started one has done all that it can without its job."""

    def is_for(self, ahead: Ahead, job: Job, prepared: Prepared, attempt: int) -> bool:
        """Return whether a job may take it."""

    def hand_over(self, ahead: Ahead, job: Job, prepared: Prepared, attempt: int) -> str:
        """Make its folders those of the job's attempt, with the job's files; return its name from now on."""

    def was_handed_over(self, job_id: str, attempt: int) -> bool:
        """Return whether the folder of the attempt has all of the job's files."""

    def remove_attempt(self, job_id: str, attempt: int) -> None:
        """Remove the folder of an attempt that has not begun."""

    def forget(self, ahead: Ahead) -> None:
        """Remove its folders; its container must be gone."""


@dataclass
class _Waiting:
    ahead: Ahead
    container_id: str
    #: Bytes.
    memory: int
    since: float = field(default_factory=time.monotonic)


class WarmContainers:
    """The pool; see the module. Thread-safe."""

    def __init__(self, engine: Engine, preparer: AheadPreparer | None, *, most: int, memory: int) -> None:
        """`most`: containers that may wait; 0: none. Other engines have none, either.

        `memory`: bytes that all of them may take together.
        """
        self._engine = engine
        self._memory = memory
        # What an earlier process with another setting left is cleared away even if nothing waits now.
        self._warm = engine if isinstance(engine, WarmEngine) and preparer is not None else None
        self._preparer = preparer if self._warm is not None else None
        self._most = most
        self._lock = threading.Lock()
        #: By user and project.
        self._waiting: dict[tuple[str | None, str], _Waiting] = {}
        #: Set until what an earlier process, or a failed hand-over, left is cleared away.
        self._is_unsure = True

    def assign(self, job: Job, prepared: Prepared, attempt: int) -> tuple[str | None, str]:
        """Return the id of a running container for the job (None: it needs one of its own), and why."""
        if self._warm is None or self._preparer is None or not self._most:
            return None, ""
        if job.options.submitted.cold_start:
            return None, "a new one was asked for"
        with self._lock:
            found = self._waiting.pop(_key(job), None)
        if found is None:
            return None, "no container was waiting"
        try:
            if not self._preparer.is_for(found.ahead, job, prepared, attempt):
                self._discard(found)
                return None, "the waiting container was another job's"
            name = self._preparer.hand_over(found.ahead, job, prepared, attempt)
            failpoints.hit(_HANDED_OVER)
            self._warm.assign(found.container_id, name)
            failpoints.hit(_TAKEN)
            self._warm.thaw(found.container_id)
        except (RunnerError, OSError) as error:
            _log.warning("job %s: the waiting container is not used: %s", job.id, error)
            self._is_unsure = True
            self._engine.remove(found.container_id)
            self._preparer.remove_attempt(job.id, attempt)
            return None, "the waiting container failed"
        return found.container_id, "warm"

    def imported(self, job: Job) -> tuple[str, ...]:
        """Return the modules that a container for the next job like this one should import, for `refill`."""
        if self._warm is None or self._preparer is None or not self._most:
            return ()
        return self._preparer.imported(job)

    def refill(self, job: Job, imported: tuple[str, ...], stopping: Callable[[], bool]) -> None:
        """Start a container for the next job like this one, which has ended; may take seconds."""
        if self._warm is None or self._preparer is None or not self._most:
            return
        ahead = self._preparer.prepare(job, imported, stopping)
        if ahead is None:
            return
        container_id = None
        try:
            container_id = self._engine.create(ahead.spec)
            self._engine.start(container_id)
            if self._await_ready(ahead, stopping):
                memory = self._warm.memory(container_id)
                if memory <= self._memory:
                    self._warm.freeze(container_id)
                    self._add(_key(job), _Waiting(ahead, container_id, memory))
                    return
                _log.info(
                    "no container waits for the next job like %s: it would take %s", job.id, size(memory)
                )
        except RunnerError as error:
            _log.info("no container waits for the next job like %s: %s", job.id, error)
        if container_id is not None:
            self._engine.remove(container_id)
        self._preparer.forget(ahead)

    def _await_ready(self, ahead: Ahead, stopping: Callable[[], bool]) -> bool:
        assert self._preparer is not None
        deadline = time.monotonic() + _PATIENCE
        while time.monotonic() < deadline and not stopping():
            if self._preparer.is_ready(ahead):
                return True
            time.sleep(0.02)
        return False

    def _add(self, key: tuple[str | None, str], new: _Waiting) -> None:
        with self._lock:
            replaced = [self._waiting.pop(key)] if key in self._waiting else []
            while self._is_full(new):
                replaced.append(
                    self._waiting.pop(min(self._waiting, key=lambda key: self._waiting[key].since))
                )
            self._waiting[key] = new
        for item in replaced:
            self._discard(item)

    def _is_full(self, new: _Waiting) -> bool:
        memory = new.memory + sum(item.memory for item in self._waiting.values())
        return bool(self._waiting) and (len(self._waiting) >= self._most or memory > self._memory)

    def tidy(self, observed: tuple[Observed, ...]) -> None:
        """Remove what waits too long; called while no job is launched. `observed`: the jobs' containers."""
        if self._warm is None or self._preparer is None:
            return
        with self._lock:
            old = [key for key, item in self._waiting.items() if time.monotonic() - item.since > IDLE]
            idle = [self._waiting.pop(key) for key in old]
            unsure, self._is_unsure = self._is_unsure, False
        for item in idle:
            self._discard(item)
        if unsure:
            self._recover(self._warm, self._preparer, observed)

    def _recover(self, engine: WarmEngine, preparer: AheadPreparer, observed: tuple[Observed, ...]) -> None:
        """Let containers go on that got their job, and remove those that did not get all of it."""
        with self._lock:
            ours = {item.container_id for item in self._waiting.values()}
        try:
            for container_id in set(engine.waiting()) - ours:
                self._engine.remove(container_id)
            for item in observed:
                if item.state != "paused":
                    continue
                if preparer.was_handed_over(item.job_id, item.attempt):
                    engine.thaw(item.id)
                else:
                    self._engine.remove(item.id)
                    preparer.remove_attempt(item.job_id, item.attempt)
        except RunnerError as error:
            self._is_unsure = True
            _log.info("what waited for jobs is cleared away later: %s", error)

    def close(self) -> None:
        """Remove all that wait."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for item in waiting:
            with contextlib.suppress(EngineUnavailable):
                self._discard(item)

    def _discard(self, item: _Waiting) -> None:
        self._engine.remove(item.container_id)
        if self._preparer is not None:
            self._preparer.forget(item.ahead)


def _key(job: Job) -> tuple[str | None, str]:
    return job.user_id, job.options.submitted.root or ""
