"""The private runner that `pytest --remote-ci` starts if no runner is configured: one user, loopback, both programs.

It differs from a team's runner only in its assumptions: a free port, any engine that works, the package settings of
the user who starts it, a user `local` with a key that only the announcement file has, and an end once it is idle
(never with an unfinished job). The client finds and starts it (`pytest_remote_ci.client.embedded_runner`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_runner import programs
from ci_runner.errors import RunnerError, SettingsError
from ci_runner.model import api_keys
from ci_runner.model.job import APIKey, User, utcnow
from ci_runner.settings.loader import Loaded
from ci_runner.storage import data_dir as datadir

if TYPE_CHECKING:
    from ci_runner.store import Store
    from ci_runner.store.job_repository import JobRepository

_log = logging.getLogger(__name__)

EMAIL: Final = "local@localhost"
KEY_NAME: Final = "embedded"
#: Seconds without requests and unfinished jobs after which it ends.
IDLE_EXIT: Final = 900.0

#: Bytes of memory of a job, as far as the machine has them.
_LEAST_MEMORY: Final = 2 << 30

#: Setting → variables with the same meaning for other tools of the user; the first that is set counts.
_HOST_VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "environments.ca_bundle": ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    "environments.index_url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"),
    "environments.extra_index_urls": ("UV_EXTRA_INDEX_URL", "PIP_EXTRA_INDEX_URL"),
    "environments.http_proxy": ("HTTP_PROXY", "http_proxy"),
    "environments.https_proxy": ("HTTPS_PROXY", "https_proxy"),
    "environments.no_proxy": ("NO_PROXY", "no_proxy"),
}


def layers(
    arguments: Mapping[str, object], environ: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Return the settings that an embedded runner forces (unless its command line overrides them), and its defaults.

    A team's settings in the environment must not affect it, such as an address or a database.
    """
    if "storage.data_dir" not in arguments:
        raise SettingsError("--embedded needs --data-dir: a private runner shares nothing with another one")
    # An unknown user in the path is reported later.
    data_dir = os.path.expanduser(str(arguments["storage.data_dir"]))  # noqa: PTH111  # does not fail
    database = str(Path(data_dir) / "runner.db")
    forced = {
        "serve.host": "127.0.0.1",
        "serve.port": "0",
        "serve.reconcile": "true",
        "storage.database": database,
    }
    assumed = {"reconcile.engine": "auto", "serve.idle_exit": str(IDLE_EXIT), **machine_limits()}
    defaults = {name: (value, "embedded") for name, value in assumed.items()}
    return (
        {name: value for name, value in forced.items() if name not in arguments},
        defaults | host_package_settings(environ),
    )


def machine_limits() -> dict[str, str]:
    """Return settings by which a job of the machine's only user may have what a local pytest would have.

    All processors, and most of the memory: beyond that, the system would end any process of the machine.
    """
    found = {"reconcile.cpus": str(available_processors())}
    memory = total_memory()
    if memory is not None:
        most = max(memory * 3 // 4, min(memory, _LEAST_MEMORY))
        found |= {"reconcile.memory": str(most), "reconcile.max_memory": str(memory)}
    return found


def available_processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


def total_memory() -> int | None:
    """Return the bytes of memory of this machine; None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def host_package_settings(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return setting id → value and its variable, so that the runner uses the same settings as the user's pip."""
    found = {}
    for setting, variables in _HOST_VARIABLES.items():
        for variable in variables:
            value = environ.get(variable)
            if not value or (setting.endswith("ca_bundle") and not Path(value).is_file()):
                continue
            if setting.endswith("urls"):
                value = ",".join(part for part in value.split() if not part.startswith("file:"))
            elif setting.endswith("index_url") and value.startswith("file:"):
                continue  # of no use in a container
            if value:
                found[setting] = (value, variable)
                break
    return found


def serve(loaded: Loaded, *, announce: Path) -> int:
    """Run until idle or stopped; return the exit code. Raises `Busy` if the data directory is already in use."""
    data_dir = loaded.settings.storage.data_dir
    datadir.prepare(data_dir)
    with datadir.locked(data_dir / "embedded.lock", "an embedded runner"):
        seconds = loaded.settings.serve.idle_exit
        return programs.serve(
            loaded,
            announce=announce,
            facts=lambda store: {"key": make_key(store)},
            watch=None if seconds is None else Idleness(seconds).watch,
        )


def make_key(repository: JobRepository) -> str:
    """Return a new key of the user `local`, made if missing; revoke its older keys."""
    user = repository.get_user_by_email(EMAIL)
    if user is None:
        user = repository.create_user(User(str(uuid.uuid4()), "local", EMAIL, utcnow()))
    for old in repository.list_api_keys(user.id):
        if old.name == KEY_NAME and old.is_active:
            repository.revoke_api_key(old.id)
    key = api_keys.generate()
    repository.create_api_key(APIKey(key.id, user.id, key.hash, KEY_NAME, utcnow()))
    return key.text


class Idleness:
    """Ends the program after `seconds` without a request, an open stream or an unfinished job."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._busy_at = time.monotonic()

    def watch(self, store: Store, idle_seconds: Callable[[], float], stop: threading.Event) -> None:
        """Start watching, in a thread that ends with `stop`."""
        threading.Thread(
            target=self._run, args=(store, idle_seconds, stop), name="idleness", daemon=True
        ).start()

    def _run(self, store: Store, idle_seconds: Callable[[], float], stop: threading.Event) -> None:
        try:
            while not stop.wait(min(1.0, self._seconds / 4)):
                idle = min(idle_seconds(), time.monotonic() - self._busy_at)
                if idle >= self._seconds and not self._is_busy(store):
                    _log.info("idle for %g s: ending", idle)
                    stop.set()
        finally:
            with contextlib.suppress(RunnerError):
                store.release()

    def _is_busy(self, store: Store) -> bool:
        try:
            busy = bool(store.jobs.open())
        except RunnerError:
            _log.exception("cannot find out whether jobs are unfinished")
            return True
        if busy:
            self._busy_at = time.monotonic()
        return busy
