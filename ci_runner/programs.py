"""``serve`` and ``reconcile``: assemble the parts of a program of the runner, and end them.

Parts get all their dependencies from this module and run in separate threads. A single event ends them all: on SIGINT
and SIGTERM, when a part gives up, or when an embedded runner has been idle. Containers continue without the program.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ci_runner.errors import EngineUnavailable, RunnerError, SettingsError
from ci_runner.settings.groups import Settings
from ci_runner.settings.loader import Loaded
from ci_runner.storage import data_dir
from ci_runner.storage.data_dir import Busy
from pytest_remote_ci import __version__

if TYPE_CHECKING:
    from ci_runner.controller.engine import Engine
    from ci_runner.controller.loop import Controller
    from ci_runner.plugins.manager import Plugins
    from ci_runner.store import Store
    from ci_runner.store.job_repository import JobRepository

_log = logging.getLogger(__name__)

#: A database up to this size (bytes) is checked completely at every start; `doctor` checks any size.
_CHECKED_AT_START: Final = 256 << 20
#: Seconds for the controller to end its threads.
_PATIENCE: Final = 30.0

AUTO_WARNING: Final = (
    "{why}: tests run as plain processes of this machine, not isolated from it (engine: process)"
)


class DatabaseUnusable(RunnerError):
    """The database is damaged, from a newer version, or not writable."""

    exit_code = 78


@contextlib.contextmanager
def open_store(settings: Settings, *, check: bool = False) -> Iterator[Store]:
    """Open the store in its prepared data directory; with `check`, also look for damage."""
    from ci_runner.store import Store, StoreError

    storage = settings.storage
    data_dir.prepare(storage.data_dir)
    try:
        store = Store.open(storage.database_path, storage.data_dir / "backups")
    except StoreError as error:
        raise DatabaseUnusable(str(error)) from error
    try:
        if check and storage.database_path.stat().st_size <= _CHECKED_AT_START:
            try:
                damage = store.check()
            except StoreError as error:
                raise DatabaseUnusable(str(error)) from error
            if damage:
                backups = storage.data_dir / "backups"
                raise DatabaseUnusable(f"{storage.database_path} is damaged ({damage}); see {backups}")
        yield store
    finally:
        store.close()


def stop_on_signals() -> threading.Event:
    """Return the event that ends this process: set by SIGINT and SIGTERM; a second signal ends it at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    return stop


def choose_engine(settings: Settings, plugins: Plugins) -> tuple[Engine, str | None]:
    """Return the engine in the settings, and a warning for its user; raises `SettingsError`.

    ``auto`` is Docker if it responds, else plain processes.
    """
    name = settings.reconcile.engine
    if name != "auto":
        return make_engine(name, settings, plugins), None
    engine = make_engine("docker", settings, plugins)
    try:
        probe = engine.probe()
    except EngineUnavailable as error:
        why = str(error) if isinstance(error.__cause__, PermissionError) else "no Docker engine answers"
    else:
        if probe.usable:
            return engine, None
        why = f"Docker answers, but cannot be used ({'; '.join(probe.problems)})"
    engine.close()
    return make_engine("process", settings, plugins), AUTO_WARNING.format(why=" ".join(why.split()))


def within_engine(settings: Settings, engine: Engine) -> Settings:
    """Return the settings with limits of jobs that the engine's machine can give.

    Only of an engine that was chosen automatically: it may be a virtual machine that has less than this one.
    """
    if settings.reconcile.engine != "auto":
        return settings
    try:
        facts = engine.probe().facts
    except EngineUnavailable:
        return settings
    found = settings.reconcile
    cpus, memory = (int(facts[name]) if facts.get(name, "").isdecimal() else 0 for name in ("cpus", "memory"))
    if cpus > 0:
        found = replace(found, cpus=min(found.cpus, cpus), max_cpus=min(found.max_cpus, cpus))
    if memory > 0:
        found = replace(found, memory=min(found.memory, memory), max_memory=min(found.max_memory, memory))
    return replace(settings, reconcile=found)


def make_engine(name: str, settings: Settings, plugins: Plugins) -> Engine:
    """Return a registered engine; raises `SettingsError` for an unknown name."""
    return plugins.engine(name, settings, data_dir.install_id(settings.storage.data_dir))


@contextlib.contextmanager
def probing_engine(settings: Settings) -> Iterator[Callable[[], Engine]]:
    """Yield a function that makes the engine without making a missing data directory; for `doctor`."""
    from ci_runner.plugins.manager import Plugins

    plugins = Plugins.load()
    with contextlib.ExitStack() as stack:
        if not settings.storage.data_dir.is_dir():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ci-runner-doctor-")))
            settings = replace(settings, storage=replace(settings.storage, data_dir=folder))
        yield lambda: choose_engine(settings, plugins)[0]


class ControllerThread:
    """The controller in a separate thread; `failed` is the error that ended it early."""

    def __init__(self, controller: Controller, stop: threading.Event) -> None:
        self._controller = controller
        self._stop = stop
        self.failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="controller")

    def _run(self) -> None:
        try:
            self._controller.run(self._stop)
        except BaseException as error:
            self.failed = error
        finally:
            self._stop.set()

    def start(self, patience: float = 60.0) -> None:
        """Start, and return after the first pass; raises the error that prevented the start."""
        self._thread.start()
        while patience > 0 and not self._controller.ready.wait(0.05) and not self._stop.is_set():
            patience -= 0.05
        self.check()

    def check(self) -> None:
        """Raise the error that ended the controller, if any."""
        if self.failed is not None:
            raise as_busy(self.failed)

    def join(self) -> None:
        """Stop the controller and wait for its end."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE)


def as_busy(error: BaseException) -> BaseException:
    """Return a second controller's refusal as the error that ends a program with 75, other errors unchanged."""
    from ci_runner.controller.loop import ControllerRunning

    return Busy(str(error)) if isinstance(error, ControllerRunning) else error


