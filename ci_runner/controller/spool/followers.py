"""`Followers`: one thread that turns what running containers say into stored events, live.

The loop tells it each tick which spools to read and which of their containers are over; it tells the loop
what the spools of those say, once they are read to the end. Everything else goes to the store, events and
offsets in one transaction, so a follower that dies anywhere neither loses nor repeats a byte. A slow database
slows only this thread: containers write to files and never wait for it.
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
from ci_runner.controller.snapshot import Ending
from ci_runner.controller.spool import reader as spool
from ci_runner.controller.spool.log_budget import within_budget
from ci_runner.controller.spool.masking import NOTHING_TO_MASK, Masker
from ci_runner.controller.spool.reader import Reading, Spool
from ci_runner.errors import Conflict, LeaseLost
from ci_runner.model.job import Job, JobEvent
from ci_runner.store import SecretsUnreadable, SpoolPosition, Store

_log = logging.getLogger(__name__)

_BEFORE = failpoints.register("controller.follow.before", "output read from a spool, not yet stored")
_AFTER = failpoints.register("controller.follow.after", "output and offsets stored")
_STARTED = failpoints.register(
    "controller.follow.started", "phase testing stored, the frame that says so not"
)
_DRAINED = failpoints.register("controller.follow.drained", "spool read to its end, the loop does not know")

#: Seconds between two looks at spools that say nothing.
POLL: Final = 0.01
#: Seconds for which output waits for the frame that says what comes before it.
PATIENCE: Final = 0.25
#: Seconds for which a spool is left alone after an error.
PAUSE: Final = 0.5

Key = tuple[str, int]


@dataclass
class _Follower:
    """One attempt's spool; owned by the followers' thread."""

    job: Job
    spool: Spool
    #: None: to be read from the store (at the beginning, and after an error, when it is unknown what was
    #: stored).
    position: SpoolPosition | None = None
    #: What the store has: `position`, or less by frames that made no events.
    kept: SpoolPosition | None = None
    #: Bytes of log text stored for the job.
    stored: int = 0
    #: Finds what its events must not contain.
    masker: Masker = NOTHING_TO_MASK
    #: Why that cannot be found, so that nothing of the output may be shown.
    hidden: str | None = None
    has_noticed: bool = False
    started: bool = False
    #: Monotonic time since when there has been output that no frame covers.
    behind_since: float | None = None
    #: Monotonic time before which nothing is to be done.
    paused_until: float = 0.0


@dataclass
class Followers:
    """Reads the spools of `work`'s folders. `fatal` is called, once, when the lease is lost."""

    store: Store
    epoch: int
    #: The folder of all attempts' working folders.
    work: Path
    #: Bytes of log text kept per job.
    budget: int
    #: The controller's clock, for deadlines; and what to call when a spool was read to its end.
    now: Callable[[], dt.datetime]
    wake: Callable[[], None]
    fatal: Callable[[BaseException], None]
    _followers: dict[Key, _Follower] = field(default_factory=dict)
    _wanted: Mapping[Key, Follow] = field(default_factory=dict)
    _endings: dict[Key, Ending] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._work_to_do = threading.Event()
        self._thread = threading.Thread(target=self._run, name="followers", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """End the thread; what was read is stored."""
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

    def endings(self) -> Mapping[Key, Ending]:
        """What the spools say that are over, or have the worker's last word, and are read to their end."""
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
        """One look at every spool; whether there is more to read at once."""
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
        except Exception:
            _log.exception("job %s: its output could not be stored; trying again", follower.job.id)
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
            self._record_start(follower)
        self._store(key, follower, position, reading, over)
        # The worker's last frame comes after everything else: nobody has to wait for the container to go.
        said_all = reading.exit is not None and not reading.behind
        if (over or said_all) and not reading.more:
            self._end(key, follower, over)
        return reading.more

    def _locate(self, key: Key, follower: _Follower) -> None:
        """Go on where the stored events end."""
        job = self.store.jobs.get(key[0])
        follower.position = follower.kept = self.store.events.position(*key)
        follower.stored = job.log_bytes if job is not None else 0
        follower.started = job is not None and job.phase != "starting"
        follower.behind_since = None
        if job is not None and job.run_id is not None and job.options.secrets:
            try:
                follower.masker = Masker(self.store.runs.secrets(job.run_id).values())
            except SecretsUnreadable as error:
                _log.error("job %s: its output is not shown: %s", job.id, error)
                follower.hidden = str(error)

    def _record_start(self, follower: _Follower) -> None:
        """The user's command runs: from here on the job is never started again."""
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
        """Append what was read. A position that only passed frames is stored when the spool is at its end."""
        only_frames = replace(reading.position, frames=before.frames) == before
        if not reading.events and only_frames and not (over and reading.position != before):
            follower.position = reading.position
            return
        found = reading.events if follower.hidden is None else self._notice(follower, reading)
        events, size = within_budget(found, follower.stored, self.budget)
        failpoints.hit(_BEFORE)
        # What is kept may lie behind `before` by frames that made no events; they are read again after a crash,
        # which changes nothing. Where the store has another position, these bytes are in it already.
        self.store.events.append(
            key[0], self.epoch, events, spool=reading.position, attempt=key[1], expected=follower.kept
        )
        follower.position = follower.kept = reading.position
        follower.stored += size
        failpoints.hit(_AFTER)

    def _notice(self, follower: _Follower, reading: Reading) -> tuple[JobEvent, ...]:
        """In place of output that may hold secrets which cannot be masked: one line that says so, once."""
        if follower.has_noticed or not reading.events:
            return ()
        follower.has_noticed = True
        text = f"[the output is not shown, because its secrets cannot be masked: {follower.hidden}]\n"
        return (JobEvent("log", text, fields={"stream": "runner"}),)

    def _end(self, key: Key, follower: _Follower, over: bool) -> None:
        last = spool.final_frame(follower.spool, over=over)
        if last is None and not over:
            return  # it was not the worker who said so, or something follows
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
                self._endings[key] = Ending(follower.started, last, running)
        self.wake()
