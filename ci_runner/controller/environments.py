"""Prepared environments: locks, dependency environments and project layers, cached on disk by what decides them.

`environments/<scope>/` holds `store/{cache,new}` (the only part that a build container can write), and beside it, out
of reach of every container, what was published: `locks`, `envs`, `layers`; `<name>.ok` marks what is complete and
tells when it was used. Scope `shared` is for what can be installed without running foreign code, from indexes that
the operator chose, every file checked against its hash; all else goes to a scope of the user's own. Resolving may
have to run foreign code (a `setup.py`), so it always happens in the user's scope.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import stat
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from ci_runner import failpoints, layers
from ci_runner.config import EnvironmentSettings
from ci_runner.controller.builds import Build, Builds, Built, remove_folder
from ci_runner.controller.engine import ENVIRONMENT, PROJECT_LAYER, STORE, Bind
from ci_runner.controller.flights import Flights
from ci_runner.controller.products import keep_products
from ci_runner.errors import EnvironmentFailed
from ci_runner.plan import Plan
from ci_runner.project import Tree

#: Raised when what is built from the same inputs changes.
VERSION: Final = 1
SHARED: Final = "shared"
#: Where a CA bundle appears in containers.
CA_BUNDLE: Final = "/ci/ca.pem"
#: Seconds after which a lock is resolved again, so that what is not pinned does not stay old for ever.
LOCK_LIFE: Final = 7 * 86400.0

_STAGED = failpoints.register("controller.environment.staged", "an environment is built, not yet published")
_PUBLISHED = failpoints.register(
    "controller.environment.published", "an environment is published, not marked complete"
)


@dataclass(frozen=True)
class Request:
    """Everything that decides about a job's environment, and whom to tell."""

    job_id: str
    attempt: int
    #: Scope of the user's own.
    scope: str
    #: Whether what needs no foreign code may be shared with other users.
    may_share: bool
    image_id: str
    #: "3.12".
    python: str
    plan: Plan
    tree: Tree
    #: The assembled workspace and where it appears.
    folder: Path
    mount: str
    tools: Path
    log: Callable[[str], None]
    building: Callable[[], None]
    stopping: Callable[[], bool]
    #: Where the engine mounts nothing: the folder in which the job will run, and where the project is installed.
    in_place: Path | None = None


@dataclass(frozen=True)
class Lock:
    """What exactly to install."""

    #: Requirement lines.
    text: str
    #: Folders of the workspace to be installed editable.
    locals: tuple[str, ...] = ()
    #: Whether every line names the hashes of its files.
    hashed: bool = False
    #: Something in it has to be built from source: known once an installation without building failed.
    needs_build: bool = False


@dataclass(frozen=True)
class Ready:
    """Something published: a folder and the key that names it."""

    key: str
    folder: Path


