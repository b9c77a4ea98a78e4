"""``ci-runner doctor``: show the state of the installation, its problems, and their remedies.

Each check is a function that yields findings and never raises; the engine's own findings (`Engine.probe`) are shown
unchanged. The doctor changes nothing, makes no folder and no database, and may run while the runner runs.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import http.client
import json
import os
import platform
import shutil
import socket
import sqlite3
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TextIO

from ci_runner.errors import EngineUnavailable, RunnerError
from ci_runner.settings.groups import Settings
from ci_runner.settings.loader import Loaded, size_text
from ci_runner.storage import data_dir as datadir
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.control_characters import escaped, escaped_json

if TYPE_CHECKING:
    from ci_runner.controller.engine import Engine

#: Patch levels of CPython that first read crafted zip and tar files safely (CVE-2025-8194, CVE-2025-8291).
_SAFE_ARCHIVES: Final = {10: 19, 11: 14, 12: 12, 13: 8}
#: Older SQLite may damage a database when two processes checkpoint at once.
_SAFE_SQLITE: Final = (3, 51, 3)
#: Seconds without a heartbeat after which a controller counts as dead.
_STALE: Final = 60.0

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One result of a check."""

    check: str
    level: Level
    text: str
    #: What to do; empty if all is well.
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """Return a finding: all is well."""
    return Finding(check, "ok", text)


def warn(check: str, text: str, advice: str = "") -> Finding:
    """Return a finding: it works, but the operator should know."""
    return Finding(check, "warn", text, advice)


def fail(check: str, text: str, advice: str = "") -> Finding:
    """Return a finding: the runner cannot work."""
    return Finding(check, "fail", text, advice)


def python(version: Sequence[int] = sys.version_info[:3]) -> Iterator[Finding]:
    """Check the interpreter, which unpacks uploads."""
    text = ".".join(map(str, version))
    safe = _SAFE_ARCHIVES.get(version[1])
    if safe is not None and version[2] < safe:
        yield warn(
            "python",
            f"{text} has known flaws in reading crafted archives",
            f"use 3.{version[1]}.{safe} or later",
        )
    else:
        yield ok("python", f"{text} ({sys.executable})")


