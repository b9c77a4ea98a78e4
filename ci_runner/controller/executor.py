"""`Executor`: the threads that perform actions, and the one place that handles their errors.

Nothing waits for an action: it runs in a pool, its effects are in the store and the engine, and the next tick sees
them. Environment builds have a separate pool, so that they never delay anything else; so has what is done after jobs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ci_runner.controller import actions
from ci_runner.controller.backoff import Backoff
from ci_runner.controller.handlers import ActionHandlers, Interrupted
from ci_runner.errors import DatabaseBusy, LeaseLost, NotFound, PermanentError, TemporaryError
from ci_runner.logs import outages
from ci_runner.model.verdict import failed

_log = logging.getLogger(__name__)

#: Threads for everything but preparations.
WORKERS: Final = 8
#: Threads that collect jobs' files, so that large files never delay anything else.
COLLECTORS: Final = 2
#: Unexpected failures in a row after which a job is given up.
PATIENCE: Final = 5

#: Actions before a job runs: if one fails permanently, the job fails with the reason.
_TOWARDS_RUNNING: Final = (actions.Claim, actions.Prepare, actions.Launch, actions.Record, actions.Retry)
_TOUCH_ENGINE: Final = (
    actions.Prepare,
    actions.Launch,
    actions.Stop,
    actions.Kill,
    actions.Clean,
    actions.RemoveContainer,
)

#: The engine may show their effect only later, so they are not repeated at once.
_SLOW_TO_SHOW: Final = (actions.Kill, actions.RemoveContainer)
#: Seconds for which they are not repeated.
SETTLE_TIME: Final = 1.0


class Executor:
    """Runs actions. `wake` is called after each; `fatal` when the lease is lost."""

    def __init__(
        self,
        steps: ActionHandlers,
        *,
        wake: Callable[[], None],
        fatal: Callable[[BaseException], None],
        backoff: Backoff | None = None,
    ) -> None:
        policy = steps.policy
        self._steps = steps
        self._wake = wake
        self._fatal = fatal
        self.backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._in_flight: dict[str, list[str]] = {}
        self._touched = True
        self._preparing = ThreadPoolExecutor(
            policy.concurrency + 2 * policy.most_building + 1, thread_name_prefix="prepare"
        )
        self._acting = ThreadPoolExecutor(WORKERS, thread_name_prefix="act")
        self._collecting = ThreadPoolExecutor(COLLECTORS, thread_name_prefix="collect")
        self._waiting = ThreadPoolExecutor(1, thread_name_prefix="later")
        steps.later = self._waiting.submit
        self._warming = ThreadPoolExecutor(1, thread_name_prefix="warm")
        steps.warm_later = self._warming.submit

    def submit(self, action: actions.Action) -> None:
        """Begin an action and return at once."""
        with self._lock:
            self._in_flight.setdefault(action.subject, []).append(type(action).__name__)
        pool = self._preparing if isinstance(action, actions.Prepare) else self._acting
        if isinstance(action, actions.Finish) and action.collect:
            pool = self._collecting
        pool.submit(self._run, action)

    def in_flight(self) -> Mapping[str, frozenset[str]]:
        """Return subject → names of the actions in progress for it."""
        with self._lock:
            return {subject: frozenset(names) for subject, names in self._in_flight.items()}

    def pop_touched(self) -> bool:
        """Return whether an action may have changed a container since the last call."""
        with self._lock:
            touched, self._touched = self._touched, False
            return touched

    def close(self) -> None:
        """Wait for actions in progress (preparations give up); leave containers as they are."""
        self._steps.closing.set()
        self._preparing.shutdown(wait=True, cancel_futures=True)
        self._collecting.shutdown(wait=True, cancel_futures=True)
        self._acting.shutdown(wait=True, cancel_futures=True)
        self._waiting.shutdown(wait=True, cancel_futures=True)
        self._warming.shutdown(wait=True, cancel_futures=True)

    def _run(self, action: actions.Action) -> None:
        try:
            self._steps.perform(action)
            if isinstance(action, _SLOW_TO_SHOW):
                self.backoff.hold(action.key, self._steps.now(), SETTLE_TIME)
            else:
                self.backoff.succeeded(action.key)
        except Exception as error:
            self._judge(action, error)
        finally:
            with self._lock:
                # Set before the action leaves flight: once it is no longer listed, a tick must list the containers
                # again.
                self._touched = self._touched or _touches_engine(action)
                names = self._in_flight[action.subject]
                names.remove(type(action).__name__)
                if not names:
                    del self._in_flight[action.subject]
            self._wake()

    def _judge(self, action: actions.Action, error: Exception) -> None:
        """Retry a temporary error later, fail the job on a permanent one, and end the controller on a lost lease.

        Retry any other error a few times.
        """
        if isinstance(error, LeaseLost):
            self._fatal(error)
            return
        if isinstance(error, (Interrupted, NotFound)):
            return
        now = self._steps.now()
        count = self.backoff.failed(action.key, now, getattr(error, "retry_after", 0.0))
        if isinstance(error, TemporaryError):
            if count == 1:
                self._report_temporary(action, error)
        elif isinstance(error, PermanentError) and isinstance(action, _TOWARDS_RUNNING):
            self._give_up(action, str(error))
        else:
            words = f"{type(error).__name__}: {error}"
            _log.error(
                "%s failed (%d times): %s", action.key, count, words, exc_info=error if count == 1 else None
            )
            if count >= PATIENCE and isinstance(action, _TOWARDS_RUNNING):
                doing = type(action).__name__.lower()
                self._give_up(action, f"internal error of the runner ({doing}: {type(error).__name__})")

    def _report_temporary(self, action: actions.Action, error: Exception) -> None:
        """Report a temporary error to the operator, and to the user of the delayed job."""
        if isinstance(error, DatabaseBusy):
            outages.report(_log, action.key, error)
            return
        _log.warning("%s: %s; trying again", action.key, error)
        if isinstance(action, (actions.Prepare, actions.Launch)):
            try:
                self._steps.add_log_line(action.job_id, f"{error}; trying again")
            except Exception:  # probably the same problem
                _log.debug(
                    "the failure could not be written to the log of job %s", action.job_id, exc_info=True
                )

    def _give_up(self, action: actions.JobAction, reason: str) -> None:
        try:
            self._steps.end(action.job_id, failed(reason))
            self.backoff.succeeded(action.key)
        except LeaseLost as error:
            self._fatal(error)
        except Exception as error:
            outages.report(_log, f"job {action.job_id} could not be ended", error)


def _touches_engine(action: actions.Action) -> bool:
    removes = isinstance(action, actions.Finish) and action.going is not None
    return removes or isinstance(action, _TOUCH_ENGINE)