class Environments:
    """The environments of one data directory. Methods may be called from any thread."""

    def __init__(
        self, data_dir: Path, settings: EnvironmentSettings, builds: Builds, *, owner: int | None
    ) -> None:
        """`owner`: the uid of jobs, None when it is ours."""
        self._root = data_dir / "environments"
        self._settings = settings
        self._builds = builds
        self._owner = owner
        self._flights = Flights()
        self._guard = threading.Lock()

    # -- dependencies
    def dependencies(self, request: Request) -> tuple[Ready, Lock]:
        """The dependency environment; built when it is not there. Raises `EnvironmentFailed`."""
        name = self._lock_name(request)

        def look() -> tuple[Ready, Lock] | None:
            lock = self._read_lock(request.scope, name)
            ready = lock and (self._find_environment(request, lock, self._scope(request, lock)))
            return (ready, lock) if lock and ready else None

        return self._flights.once(
            ("lock", request.scope, name), look, lambda: self._install(request, name),
            joined=lambda: self._join(request), stopping=request.stopping,
        )  # fmt: skip

    def _join(self, request: Request) -> None:
        request.log("waiting for the environment that another job builds")

    def _install(self, request: Request, name: str) -> tuple[Ready, Lock]:
        """Resolve where there is no lock, then install it where the result may live."""
        request.building()
        lock = self._read_lock(request.scope, name)
        if lock is None:
            together = not request.may_share
            request.log("resolving dependencies" if not together else "resolving and installing dependencies")
            stage = uuid.uuid4().hex
            steps: list[Mapping[str, Any]] = [self._compile_step(request)]
            steps += [self._sync_step(request, stage, None)] if together else []
            with self._run(request, request.scope, steps, stage) as built:
                lock = _parse_lock(built.result)
                self._write_lock(request.scope, name, lock)
                if together:
                    key = self._environment_key(request, lock, request.scope)
                    return self._publish(request.scope, self._root / request.scope / "envs", key, stage), lock
        scope = self._scope(request, lock)
        ready = self._find_environment(request, lock, scope)
        if ready is not None:
            return ready, lock
        if scope == SHARED:
            with contextlib.suppress(EnvironmentFailed):
                return self._sync(request, lock, SHARED), lock
            request.log("something has to be built from source, in a cache of your own")
            lock = replace(lock, needs_build=True)
            self._write_lock(request.scope, name, lock)
            ready = self._find_environment(request, lock, request.scope)
        return ready or self._sync(request, lock, request.scope), lock

    def _sync(self, request: Request, lock: Lock, scope: str) -> Ready:
        key = self._environment_key(request, lock, scope)

        def build() -> Ready:
            request.log("installing dependencies")
            stage = uuid.uuid4().hex
            with self._run(request, scope, [self._sync_step(request, stage, lock)], stage):
                return self._publish(scope, self._root / scope / "envs", key, stage)

        return self._flights.once(
            ("env", scope, key), lambda: self._find_environment(request, lock, scope), build,
            joined=lambda: self._join(request), stopping=request.stopping,
        )  # fmt: skip

    def _compile_step(self, request: Request) -> Mapping[str, Any]:
        version = layers.version_env(request.plan, alone=False)
        return {"do": "compile", "plan": request.plan.to_dict(), "env": version}

    def _sync_step(self, request: Request, stage: str, lock: Lock | None) -> Mapping[str, Any]:
        return {
            "do": "sync",
            "stage": f"{STORE}/new/{stage}",
            "lock": lock.text if lock is not None else None,
            "index_options": list(request.plan.index_options),
            "project_python": f"{PROJECT_LAYER}/bin/python",
        }

    def _scope(self, request: Request, lock: Lock) -> str:
        """Where an installation of `lock` may live."""
        free = request.may_share and lock.hashed and not lock.needs_build and not request.plan.index_options
        return (
            SHARED
            if free and not re.search(r"file:|^\.{0,2}/|@ git\+", lock.text, re.MULTILINE)
            else request.scope
        )

    # -- the project
    def project(self, request: Request, lock: Lock, environment: Path | None = None) -> Ready | None:
        """The layer with the project's editable install; None where nothing is to be installed.

        `environment`: the dependencies' folder, needed only where the engine mounts nothing.
        """
        projects = ([request.mount] if request.plan.install else []) + list(lock.locals)
        if not projects:
            return None
        key = _digest(
            "layer", request.scope, request.image_id, request.python, request.mount, projects, self._indexes(),
            layers.layer_digest(request.tree, request.plan), str(request.in_place),
            None if environment is None else environment.name,
        )  # fmt: skip
        return self._flights.once(
            ("layer", request.scope, key),
            lambda: _find(self._layers(request), key),
            lambda: self._install_project(request, key, projects, environment),
            joined=lambda: self._join(request), stopping=request.stopping,
        )  # fmt: skip

    def _install_project(
        self, request: Request, key: str, projects: list[str], environment: Path | None
    ) -> Ready:
        request.building()
        request.log("installing the project")
        stage = uuid.uuid4().hex
        step = {
            "do": "layer", "stage": f"{STORE}/new/{stage}/venv", "projects": projects, "environment": ENVIRONMENT,
            "env": layers.version_env(request.plan, alone=True),
        }  # fmt: skip
        folder = self._open_scope(request.scope) / "new" / stage
        self._make(folder)
        binds = () if environment is None else (Bind(environment, ENVIRONMENT),)
        try:
            with self._run(request, request.scope, [step], stage, binds, request.in_place) as built:
                if request.in_place is None:
                    keep_products(built.upper, request.tree)
                    built.upper.rename(folder / "upper")
                return self._publish(request.scope, self._layers(request), key, stage)
        except EnvironmentFailed as error:
            hint = "; `install-project = false` runs the tests without installing it"
            raise EnvironmentFailed(
                str(error).replace("install dependencies", "install the project", 1) + hint
            ) from error

    # -- runs
    @contextlib.contextmanager
    def _run(
        self,
        request: Request,
        scope: str,
        steps: list[Mapping[str, Any]],
        stage: str,
        binds: tuple[Bind, ...] = (),
        upper: Path | None = None,
    ) -> Iterator[Built]:
        """One container; what it staged is removed unless it was published."""
        store = self._open_scope(scope)
        own = scope != SHARED
        build = Build(
            job_id=request.job_id, attempt=request.attempt, image_id=request.image_id, python=request.python,
            steps=tuple(steps), store=store, may_build=own, cwd=request.mount if own else "/",
            env=self._env(), binds=(*self.ca_binds(), *binds), lowers=(request.folder,) if own else (),
            upper=upper,
        )  # fmt: skip
        try:
            with self._builds.run(build, request.tools, log=request.log, stopping=request.stopping) as built:
                if built.result.get("ok") is not True:
                    raise EnvironmentFailed(
                        f"could not install dependencies: {_one_line(built.result.get('error'))}"
                    )
                yield built
        finally:
            remove_folder(store / "new" / stage)

    def _env(self) -> dict[str, str]:
        settings = self._settings
        env = {
            "UV_CACHE_DIR": f"{STORE}/cache", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never", "NO_COLOR": "1",
            **self.ca_env(),
        }  # fmt: skip
        if settings.index_url:
            env["UV_DEFAULT_INDEX"] = env["PIP_INDEX_URL"] = settings.index_url
        if settings.extra_index_urls:
            env["UV_INDEX"] = env["PIP_EXTRA_INDEX_URL"] = " ".join(settings.extra_index_urls)
        for name in ("http_proxy", "https_proxy", "no_proxy"):
            value = getattr(settings, name)
            if value:
                env[name] = env[name.upper()] = value
        return env

    def ca_env(self) -> dict[str, str]:
        """Variables by which programs find the operator's CA bundle."""
        if self._settings.ca_bundle is None:
            return {}
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO")
        return dict.fromkeys(names, CA_BUNDLE)

    def ca_binds(self) -> tuple[Bind, ...]:
        """Its mount."""
        return () if self._settings.ca_bundle is None else (Bind(self._settings.ca_bundle, CA_BUNDLE),)

    # -- on disk
    def _indexes(self) -> list[Any]:
        return [self._settings.index_url, *self._settings.extra_index_urls]

    def _lock_name(self, request: Request) -> str:
        plan = replace(request.plan, scm_version=None)
        dynamic = layers.layer_digest(request.tree, plan) if plan.is_dynamic else None
        return _digest(
            "lock", request.image_id, request.python, plan.digest(), self._indexes(), dynamic, request.mount
        )

    def _environment_key(self, request: Request, lock: Lock, scope: str) -> str:
        return _digest(
            "env", scope, request.image_id, request.python, lock.text, list(request.plan.index_options)
        )

    def _find_environment(self, request: Request, lock: Lock, scope: str) -> Ready | None:
        return _find(self._root / scope / "envs", self._environment_key(request, lock, scope))

    def _layers(self, request: Request) -> Path:
        """Where a project's layer lives: with the job where it fits no other folder."""
        return (
            self._root / request.scope / "layers" if request.in_place is None else request.in_place.parents[1]
        )

    def _publish(self, scope: str, parent: Path, key: str, stage: str) -> Ready:
        """Take what a container staged out of its reach and mark it complete."""
        staged = self._root / scope / "store" / "new" / stage
        if not stat.S_ISDIR(os.lstat(staged).st_mode):
            raise EnvironmentFailed("the build left no environment")
        failpoints.hit(_STAGED)
        folder = parent / key
        remove_folder(folder)  # published once, but never marked complete
        staged.rename(folder)
        failpoints.hit(_PUBLISHED)
        (parent / f"{key}.ok").touch()
        return Ready(key, folder)

    def _read_lock(self, scope: str, name: str) -> Lock | None:
        path = self._root / scope / "locks" / f"{name}.json"
        try:
            if path.stat().st_mtime < time.time() - LOCK_LIFE:
                return None
            raw = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return Lock(**{**raw, "locals": tuple(raw["locals"])})

    def _write_lock(self, scope: str, name: str, lock: Lock) -> None:
        path = self._root / scope / "locks" / f"{name}.json"
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        temporary.write_text(json.dumps(asdict(lock)))
        temporary.rename(path)

    def _open_scope(self, scope: str) -> Path:
        """The folder that is mounted as store; everything of the scope exists afterwards."""
        base = self._root / scope
        with self._guard:
            for part in ("locks", "envs", "layers", "store"):
                (base / part).mkdir(mode=0o755, parents=True, exist_ok=True)
            for part in ("cache", "new"):
                self._make(base / "store" / part)
        return base / "store"

    def _make(self, folder: Path) -> None:
        if not folder.exists():
            folder.mkdir(mode=0o755)
            if self._owner is not None:
                os.chown(folder, self._owner, self._owner)


def _find(parent: Path, key: str) -> Ready | None:
    """What is published and complete; noted as used now."""
    try:
        os.utime(parent / f"{key}.ok")
    except FileNotFoundError:
        return None
    return Ready(key, parent / key)


def _parse_lock(result: Mapping[str, Any]) -> Lock:
    """The lock that a container made, which is not to be trusted: any text, but of the right shape."""
    raw = result.get("lock")
    if not isinstance(raw, dict) or not isinstance(raw.get("text"), str):
        raise EnvironmentFailed("the build left no lock")
    folders = raw.get("locals")
    names = [name for name in folders if isinstance(name, str)] if isinstance(folders, list) else []
    return Lock(raw["text"], tuple(names), raw.get("hashed") is True)


def _one_line(text: Any) -> str:
    return " ".join(str(text or "no reason given").split())[:500]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:32]
