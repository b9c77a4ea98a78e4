"""Thread that listens to an engine's events: hints that something changed, not the change itself.

Events can be lost (the engine restarts, its buffer overruns). So every reconnection wakes, too, and a woken listener
lists the containers again.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Final

from ci_runner.controller.engine import LABEL_INSTALL
from ci_runner.controller.engines.docker.api import DockerAPI, translated
from ci_runner.controller.engines.docker.docker_json import EventStream
from ci_runner.errors import EngineUnavailable, RunnerError

log = logging.getLogger(__name__)

#: Seconds between attempts to connect: doubled from the first to the last.
_FIRST_PAUSE: Final = 0.1
_LAST_PAUSE: Final = 5.0


class DockerEvents:
    """Calls every registered `wake` after each event of this install's containers.

    Before that, it calls `ended` with the id of a container that died. Engines announce a death before their lists
    show it, so a list could miss it until the next full pass; inspecting the one container waits for it.
    """

    def __init__(self, api: DockerAPI, install: str, ended: Callable[[str], object]) -> None:
        self._api = api
        self._ended = ended
        self._filters = {
            "type": "container",
            "label": f"{LABEL_INSTALL}={install}",
            "event": ["create", "start", "die", "oom", "destroy"],
        }
        self._lock = threading.Lock()
        self._wakes: list[Callable[[], None]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._stream: EventStream | None = None
        #: Set while a stream is open: no change is missed from then on.
        self.connected = threading.Event()

    def add(self, wake: Callable[[], None]) -> None:
        """Register `wake`; the first registration starts the thread."""
        with self._lock:
            self._wakes.append(wake)
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="docker-events", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread, even while it waits."""
        self._stop.set()
        with self._lock:
            self._close_stream()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            try:
                self._listen()
                pause = _FIRST_PAUSE
            except EngineUnavailable as error:  # the controller reports it once, for it lists containers
                log.debug("engine events: %s; trying again", error)
            except RunnerError as error:
                if not self._stop.is_set():
                    log.warning("engine events: %s; trying again", error)
            self.connected.clear()
            self._stop.wait(pause)
            pause = min(pause * 2, _LAST_PAUSE)

    def _listen(self) -> None:
        """Read one connection until it ends. Uses its own client, so that reading does not block other calls."""
        with contextlib.closing(self._api.open()) as client, translated("listen to events"):
            with self._lock:
                if self._stop.is_set():
                    return
                stream = self._stream = client.events(decode=True, filters=self._filters)
            try:
                self.connected.set()
                self._wake()
                for event in stream:
                    self._handle(event)
                    self._wake()
            finally:
                with self._lock:
                    self._close_stream()

    def _handle(self, event: object) -> None:
        if not isinstance(event, dict) or event.get("status") != "die":
            return
        with contextlib.suppress(RunnerError):  # the next full pass notices
            self._ended(str(event.get("id") or ""))

    def _close_stream(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            # Only the SDK treats closing twice, or after the engine, as an error.
            with contextlib.suppress(OSError, AttributeError):
                stream.close()

    def _wake(self) -> None:
        with self._lock:
            wakes = list(self._wakes)
        for wake in wakes:
            wake()
