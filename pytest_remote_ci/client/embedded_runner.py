"""The embedded runner: a private runner of this user on this machine's loopback, for when none is configured.

It is started on demand and announces itself in a file that only the user can read. The next run finds it there, so
its caches stay warm. It stops by itself when idle. The runner itself is `ci_runner`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_remote_ci import __version__
from pytest_remote_ci.config.user_file import home_folder
from pytest_remote_ci.errors import ClientError, ConfigError, RunnerUnreachable

if TYPE_CHECKING:
    from pytest_remote_ci.config.config import Config

#: The address that is tried if a key is configured, but no address.
DEFAULT_URL = "http://localhost:8000"
#: The modules of the `runner` extra; if one is missing, the extra is not installed.
_EXTRA = ("ci_runner", "falcon", "waitress", "peewee", "docker", "msgspec", "cryptography", "yaml", "uv")
#: Bytes of free space without which it cannot start.
_SPACE = 1 << 20
#: Seconds in which a stopped runner must have ended.
_STOP_TIME = 15.0
_OLD_SETTINGS = (
    "the runner on this machine has unfinished jobs and keeps its settings (CI_RUNNER_…) until they end"
)
#: Seconds in which a started runner must answer.
START_TIME = 60.0
#: Variables that must not reach the runner: keys and addresses of other runners, settings of this pytest.
_WITHHELD = frozenset({"REMOTE_CI_API_KEY", "CI_API_KEY", "REMOTE_CI_URL", "CI_SERVER_URL", "PYTEST_ADDOPTS"})
#: Starts a program that outlives this process. It is detached, so it leaves no zombie and gets no signals from this
#: terminal.
_DETACH = (
    "import subprocess, sys\n"
    "log = open(sys.argv[1], 'wb')\n"
    "child = subprocess.Popen(\n"
    "    sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)\n"
    "print(child.pid)\n"
)


@dataclass(frozen=True)
class Runner:
    """The address and key of the runner that jobs are sent to."""

    url: str
    key: str | None
    #: A line for the user about limitations of this runner.
    warning: str | None = None


def find(config: Config, *, notify: Callable[[str], None] = lambda text: None, starts: bool = True) -> Runner:
    """Return the configured runner, else the one on this machine's usual port, else the user's embedded one.

    `notify` is called with a line of text if a start takes a while. Without `starts`, an embedded runner that is not
    running raises `RunnerUnreachable`. Raises `ConfigError` if no runner can be found.
    """
    if config.url is not None:
        return Runner(config.url, config.api_key)
    if config.api_key is not None and _answers(DEFAULT_URL):
        return Runner(DEFAULT_URL, config.api_key)
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        raise ConfigError(
            "no runner is configured: run `remote-ci login` to name one, or "
            "`pip install 'pytest-remote-ci[runner]'` to run the tests in a runner of your own "
            f"(not installed: {', '.join(missing)})"
        )
    if not starts:
        running = _running(folder())
        if running is None:
            raise RunnerUnreachable(
                "the runner on this machine is not running (it ends when it is idle); "
                "`pytest --remote-ci` starts it"
            )
        return running
    return ensure(folder(), notify=notify)


def folder(environ: Mapping[str, str] = os.environ, home: Path | None = None) -> Path:
    """Return the data folder of this version's embedded runner, below the user's data folder."""
    home = home_folder() if home is None else home
    if sys.platform == "darwin":
        base = home / "Library" / "Application Support"
    else:
        named = environ.get("XDG_DATA_HOME", "")
        base = Path(named) if Path(named).is_absolute() else home / ".local" / "share"
    return base / "pytest-remote-ci" / f"runner-{__version__}"


def ensure(
    place: Path,
    *,
    command: Sequence[str] = (sys.executable, "-m", "ci_runner"),
    notify: Callable[[str], None] = lambda text: None,
    start_time: float = START_TIME,
) -> Runner:
    """Return the embedded runner in `place`; start it if it is not running.

    A lock ensures that concurrent callers start only one. Raises `RunnerUnreachable` with the last line of the
    runner's log if it does not answer within `start_time` seconds.
    """
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{place}: cannot be created ({error.strerror}); the embedded runner needs this folder"
        ) from error
    running = _running(place)
    if running is not None and not _has_old_settings(place):
        return running
    with _locked(place / "start.lock"):
        running = _running(place)  # another process may have started it meanwhile
        if running is not None and _has_old_settings(place):
            if not _stop_if_idle(place, running):
                return replace(running, warning=" ".join(filter(None, (running.warning, _OLD_SETTINGS))))
            running = None
        if running is not None:
            return running
        notify("starting a runner on this machine")
        return _start(place, command, start_time)


def _settings_digest(environ: Mapping[str, str] = os.environ) -> str:
    """Return a digest of the variables that are settings of a runner."""
    found = {
        name: value
        for name, value in environ.items()
        if name.startswith("CI_RUNNER_") or name == "DOCKER_HOST"
    }
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _has_old_settings(place: Path) -> bool:
    """Return whether the runner was started with other settings than those of now."""
    try:
        return (place / "settings.digest").read_text("ascii") != _settings_digest()
    except (OSError, ValueError):
        return False


def _stop_if_idle(place: Path, runner: Runner) -> bool:
    """Stop the runner if it has no unfinished job; return whether it has ended."""
    from pytest_remote_ci.client.client import Client

    try:
        with Client(runner.url, runner.key, connect_timeout=2.0) as client:
            if client.jobs(status="running", limit=1) or client.jobs(status="queued", limit=1):
                return False
        pid = int(json.loads((place / "runner.json").read_text("utf-8"))["pid"])
        os.kill(pid, signal.SIGTERM)
    except (ClientError, OSError, ValueError, KeyError, TypeError):
        return False
    gives_up_at = time.monotonic() + _STOP_TIME
    while time.monotonic() < gives_up_at:
        if not _is_alive(pid):
            return True
        time.sleep(0.05)
    return False


def _start(place: Path, command: Sequence[str], start_time: float) -> Runner:
    announcement, log = place / "runner.json", place / "runner.log"
    announcement.unlink(missing_ok=True)
    argv = [
        *command,
        "serve",
        "--embedded",
        "--announce",
        str(announcement),
        "--data-dir",
        str(place / "data"),
    ]
    environ = {name: value for name, value in os.environ.items() if name not in _WITHHELD}
    detach = [sys.executable, "-I", "-S", "-c", _DETACH, str(log), *argv]
    (place / "settings.digest").write_text(_settings_digest(), "ascii")
    log.touch(0o600)  # reports a full disk here
    pid = int(
        subprocess.run(detach, check=True, cwd=place, env=environ, timeout=30, stdout=subprocess.PIPE).stdout
    )
    gives_up_at = time.monotonic() + start_time
    while time.monotonic() < gives_up_at:
        running = _running(place)
        if running is not None:
            return running
        if not _is_alive(pid):
            break
        time.sleep(0.05)
    why = _last_line(log)
    if shutil.disk_usage(place).free < _SPACE:
        why = f"the disk of {place} is full"
    raise RunnerUnreachable(f"the embedded runner did not start: {why} (its log: {log})")


def _running(place: Path) -> Runner | None:
    """Return the announced runner if this user owns it and it is alive, of this version, and answers."""
    announcement = place / "runner.json"
    try:
        if hasattr(os, "geteuid") and announcement.stat().st_uid != os.geteuid():
            return None
        announced = json.loads(announcement.read_text("utf-8"))
        url, key, pid = str(announced["url"]), str(announced["key"]), int(announced["pid"])
        warning, version = announced.get("warning"), announced.get("version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if version != __version__ or not _is_alive(pid) or not _answers(url):
        return None
    return Runner(url, key, str(warning) if warning else None)


def _answers(url: str) -> bool:
    from pytest_remote_ci.client.client import Client

    with Client(url, None, connect_timeout=2.0) as client:
        return client.is_healthy()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:  # a zombie whose parent has not reaped it yet counts as dead
        return Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return True


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:
        raise ConfigError(
            "the embedded runner needs Linux or macOS: run `remote-ci login` to use another runner"
        ) from None
    try:
        opened = file.open("ab")
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be written ({error.strerror}); the embedded runner needs it"
        ) from error
    with opened as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip() if lines else "it printed nothing"
