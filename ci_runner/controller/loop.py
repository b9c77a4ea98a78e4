"""`Controller`: observe, decide and perform in a loop.

One thread ticks. It is woken by the engine, by changes in the store, by finished actions of its own threads, and at
the latest after `interval`. A tick reads the world, decides, hands over the actions and never waits for any of them.
There is one controller per data directory (a file lock), and only one may write (the lease's epoch). When it ends,
containers keep running; the next controller adopts them.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ci_runner.controller import decide, snapshot
from ci_runner.controller.artifacts.collect import ArtifactCollector, Limits
from ci_runner.controller.artifacts.quota import Quota
from ci_runner.controller.cleanup.disk_watchdog import Watchdog
from ci_runner.controller.cleanup.retention import Reaper
from ci_runner.controller.clock import SteadyClock
from ci_runner.controller.decide import Decision
from ci_runner.controller.decide_runs import RunTable
from ci_runner.controller.engine import Engine
from ci_runner.controller.engine_state import EngineState
from ci_runner.controller.executor import Executor
from ci_runner.controller.handlers import ActionHandlers, JobPreparer
from ci_runner.controller.notifier import Notifier
from ci_runner.controller.snapshot import ContainerView, JobRows, Policy, Snapshot
from ci_runner.controller.spool.followers import Followers
from ci_runner.controller.timing import JobTimer
from ci_runner.controller.warm import WarmContainers
from ci_runner.errors import EngineUnavailable, LeaseLost, RunnerError
from ci_runner.logs import outages
from ci_runner.model.job import Job
from ci_runner.settings.groups import ReconcileSettings, StorageSettings
from ci_runner.storage.blobs import BlobStore, job_owner
from ci_runner.store import Doorbell, Store

_log = logging.getLogger(__name__)

#: Seconds between two checks of the store's doorbell.
POLL: Final = 0.02
#: Maximum seconds of pause after a tick that took long.
LONGEST_PAUSE: Final = 0.25
#: Seconds between two heartbeats.
HEARTBEAT: Final = 2.0
#: Seconds between two sweeps for what crashes left in the engine.
SWEEP: Final = 15.0


class ControllerRunning(RunnerError):
    """Another controller runs on this data directory; programs exit with code 75 (EX_TEMPFAIL)."""


class Controller:
    """The reconciliation controller of one runner."""

    def __init__(
        self,
        storage: StorageSettings,
        settings: ReconcileSettings,
        *,
        store: Store,
        engine: Engine,
        preparer: JobPreparer,
        policy: Policy | None = None,
        finished: Callable[[Job], None] | None = None,
    ) -> None:
        """Set up the controller without starting it.

        `policy` replaces the settings' limits; `finished` is called, in its own thread, at least once with each
        job that ends (see `notifier`).
        """
        self._storage = storage
        self._settings = settings
        self._store = store
        self._engine = engine
        self._preparer = preparer
        self._policy = policy or Policy.of(settings)
        self._finished = finished
        self._wake = threading.Event()
        self._engine_changed = threading.Event()
        self._fatal: BaseException | None = None
        #: Set after the first tick.
        self.ready = threading.Event()

    def run(self, stop: threading.Event) -> None:
        """Reconcile until `stop` is set.

        Raises `ControllerRunning` at once, or `LeaseLost` when another controller took over.
        """
        with only_one(self._storage.data_dir), contextlib.ExitStack() as stack:
            epoch = self._store.lease.acquire(f"{socket.gethostname()}, process {os.getpid()}")
            _log.info("controller: epoch %d, engine %s", epoch, self._engine.name)
            tick = self._assemble(stack, epoch)
            try:
                self._engine.watch(self._on_engine)
            except EngineUnavailable as error:  # full passes see its changes, too
                _log.warning("the engine cannot be watched: %s", error)
            with contextlib.closing(self._store.doorbell()) as bell:
                self._loop(stop, bell, tick)
        if self._fatal is not None:
            raise self._fatal

    def _assemble(self, stack: contextlib.ExitStack, epoch: int) -> _Tick:
        """Make and start everything that has a thread; `stack` ends it in reverse order."""
        work = self._storage.data_dir / "work"
        clock = SteadyClock()
        timer = JobTimer()
        notifier = Notifier(self._store, epoch, self._finished, self._end)
        keeper = ArtifactCollector(
            BlobStore(self._storage.data_dir, job_owner()),
            Limits.of(self._settings, self._storage.disk_reserve),
            self._settings.artifact_retention_days,
            Quota(self._settings.artifact_quota, self._store.artifacts.bytes_of),
        )
        warm = WarmContainers(
            self._engine,
            self._preparer.ahead,
            most=self._settings.warm_containers,
            memory=self._settings.warm_memory,
        )
        stack.callback(warm.close)
        steps = ActionHandlers(
            self._store,
            self._engine,
            self._preparer,
            epoch,
            self._policy,
            clock,
            self._settings.log_budget,
            notifier.wake,
            keeper,
            warm,
            timer,
        )
        heart = threading.Thread(
            target=self._beat, args=(epoch, steps.closing), name="heartbeat", daemon=True
        )
        followers = Followers(
            self._store, epoch, work, self._settings.log_budget, clock, self._wake.set, self._end, timer
        )
        performer = Executor(steps, wake=self._wake.set, fatal=self._end)
        watchdog = Watchdog(
            work,
            self._policy.disk,
            self._wake.set,
            self._engine.written_by_services,
            self._engine.footprint,
            self._storage.disk_reserve,
        )
        reaper = Reaper(
            self._store,
            self._preparer,
            epoch,
            self._storage.data_dir,
            self._settings.log_retention_days,
            self._end,
            result_retention_days=self._settings.result_retention_days,
        )
        stack.callback(heart.join)
        stack.callback(steps.closing.set)
        heart.start()
        for part in (followers, watchdog, reaper, notifier):
            stack.callback(part.close)
            part.start()
        stack.callback(performer.close)
        rows = stack.enter_context(contextlib.closing(JobRows(self._store)))
        return _Tick(rows, self._store, self._engine, self._preparer, steps, performer, followers, watchdog)

    def _loop(self, stop: threading.Event, bell: Doorbell, tick: _Tick) -> None:
        next_full = 0.0
        while not stop.is_set() and self._fatal is None:
            woken = self._wake.wait(POLL)
            self._wake.clear()
            full = time.monotonic() >= next_full
            if not (_rang(bell) or woken or full):
                continue
            if full:
                next_full = time.monotonic() + self._settings.interval
            refresh = full or self._engine_changed.is_set()
            self._engine_changed.clear()
            began = time.monotonic()
            try:
                tick(refresh=refresh)
            except LeaseLost as error:
                self._end(error)
            except Exception as error:
                self._engine_changed.set()  # the failed tick has not handled the changes
                outages.report(_log, "a tick failed", error)
            else:
                self.ready.set()
            # Even with constant changes, spend at most a third of the time on reading them.
            stop.wait(min(LONGEST_PAUSE, 2 * (time.monotonic() - began)))

    def _on_engine(self) -> None:
        self._engine_changed.set()
        self._wake.set()

    def _end(self, error: BaseException) -> None:
        """Stop at once: the lease is lost."""
        if self._fatal is None:
            self._fatal = error
            _log.error("%s; this controller ends", error)
        self._wake.set()

    def _beat(self, epoch: int, closing: threading.Event) -> None:
        try:
            while not closing.wait(HEARTBEAT):
                try:
                    self._store.lease.heartbeat(epoch)
                except LeaseLost as error:
                    self._end(error)
                    return
                except Exception as error:
                    outages.report(_log, "no sign of life could be written", error)
        finally:
            self._store.release()


class _Tick:
    """One pass: observe, decide, hand over.

    Skips the decision if nothing changed since an idle pass and no deadline has passed; most passes end there.
    """

    def __init__(
        self,
        rows: JobRows,
        store: Store,
        engine: Engine,
        preparer: JobPreparer,
        steps: ActionHandlers,
        performer: Executor,
        followers: Followers,
        watchdog: Watchdog,
    ) -> None:
        self._rows = rows
        self._engine = engine
        self._preparer = preparer
        self._steps = steps
        self._performer = performer
        self._followers = followers
        self._watchdog = watchdog
        self._sight = ContainerView(engine)
        self._runs = RunTable(store)
        self._engine_state = EngineState(store, steps.epoch)
        self._next_sweep = 0.0
        #: The last decision, if it had no actions.
        self._quiet: Decision | None = None

    def __call__(self, *, refresh: bool) -> None:
        try:
            in_flight = self._performer.in_flight()
            now = self._read(in_flight, refresh=self._performer.pop_touched() or refresh)
            if self._quiet is None or not self._quiet.holds_in(now):
                self._quiet = None
                self._decide(now)
            self._note(now)
            if now.observed is not None and not self._performer.in_flight():
                self._steps.warm.tidy(now.observed)
            self._sweep(now)
        except BaseException:
            self._rows.forget()  # the rows may have been read only in part
            self._quiet = None
            raise

    def _decide(self, now: Snapshot) -> None:
        wanted = decide.follows(now)
        if wanted is not None:
            self._followers.sync(wanted)
            self._watchdog.watch(decide.writing(now), decide.serving(now))
        decision = decide.decide(now)
        for action in decision.actions:
            self._performer.submit(action)
        self._runs.mark_idle(now.runs, {action.subject for action in decision.actions} | now.in_flight.keys())
        if not decision.actions:
            self._quiet = decision

    def _read(self, in_flight: snapshot.InFlight, *, refresh: bool) -> Snapshot:
        steps = self._steps
        rows, was_read = self._rows.read()
        seen = snapshot.read(
            rows,
            self._sight,
            now=steps.now(),
            policy=steps.policy,
            refresh=refresh,
            in_flight=in_flight,
            builds=self._preparer.in_use,
        )
        open_jobs = {job.id for job in seen.jobs}
        state = steps.state.snapshot(open_jobs)
        steps.timer.keep(open_jobs)
        return replace(
            seen,
            held=self._performer.backoff.held(seen.now),
            endings=self._followers.endings(),
            over_disk=self._watchdog.over(),
            filling_disk=self._watchdog.filling(),
            signalled=state.signalled,
            runs=self._runs.read(seen.now, refresh=was_read),
        )

    def _note(self, seen: Snapshot) -> None:
        """Report that the engine stopped or resumed answering."""
        if self._engine_state.note(seen.now, answers=seen.observed is not None):
            self._next_sweep = 0.0  # a restarted engine releases what it held

    def _sweep(self, seen: Snapshot) -> None:
        """Remove what crashes left, at a moment when nothing is being created that this could hit."""
        if time.monotonic() < self._next_sweep or self._performer.in_flight() or seen.observed is None:
            return
        self._next_sweep = time.monotonic() + SWEEP
        with contextlib.suppress(EngineUnavailable):
            self._engine.sweep(frozenset(item.name for item in seen.observed))


def _rang(bell: Doorbell) -> bool:
    try:
        return bell.rang()
    except Exception as error:
        outages.report(_log, "the store's doorbell does not answer", error)
        return False


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the lock of the one controller on `data_dir`; raise `ControllerRunning` if another holds it."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(data_dir / "reconcile.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ControllerRunning(
                f"a controller is running on {data_dir} already ({os.pread(handle, 100, 0).decode() or '?'})"
            ) from error
        os.truncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(handle)
