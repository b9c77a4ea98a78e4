"""`Followers`: one thread that stores running containers' output as events, live.

On each tick, the loop passes the spools to read, with which of their containers have ended, and gets the results of
spools that have been read to the end. Everything else goes to the store, events and offsets in one transaction, so a
follower that dies anywhere neither loses nor repeats a byte. A slow database slows only this thread: containers write
to files and never wait for it.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ci_runner import failpoints
from ci_runner.controller.decide import Follow
from ci_runner.controller.snapshot import SpoolResult
from ci_runner.controller.spool import reader as spool
from ci_runner.controller.spool.log_budget import within_budget
from ci_runner.controller.spool.masking import NOTHING_TO_MASK, Masker
from ci_runner.controller.spool.reader import Reading, Spool
from ci_runner.controller.timing import JobTimer
from ci_runner.errors import Conflict, LeaseLost
from ci_runner.logs import outages
from ci_runner.model.job import Job, JobEvent
from ci_runner.store import SecretsUnreadable, SpoolPosition, Store

_log = logging.getLogger(__name__)

_BEFORE = failpoints.register("controller.follow.before", "output read from a spool, not yet stored")
_AFTER = failpoints.register("controller.follow.after", "output and offsets stored")
_STARTED = failpoints.register(
    "controller.follow.started", "phase testing stored, the frame that reports it not"
)
_DRAINED = failpoints.register("controller.follow.drained", "spool read to its end, the loop does not know")

#: Seconds between two checks of spools without new output.
POLL: Final = 0.01
#: Seconds for which output waits for the frame that follows it.
PATIENCE: Final = 0.25
#: Seconds for which a spool is left alone after an error.
PAUSE: Final = 0.5

Key = tuple[str, int]


@dataclass
class _Follower:
    """One attempt's spool; only the followers' thread uses it."""

    job: Job
    spool: Spool
    #: None: read it from the store (at the beginning, and after an error, when it is unknown what was stored).
    position: SpoolPosition | None = None
    #: The store's position: `position`, or earlier by frames that made no events.
    stored_position: SpoolPosition | None = None
    #: Bytes of log text stored for the job.
    stored: int = 0
    #: Masks secrets in its events.
    masker: Masker = NOTHING_TO_MASK
    #: Why secrets cannot be masked, so that no output may be shown.
    hidden: str | None = None
    has_noticed: bool = False
    started: bool = False
    #: Monotonic time since when there has been output without a frame.
    behind_since: float | None = None
    #: Monotonic time until which the spool is left alone.
    paused_until: float = 0.0


@dataclass
class Followers:
    """Reads the spools in `work`'s folders. `fatal` is called, once, when the lease is lost."""

    store: Store
    epoch: int
    #: Parent folder of all attempts' working folders.
    work: Path
    #: Maximum bytes of log text stored per job.
    budget: int
    #: The controller's clock, for deadlines; then the function to call when a spool was read to its end.
    now: Callable[[], dt.datetime]
    wake: Callable[[], None]
    fatal: Callable[[BaseException], None]
    timer: JobTimer = field(default_factory=JobTimer)
    _followers: dict[Key, _Follower] = field(default_factory=dict)
    _wanted: Mapping[Key, Follow] = field(default_factory=dict)
    _endings: dict[Key, SpoolResult] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._work_to_do = threading.Event()
        self._thread = threading.Thread(target=self._run, name="followers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; all that was read is stored."""
        self._stop.set()
        self._work_to_do.set()
        if self._thread.ident is not None:
            self._thread.join()

    def sync(self, wanted: Mapping[Key, Follow]) -> None:
        """Read these spools from now on, and no others."""
        with self._lock:
            self._wanted = wanted
            self._endings = {key: ending for key, ending in self._endings.items() if key in wanted}
        if wanted:
            self._work_to_do.set()

    def endings(self) -> Mapping[Key, SpoolResult]:
        """Return the results of spools that are read to the end, and have an ended container or an exit frame."""
        with self._lock:
            return dict(self._endings)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if not self._round():
                    self._stop.wait(POLL)
                if not self._followers:
                    self._work_to_do.wait(1.0)
                    self._work_to_do.clear()
        except LeaseLost as error:
            self.fatal(error)
        finally:
            for follower in self._followers.values():
                follower.spool.close()
            self.store.release()

    def _round(self) -> bool:
        """Read every spool once; return whether there is more to read at once."""
        with self._lock:
            wanted = {key: follow for key, follow in self._wanted.items() if key not in self._endings}
        for key in self._followers.keys() - wanted.keys():
            self._followers.pop(key).spool.close()
        more = False
        for key, follow in wanted.items():
            if self._stop.is_set():
                return False
            follower = self._followers.get(key)
            if follower is None:
                folder = self.work / f"{key[0]}-{key[1]}" / "spool"
                follower = self._followers[key] = _Follower(follow.job, Spool(folder))
            if follower.paused_until <= time.monotonic():
                more = self._step_safely(key, follower, follow.over) or more
        return more

    def _step_safely(self, key: Key, follower: _Follower, over: bool) -> bool:
        try:
            return self._step(key, follower, over)
        except LeaseLost:
            raise
        except Conflict:
            _log.warning("job %s: this output is stored already; reading on from where it ends", key[0])
            follower.position = None
            return True
        except Exception as error:
            outages.report(_log, f"job {follower.job.id}: its output could not be stored", error)
            follower.position = None
            follower.paused_until = time.monotonic() + PAUSE
            return False

    def _step(self, key: Key, follower: _Follower, over: bool) -> bool:
        if follower.position is None:
            self._locate(key, follower)
        position = follower.position
        assert position is not None
        clock = time.monotonic()
        reading = spool.read(
            follower.spool,
            position,
            now=dt.datetime.now(dt.timezone.utc),
            over=over,
            impatient=follower.behind_since is not None and clock - follower.behind_since > PATIENCE,
            discard=follower.stored >= self.budget,
            masker=follower.masker,
        )
        if not reading.behind or reading.position != position:
            follower.behind_since = None
        if reading.behind and follower.behind_since is None:
            follower.behind_since = clock
        if reading.started and not follower.started:
            self.timer.mark(key[0], "running")
            self._record_start(follower)
        self.timer.saw(key[0], reading.events)
        self._store(key, follower, position, reading, over)
        # The worker's exit frame comes after everything else, so the container's end need not be awaited.
        is_complete_spool = reading.exit is not None and not reading.behind
        if (over or is_complete_spool) and not reading.more:
            self._end(key, follower, over)
        return reading.more

    def _locate(self, key: Key, follower: _Follower) -> None:
        """Continue after the last stored event."""
        job = self.store.get_job(key[0], events=False)
        follower.position = follower.stored_position = self.store.events.position(*key)
        follower.stored = job.log_bytes if job is not None else 0
        follower.started = job is not None and job.phase != "starting"
        follower.behind_since = None
        if job is not None and job.options.secrets:
            try:
                follower.masker = Masker(self.store.secrets_of(job).values())
            except SecretsUnreadable as error:
                _log.error("job %s: its output is not shown: %s", job.id, error)
                follower.hidden = str(error)

    def _record_start(self, follower: _Follower) -> None:
        """Record that the user's command runs: the job is never started again from now on."""
        now = self.now()
        event = JobEvent("state", fields={"phase": "testing"})
        self.store.jobs.advance(
            follower.job.id, self.epoch, "starting", phase="testing", phase_since=now, events=[event]
        )
        follower.started = True
        failpoints.hit(_STARTED)

    def _store(
        self, key: Key, follower: _Follower, before: SpoolPosition, reading: Reading, over: bool
    ) -> None:
        """Store what was read. A position that only passed frames is stored at the spool's end."""
        only_frames = replace(reading.position, frames=before.frames) == before
        if not reading.events and only_frames and not (over and reading.position != before):
            follower.position = reading.position
            return
        found = reading.events if follower.hidden is None else self._notice(follower, reading)
        events, size = within_budget(found, follower.stored, self.budget)
        failpoints.hit(_BEFORE)
        # The stored position may be before `before` by frames that made no events; after a crash they are read again,
        # which changes nothing. If the store has another position, it includes these bytes already.
        self.store.events.append(
            key[0],
            self.epoch,
            events,
            spool=reading.position,
            attempt=key[1],
            expected=follower.stored_position,
        )
        follower.position = follower.stored_position = reading.position
        follower.stored += size
        failpoints.hit(_AFTER)

    def _notice(self, follower: _Follower, reading: Reading) -> tuple[JobEvent, ...]:
        """Return one line, once, in place of output with secrets that cannot be masked."""
        if follower.has_noticed or not reading.events:
            return ()
        follower.has_noticed = True
        text = f"[the output is not shown, because its secrets cannot be masked: {follower.hidden}]\n"
        return (JobEvent("log", text, fields={"stream": "runner"}),)

    def _end(self, key: Key, follower: _Follower, over: bool) -> None:
        last = spool.final_frame(follower.spool, over=over)
        if last is None and not over:
            return  # not from the worker, or more output follows
        self.timer.mark(key[0], "ended")
        running = None
        if last is None or last.stopped:
            running = spool.running_test(follower.spool)
        if follower.masker:
            running = None if running is None else follower.masker.text(running)
            if last is not None and last.died is not None:
                last = replace(last, died=follower.masker.text(last.died))
        failpoints.hit(_DRAINED)
        with self._lock:
            if key in self._wanted:
                self._endings[key] = SpoolResult(follower.started, last, running)
        self.wake()