def make_controller(loaded: Loaded, store: Store, engine: Engine, plugins: Plugins) -> Controller:
    """Return the controller with its preparer."""
    from ci_runner.controller.loop import Controller
    from ci_runner.plugins.policy import PolicedPreparer

    settings = within_engine(loaded.settings, engine)

    def refusal() -> str | None:
        """Return the refusal, checked for each job: users may be added while the controller runs."""
        return _shared_process_engine(engine, store)

    problem = refusal()
    if problem is not None:
        raise SettingsError(problem)
    preparer = PolicedPreparer(
        plugins,
        refusal,
        storage=settings.storage,
        reconcile=settings.reconcile,
        environments=settings.environments,
        engine=engine,
        install_id=data_dir.install_id(settings.storage.data_dir),
    )
    return Controller(
        settings.storage,
        settings.reconcile,
        store=store,
        engine=engine,
        preparer=preparer,
        finished=plugins.job_finished,
    )


def _shared_process_engine(engine: Engine, repository: JobRepository) -> str | None:
    """Return why this engine must not serve this store's users, or None: plain processes see each other's files."""
    if engine.name != "process" or len([user for user in repository.list_users() if user.is_active]) <= 1:
        return None
    return (
        "the process engine does not isolate users from each other, and this runner has more than one: "
        "use Docker, or deactivate the others"
    )


def reconcile(loaded: Loaded) -> int:
    """Run the controller until a signal (``ci-runner reconcile``); return the exit code."""
    from ci_runner.plugins.manager import Plugins

    stop = stop_on_signals()
    log_start("reconcile", loaded)
    plugins = Plugins.load()
    with open_store(loaded.settings, check=True) as store, contextlib.ExitStack() as stack:
        engine, warning = choose_engine(loaded.settings, plugins)
        stack.callback(engine.close)
        stack.callback(plugins.close)
        if warning:
            _log.warning(warning)
        try:
            make_controller(loaded, store, engine, plugins).run(stop)
        except RunnerError as error:
            raise as_busy(error) from error
    _log.info("reconcile ended")
    return 0


def serve(
    loaded: Loaded,
    *,
    announce: Path | None = None,
    facts: Callable[[Store], dict[str, object]] | None = None,
    watch: Callable[[Store, Callable[[], float], threading.Event], None] | None = None,
) -> int:
    """Run the HTTP server (and the controller) until a signal (``ci-runner serve``); return the exit code.

    `announce` is written once requests are answered and removed at the end; `facts` adds to it. `watch` gets the
    store, a function that returns the seconds without requests, and the event that ends the program.
    """
    from ci_runner.plugins.manager import Plugins
    from ci_runner.server.app import create_app
    from ci_runner.server.context import Services
    from ci_runner.server.http.server import HttpServer
    from ci_runner.storage.blobs import BlobStore, job_owner

    settings = loaded.settings
    stop = stop_on_signals()
    log_start("serve", loaded)
    plugins = Plugins.load()
    controller = None
    with open_store(settings, check=True) as store, contextlib.ExitStack() as stack:
        stack.callback(plugins.close)
        data_dir.install_id(settings.storage.data_dir)
        blobs = BlobStore(settings.storage.data_dir, job_owner())
        app = create_app(Services(store, blobs, settings.serve, settings.storage, hooks=plugins.hook))
        server = HttpServer(app, settings.serve, settings.storage.data_dir)
        stack.callback(server.stop)
        document: dict[str, object] = {"url": server.url, "pid": os.getpid(), "version": __version__}
        if settings.serve.reconcile:
            engine, warning = choose_engine(settings, plugins)
            stack.callback(engine.close)
            document |= {"engine": engine.name, "warning": warning}
            if warning:
                _log.warning(warning)
            controller = ControllerThread(make_controller(loaded, store, engine, plugins), stop)
            stack.callback(controller.join)
            controller.start()
        server.start()
        if announce is not None:
            stack.enter_context(announced(announce, document | (facts(store) if facts else {})))
        if watch is not None:
            watch(store, app.idle_seconds, stop)
        while not stop.wait(1.0):
            pass
    if controller is not None:
        controller.check()
    _log.info("serve ended")
    return 0


@contextlib.contextmanager
def announced(path: Path, document: dict[str, object]) -> Iterator[None]:
    """Keep `document` (JSON, 0600) at `path`, written atomically; a file of another process is not removed."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    text = json.dumps(document) + "\n"
    with data_dir.write_beside(path, text) as made:
        made.replace(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if path.read_text() == text:
                path.unlink()


def log_start(program: str, loaded: Loaded) -> None:
    """Log the program and its settings (without secrets)."""
    _log.info(
        "%s %s started", program, __version__, extra={"pid": os.getpid(), "file": str(loaded.file or "none")}
    )
    for line in loaded.describe():
        _log.info("setting %s", line)
    for warning in loaded.warnings:
        _log.warning(warning)
