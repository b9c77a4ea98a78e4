"""A plugin that notifies a web server of every job that ended: signed, and with retries.

It is on if ``CI_RUNNER_WEBHOOK_URL`` and ``CI_RUNNER_WEBHOOK_SECRET`` are set. The request is a POST of JSON with the
headers ``X-CI-Runner-Event``, ``-Delivery`` (unique per event, the same for every try), ``-Timestamp`` (seconds since
the epoch) and ``-Signature-256``: ``sha256=`` and the HMAC-SHA256, by the secret, of timestamp, a full stop and the
body. Receivers can check it with `verify`. Deliveries wait in memory only: those still waiting when the program ends
get one last try.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import itertools
import json
import logging
import random
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ci_runner.errors import SettingsError
from ci_runner.model.job import Job
from ci_runner.plugins.hookspecs import hookimpl
from pytest_remote_ci import __version__

_log = logging.getLogger(__name__)

#: Seconds before the second, third, … try; each is lengthened by a random part of up to a quarter.
RETRIES: Final = (1.0, 5.0, 30.0, 120.0, 600.0)
#: Seconds for one try.
TIMEOUT: Final = 10.0
#: Maximum number of waiting deliveries; beyond it, the oldest is dropped.
MOST_WAITING: Final = 1000
#: Seconds for the last tries when the program ends.
_PARTING: Final = 5.0
#: Statuses that may change with another try, in addition to 5xx.
_TRY_AGAIN: Final = frozenset({408, 425, 429})


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the value of ``X-CI-Runner-Signature-256``."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, *, now: float, tolerance: float = 300.0
) -> bool:
    """Return whether a request is signed with the secret and at most `tolerance` seconds old; for receivers."""
    plain = {name.lower(): value for name, value in headers.items()}
    timestamp = plain.get("x-ci-runner-timestamp", "")
    signature = plain.get("x-ci-runner-signature-256", "")
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now - int(timestamp)) > tolerance:
        return False
    return hmac.compare_digest(sign(secret, timestamp, body).encode(), signature.encode())


@dataclass(frozen=True)
class _Delivery:
    id: str
    body: bytes
    tries: int = 0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as any other response: data is sent only to the configured URL."""

    def redirect_request(self, *arguments: object, **named: object) -> None:
        return None


class Webhooks:
    """The plugin. One thread sends; `job_finished` only adds to a queue."""

    def __init__(self, retries: Sequence[float] = RETRIES, timeout: float = TIMEOUT) -> None:
        self._retries = retries
        self._timeout = timeout
        self._url: str | None = None
        self._secret = ""
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, _Delivery]] = []
        self._numbers = itertools.count()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._opener = urllib.request.build_opener(_NoRedirect)

    @hookimpl
    def configure(self, environ: Mapping[str, str]) -> None:
        """Read the settings: both or none."""
        url, secret = environ.get("CI_RUNNER_WEBHOOK_URL"), environ.get("CI_RUNNER_WEBHOOK_SECRET")
        if not url:
            return
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("CI_RUNNER_WEBHOOK_URL: must be an http or https URL")
        if not secret or len(secret) < 16:
            raise SettingsError("CI_RUNNER_WEBHOOK_SECRET: must be set, with 16 characters at least")
        self._url, self._secret = url, secret

    @hookimpl
    def job_finished(self, job: Job) -> None:
        """Queue a delivery."""
        if self._url is None:
            return
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:uuid:{job.id}"))  # the same for a repeated call
        content = {"event": "job.finished", "delivery": identity, "job": job.to_summary_dict()}
        self._queue(_Delivery(identity, json.dumps(content).encode()), 0.0)

    @hookimpl
    def close(self) -> None:
        """Try waiting deliveries once more, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(_PARTING + self._timeout)

    def _queue(self, delivery: _Delivery, seconds: float) -> None:
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                oldest = min(self._waiting, key=lambda item: item[1])
                self._waiting.remove(oldest)
                heapq.heapify(self._waiting)
                _log.warning("webhook: too many deliveries wait; %s is given up", oldest[2].id)
            heapq.heappush(self._waiting, (time.monotonic() + seconds, next(self._numbers), delivery))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="webhooks", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _run(self) -> None:
        while (delivery := self._next()) is not None:
            self._attempt(delivery)
        deadline = time.monotonic() + _PARTING
        for _, _, delivery in sorted(self._waiting):
            if time.monotonic() < deadline:
                self._send(delivery, min(self._timeout, _PARTING))

    def _next(self) -> _Delivery | None:
        """Return the next delivery once it is due; None when the program ends."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._waiting and self._waiting[0][0] <= now:
                    return heapq.heappop(self._waiting)[2]
                self._changed.wait(self._waiting[0][0] - now if self._waiting else None)
            return None

    def _attempt(self, delivery: _Delivery) -> None:
        if self._send(delivery, self._timeout):
            return
        if delivery.tries >= len(self._retries):
            _log.error("webhook: %s was not accepted after %d tries", delivery.id, delivery.tries + 1)
            return
        pause = self._retries[delivery.tries] * random.uniform(1.0, 1.25)  # noqa: S311  # spreads load
        self._queue(_Delivery(delivery.id, delivery.body, delivery.tries + 1), pause)

    def _send(self, delivery: _Delivery, timeout: float) -> bool:
        """Make one try; return True if no further try is needed."""
        assert self._url is not None
        timestamp = str(int(time.time()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"ci-runner/{__version__}",
            "X-CI-Runner-Event": "job.finished",
            "X-CI-Runner-Delivery": delivery.id,
            "X-CI-Runner-Timestamp": timestamp,
            "X-CI-Runner-Signature-256": sign(self._secret, timestamp, delivery.body),
        }
        request = urllib.request.Request(self._url, delivery.body, headers, method="POST")  # noqa: S310  # checked
        try:
            with self._opener.open(request, timeout=timeout):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            _log.warning("webhook: delivery %s was answered with %d", delivery.id, error.code)
            return error.code < 500 and error.code not in _TRY_AGAIN
        except (OSError, ValueError) as error:
            _log.warning("webhook: delivery %s failed: %s", delivery.id, error)
            return False