def sqlite(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> Iterator[Finding]:
    """Check the library behind the store."""
    text = ".".join(map(str, version))
    if version < _SAFE_SQLITE:
        yield warn(
            "sqlite",
            f"{text} may damage a database when two processes checkpoint at once (fixed in 3.51.3)",
            "the runner checkpoints from one process only; let no other program write to the database",
        )
    else:
        yield ok("sqlite", text)


def data_dir(settings: Settings) -> Iterator[Finding]:
    """Check permissions and free space."""
    folder = settings.storage.data_dir
    if folder.exists():
        text = datadir.problem(folder)
        if text:
            yield fail("data directory", text)
        elif folder.stat().st_mode & 0o077:
            yield warn("data directory", f"{folder}: others may read it", f"chmod 700 {folder}")
        else:
            yield ok("data directory", str(folder))
    else:
        yield ok("data directory", f"{folder} (created at the first start)")
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free, reserve = shutil.disk_usage(there).free, settings.storage.disk_reserve
    text = f"{formats.size(free)} free, {formats.size(reserve)} reserved"
    if free <= reserve:
        yield fail("disk", text, "free some space, or lower --disk-reserve: submissions are refused")
    elif free < 5 * reserve:
        yield warn("disk", text, "free some space: submissions are refused once the reserve is reached")
    else:
        yield ok("disk", text)


def database(settings: Settings) -> Iterator[Finding]:
    """Check the schema, damage, and the controller's heartbeat."""
    from ci_runner.store import Store

    path = settings.storage.database_path
    if not path.exists():
        yield ok("database", f"{path} (created at the first start)")
        return
    try:
        store = Store.open(path, settings.storage.data_dir / "backups", migrate=False)
    except RunnerError as error:
        older = "older schema" in str(error)
        yield (warn if older else fail)("database", str(error))
        return
    try:
        damage = store.check()
        if damage:
            yield fail(
                "database",
                f"{path} is damaged: {damage}",
                f"stop the runner, restore from {path.parent / 'backups'}",
            )
            return
        yield ok("database", f"{path} ({formats.size(path.stat().st_size)})")
        yield _controller(settings, store.lease.read().holder, store.lease.read().heartbeat_at)
    except RunnerError as error:
        yield fail("database", str(error))
    finally:
        store.close()


def _controller(settings: Settings, holder: str | None, heartbeat: dt.datetime | None) -> Finding:
    lock = settings.storage.data_dir / "reconcile.lock"
    if not _is_locked(lock):
        return warn(
            "controller",
            "no controller is running: jobs wait",
            "start ci-runner reconcile, or ci-runner serve --reconcile",
        )
    age = (dt.datetime.now(dt.timezone.utc) - heartbeat).total_seconds() if heartbeat else None
    if age is None or age > _STALE:
        seen = "never" if age is None else f"{age:.0f} s ago"
        return warn(
            "controller", f"{holder or 'unknown'} holds the lock; its last heartbeat was {seen}", "restart it"
        )
    return ok("controller", f"{holder} (last heartbeat {max(age, 0):.0f} s ago)")


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def port(settings: Settings) -> Iterator[Finding]:
    """Check whether `serve` could listen, or already does."""
    host, number = settings.serve.host, settings.serve.port
    where = f"{host}:{number}"
    if number == 0:
        yield ok("port", f"{where}: a free port is chosen")
        return
    try:
        family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
    except OSError as error:
        if _answers_as_runner(host, number):
            yield ok("port", f"{where}: a runner answers")
        else:
            yield fail(
                "port",
                f"{where}: {error.strerror or error}",
                "stop the program that listens there, or choose another --port",
            )
    else:
        yield ok("port", f"{where} is free")


def _answers_as_runner(host: str, number: int) -> bool:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # where the others listen
    connection = http.client.HTTPConnection(reachable, number, timeout=3)
    try:
        connection.request("GET", "/health")
        return bool(json.loads(connection.getresponse().read(1000)) == {"status": "ok"})
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def uv() -> Iterator[Finding]:
    """Find the installer that is mounted into environment builds."""
    beside = Path(sys.executable).parent / "uv"
    path = str(beside) if beside.is_file() else shutil.which("uv")
    if path:
        yield ok("uv", path)
    else:
        yield fail("uv", "not found next to this Python or on PATH", "pip install 'pytest-remote-ci[runner]'")


def packages(settings: Settings) -> Iterator[Finding]:
    """Check whether containers can reach the configured indexes and proxies at all."""
    from ci_runner.controller.engines.docker import allowed_hosts

    named = allowed_hosts.named(settings.environments)
    for host, number in named:
        if settings.reconcile.engine != "process" and allowed_hosts.is_loopback(host):
            yield warn(
                "packages",
                f"{host}:{number} is a loopback address, which containers cannot reach",
                "let it listen on another address of this machine, and configure that one",
            )
    if named:
        yield ok("packages", "from " + ", ".join(f"{host}:{number}" for host, number in named))


def network(settings: Settings) -> Iterator[Finding]:
    """Show the networks that jobs should reach; the engine checks whether the rest is really closed."""
    reconcile = settings.reconcile
    if reconcile.engine == "process":
        return
    if reconcile.network == "none":
        yield ok("network", "jobs reach nothing but themselves and their services")
        return
    opened = ", ".join(reconcile.allow_network) or "none"
    yield ok("network", f"jobs reach the internet; private networks that are open to them: {opened}")


def engine(settings: Settings, make: Callable[[], Engine]) -> Iterator[Finding]:
    """Check the engine, its own findings, and the default image of jobs."""
    name = settings.reconcile.engine
    try:
        found = make()
    except RunnerError as error:
        yield fail("engine", str(error), f"see --engine (now: {name})")
        return
    try:
        probe = found.probe()
        facts = ", ".join(f"{key} {value}" for key, value in probe.facts.items())
        yield (ok if probe.usable else fail)(
            "engine", f"{found.name} {probe.version}" + (f" ({facts})" if facts else "")
        )
        if not probe.isolates:
            yield warn(
                "isolation", "jobs are not isolated from each other and from this machine", "use Docker"
            )
        for index, problem in enumerate(probe.problems):
            yield (fail if index == 0 and not probe.usable else warn)("engine", problem)
        yield _image(settings, found)
    except EngineUnavailable as error:
        yield fail(
            "engine", f"{name}: {error}", "start it (scripts/start-docker does), or choose --engine process"
        )
    except RunnerError as error:
        yield fail("engine", str(error))
    finally:
        found.close()


def _image(settings: Settings, found: Engine) -> Finding:
    version = settings.reconcile.default_python
    template = settings.reconcile.base_image or "python:{python}-slim"
    reference = template.replace("{python}", version)
    try:
        image = found.image(reference, pull=False)
    except EngineUnavailable:
        raise
    except RunnerError as error:
        advice = "it is pulled at first use; where no registry can be reached: ci-runner image build, and --base-image"
        return warn("image", f"{reference}: {error}" if reference not in str(error) else str(error), advice)
    pythons = ", ".join(image.pythons) or "unknown"
    if image.pythons and version not in image.pythons:
        advice = f"set --default-python, or rebuild it with --python {version}"
        return warn("image", f"{reference} has Python {pythons}, but jobs get {version} by default", advice)
    return ok("image", f"{reference} (Python {pythons})")


def built_images(listing: Callable[[], list[tuple[str, str]]]) -> Iterator[Finding]:
    """List images made by ``ci-runner image build``."""
    for tag, pythons in listing():
        yield ok("image", f"{tag} (Python {pythons.replace(',', ', ')})")


def configuration(loaded: Loaded) -> Iterator[Finding]:
    """Show which settings were read, and from where."""
    source = str(loaded.file) if loaded.file else "no file"
    yield ok("settings", f"{source}; {len(loaded.origins)} not at their default")
    for text in loaded.warnings:
        yield warn("settings", text)


def limits(settings: Settings) -> Iterator[Finding]:
    """Compare the limits of all jobs together with the machine's resources."""
    reconcile = settings.reconcile
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = reconcile.concurrency * reconcile.memory
    each = f"{reconcile.cpus:g} processors, {size_text(reconcile.memory)} memory"
    text = f"{reconcile.concurrency} jobs at once, each {each}"
    if wanted > memory:
        yield warn(
            "limits",
            f"{text}: more than the {formats.size(memory)} of this machine",
            "lower --concurrency or --memory",
        )
    else:
        yield ok("limits", text)


def collect(
    loaded: Loaded, make_engine: Callable[[], Engine], listing: Callable[[], list[tuple[str, str]]]
) -> list[Finding]:
    """Return all findings, in the order of display; a check that raises is itself a finding."""
    settings = loaded.settings
    checks: list[tuple[str, Callable[[], Iterable[Finding]]]] = [
        ("settings", lambda: configuration(loaded)),
        ("python", python),
        ("sqlite", sqlite),
        ("data directory", lambda: data_dir(settings)),
        ("database", lambda: database(settings)),
        ("port", lambda: port(settings)),
        ("uv", uv),
        ("packages", lambda: packages(settings)),
        ("network", lambda: network(settings)),
        ("engine", lambda: engine(settings, make_engine)),
        ("image", lambda: built_images(listing)),
        ("limits", lambda: limits(settings)),
    ]
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings.extend(check())
        except Exception as error:  # the other checks must still be shown
            findings.append(fail(name, f"the check itself failed: {type(error).__name__}: {error}"))
    return findings


def show(findings: Sequence[Finding], out: TextIO, *, as_json: bool = False) -> int:
    """Print the findings; return the exit code: 1 if any check failed."""
    if as_json:
        document = {"host": platform.node(), "findings": [asdict(finding) for finding in findings]}
        out.write(escaped_json(document, indent=2) + "\n")
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            out.write(f"{finding.level:<4}  {finding.check:<{width}}  {escaped(finding.text)}\n")
            if finding.advice:
                out.write(f"{'':<4}  {'':<{width}}  → {escaped(finding.advice)}\n")
    return 1 if any(finding.level == "fail" for finding in findings) else 0
