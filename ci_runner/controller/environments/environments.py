"""Prepared environments: locks, dependency environments and project layers, cached on disk by their inputs.

`environments/<scope>/` has the published `locks`, `envs` and `layers`, where the file `<name>.ok` marks a complete
item and records its last use, and `cache`, uv's package cache. No container ever sees these folders: a build works in
a separate cell (`cells`), and its results are taken over once its container is gone (`takeover`). Scope `shared` is
for installations that run no foreign code, in the operator's images, from indexes that the operator chose, with every
file checked against its hash, under a uid that runs nothing else. Everything else goes to a scope per user. Resolving
may have to run foreign code (a `setup.py`), so it always happens in the user's scope.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import posixpath
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from ci_runner import failpoints
from ci_runner.controller.engine import ENVIRONMENT, HOME, PROJECT_LAYER, STORE, Bind
from ci_runner.controller.environments import takeover
from ci_runner.controller.environments.builds import Build, Builds, Built
from ci_runner.controller.environments.cells import CachePlace
from ci_runner.controller.environments.credentials import Credentials
from ci_runner.controller.environments.inputs import BuildTrace, RememberedInputs, difference, inputs_of
from ci_runner.controller.environments.single_flight import SingleFlight
from ci_runner.dependencies import build_hints, locks, project_layer, ssh_repositories
from ci_runner.dependencies.install_plan import Plan
from ci_runner.dependencies.locks import Lock
from ci_runner.dependencies.project import Tree
from ci_runner.dependencies.ssh_repositories import Repositories
from ci_runner.errors import EnvironmentFailed
from ci_runner.settings.groups import EnvironmentSettings
from ci_runner.storage.safe_fs import Trash, identity, is_folder, move, opened_folder
from ci_runner.storage.scopes import SHARED

if TYPE_CHECKING:
    from pytest_remote_ci.job import builder
    from pytest_remote_ci.job.builder import Step

#: Raised when builds from the same inputs give other results.
VERSION: Final = 3
#: Owner of the shared scope if the runner is root: no job and no user's build runs as this uid.
SHARED_UID: Final = 65533
#: Path of the CA bundle in containers.
CA_BUNDLE: Final = "/ci/ca.pem"
#: Seconds after which a lock is resolved again, so that unpinned requirements do not stay old forever.
LOCK_LIFE: Final = 7 * 86400.0

#: Name of a build's result in its store.
_ENVIRONMENT: Final = "environment"
_LAYER: Final = "venv"

_STAGED = failpoints.register("controller.environment.staged", "an environment is built, not yet published")
_PUBLISHED = failpoints.register(
    "controller.environment.published", "an environment is published, not marked complete"
)


@dataclass(frozen=True)
class Request:
    """All inputs of a job's environment, and its callbacks."""

    job_id: str
    attempt: int
    #: The user's own scope.
    scope: str
    #: Whether installations without foreign code may be shared with other users.
    may_share: bool
    image_id: str
    #: "3.12".
    python: str
    plan: Plan
    #: The files as seen from the project.
    tree: Tree
    #: The files of the workspace.
    files: Tree
    #: The assembled workspace, its path in the job, and the project's folder in it.
    folder: Path
    mount: str
    tools: Path
    log: Callable[[str], None]
    building: Callable[[], None]
    stopping: Callable[[], bool]
    #: If the engine cannot mount: the folder in which the job runs and the project is installed.
    in_place: Path | None = None
    project_folder: str = ""
    #: What only builds get; with it, nothing is shared.
    credentials: Credentials = field(default_factory=Credentials)
    #: What had to be done.
    trace: BuildTrace = field(default_factory=BuildTrace)

    @cached_property
    def ssh_repositories(self) -> Repositories:
        """What git reads over https in builds; nothing without containers, where git has the keys of this machine."""
        if self.in_place is not None and self.credentials.netrc is None:
            return Repositories()
        contents = (self.tree.read(path) or b"" for path, _ in self.plan.files)
        files = (content.decode("utf-8", "replace") for content in contents)
        return ssh_repositories.find((*self.plan.requirements, *files))

    @property
    def project(self) -> str:
        """The project's path in the job."""
        return posixpath.join(self.mount, self.project_folder) if self.project_folder else self.mount


@dataclass(frozen=True)
class Published:
    """A published item: its folder and key."""

    key: str
    folder: Path
    #: Device and inode of its mounted folders.
    known: Mapping[Path, tuple[int, int]]


class Environments:
    """The environments of one data directory. Thread-safe."""

    def __init__(
        self,
        data_dir: Path,
        settings: EnvironmentSettings,
        builds: Builds,
        trash: Trash,
        *,
        owner: int | None,
    ) -> None:
        """Set up the environments.

        `data_dir`: without links in its path; `owner`: the uid of jobs, None if it is the runner's.
        """
        self._root = data_dir / "environments"
        self._settings = settings
        self._builds = builds
        self._trash = trash
        self._owner = owner
        self._flights = SingleFlight()
        self._inputs = RememberedInputs(self._root)

    # -- dependencies
    def dependencies(self, request: Request) -> tuple[Published, Lock]:
        """Return the dependency environment, built if missing. Raises `EnvironmentFailed`."""
        name = self._lock_name(request)

        def find() -> tuple[Published, Lock] | None:
            lock = self._read_lock(request.scope, name)
            ready = lock and (self._find_environment(request, lock, self._scope(request, lock)))
            return (ready, lock) if lock and ready else None

        return self._flights.once(
            ("lock", request.scope, name),
            find,
            lambda: self._install(request, name),
            joined=lambda: self._join(request),
            stopping=request.stopping,
        )

    def _join(self, request: Request) -> None:
        request.trace.done.add("waited")
        request.log("waiting for the environment that another job builds")

    def _install(self, request: Request, name: str) -> tuple[Published, Lock]:
        """Resolve if there is no lock, then install it in its scope."""
        request.building()
        lock = self._read_lock(request.scope, name)
        if lock is None:
            if self._lock_path(request.scope, name).exists():
                request.trace.done.add("expired")
            together = not request.may_share
            if request.ssh_repositories:
                has_netrc = request.credentials.netrc is not None
                request.log(request.ssh_repositories.note(has_netrc=has_netrc))
            request.log("resolving dependencies" if not together else "resolving and installing dependencies")
            request.trace.done |= {"resolved", "installed"} if together else {"resolved"}
            steps: list[Step] = [self._compile_step(request)]
            steps += [self._sync_step(request, None)] if together else []
            with self._run(request, request.scope, "dependencies", steps) as built:
                lock = _lock_of(built, request)
                self._write_lock(request.scope, name, lock)
                if together:
                    key = self._environment_key(request, lock, request.scope)
                    return self._publish(request.scope, key, built), lock
        scope = self._scope(request, lock)
        ready = self._find_environment(request, lock, scope)
        if ready is not None:
            return ready, lock
        if scope == SHARED:
            with contextlib.suppress(EnvironmentFailed):
                return self._sync(request, lock, SHARED), lock
            request.log("a package must be built from source, in a cache of your own")
            lock = replace(lock, needs_build=True)
            self._write_lock(request.scope, name, lock)
            ready = self._find_environment(request, lock, request.scope)
        return ready or self._sync(request, lock, request.scope), lock

    def _sync(self, request: Request, lock: Lock, scope: str) -> Published:
        key = self._environment_key(request, lock, scope)

        def build() -> Published:
            request.log("installing dependencies")
            request.trace.done.add("installed")
            steps = [self._sync_step(request, lock)]
            with self._run(request, scope, "dependencies", steps) as built:
                return self._publish(scope, key, built)

        # Taken first: users may share the flight, and must not wait in the turn of the one who leads it.
        with self._builds.place(request.scope, request.job_id, request.stopping):
            return self._flights.once(
                ("env", scope, key),
                lambda: self._find_environment(request, lock, scope),
                build,
                joined=lambda: self._join(request),
                stopping=request.stopping,
            )

    def _compile_step(self, request: Request) -> Step:
        version = project_layer.version_env(request.plan, alone=False)
        plan = cast("builder.Plan", request.plan.to_dict())  # of its fields, which the builder names
        return {"do": "compile", "plan": plan, "env": version}

    def _sync_step(self, request: Request, lock: Lock | None) -> Step:
        return {
            "do": "sync",
            "stage": f"{STORE}/{_ENVIRONMENT}",
            "lock": lock.text if lock is not None else None,
            "index_options": list(request.plan.index_options),
            "pip": request.plan.pip,
            "home": HOME if request.in_place is None else None,
            "project_python": f"{PROJECT_LAYER}/bin/python",
        }

    def _scope(self, request: Request, lock: Lock) -> str:
        """Return the scope for an installation of `lock`."""
        free = request.may_share and lock.pinned and not lock.needs_build and not request.plan.index_options
        return SHARED if free else request.scope

    def owner(self, scope: str) -> int | None:
        """Return the uid of a scope's builds; None if it is the runner's."""
        return self._owner if scope != SHARED or self._owner is None else SHARED_UID

    # -- the project
    def project(self, request: Request, lock: Lock, environment: Path | None = None) -> Published | None:
        """Return the layer with the project's editable install; None if there is nothing to install.

        `environment`: the dependencies' folder, needed only if the engine cannot mount.
        """
        inner = [posixpath.normpath(f"{request.project}/{folder}") for folder in lock.locals]
        projects = ([request.project] if request.plan.install else []) + inner
        if not projects:
            return None
        request.trace.layer_rows = project_layer.layer_rows(request.tree, request.plan)
        key = _digest(
            "layer",
            request.scope,
            request.image_id,
            request.python,
            request.project,
            projects,
            self._indexes(),
            project_layer.digest_of(request.trace.layer_rows, request.plan),
            str(request.in_place),
            None if environment is None else environment.name,
            *request.credentials.key(),
        )
        return self._flights.once(
            ("layer", request.scope, key),
            lambda: _find_layer(self._layers(request), key),
            lambda: self._install_project(request, key, projects, environment),
            joined=lambda: self._join(request),
            stopping=request.stopping,
        )

    def _install_project(
        self, request: Request, key: str, projects: list[str], environment: Path | None
    ) -> Published:
        request.building()
        request.trace.done.add("project")
        request.log("installing the project")
        step: Step = {
            "do": "layer",
            "stage": f"{STORE}/{_LAYER}",
            "projects": projects,
            "environment": ENVIRONMENT,
            "home": HOME if request.in_place is None else None,
            "env": project_layer.version_env(request.plan, alone=True),
        }
        binds = () if environment is None else (Bind(environment, ENVIRONMENT),)
        try:
            with self._run(request, request.scope, "project", [step], binds, request.in_place) as built:
                return self._publish_layer(request, key, built)
        except EnvironmentFailed as error:
            hint = "; `install-project = false` runs the tests without installing it"
            raise EnvironmentFailed(
                str(error).replace("install dependencies", "install the project", 1) + hint
            ) from error

    # -- builds
    @contextlib.contextmanager
    def _run(
        self,
        request: Request,
        scope: str,
        purpose: str,
        steps: list[Step],
        binds: tuple[Bind, ...] = (),
        upper: Path | None = None,
    ) -> Iterator[Built]:
        """Run one container; its results are removed unless they were published."""
        own = scope != SHARED
        build = Build(
            job_id=request.job_id,
            attempt=request.attempt,
            image_id=request.image_id,
            python=request.python,
            steps=tuple(steps),
            cache=CachePlace(scope, purpose),
            may_build=own,
            cwd=request.project if own else "/",
            owner=self.owner(scope),
            env={**request.credentials.add_to(self._env()), **request.ssh_repositories.git_settings()},
            netrc=request.credentials.netrc,
            binds=(*self.ca_binds(), *binds),
            lowers=(request.folder,) if own else (),
            mount=request.mount,
            upper=upper,
            user=request.scope,
        )
        with self._builds.run(build, request.tools, log=request.log, stopping=request.stopping) as built:
            if built.result.get("ok") is not True:
                raise EnvironmentFailed(f"could not install dependencies: {_reason(request, built.result)}")
            yield built

    def _env(self) -> dict[str, str]:
        settings = self._settings
        env = {
            "UV_CACHE_DIR": f"{STORE}/cache",
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            "NO_COLOR": "1",
            **self.ca_env(),
        }
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
        """Return variables by which programs find the operator's CA bundle."""
        if self._settings.ca_bundle is None:
            return {}
        names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO")
        return dict.fromkeys(names, CA_BUNDLE)

    def ca_binds(self) -> tuple[Bind, ...]:
        """Return the CA bundle's mount."""
        bundle = self._settings.ca_bundle
        return (
            () if bundle is None else (Bind(bundle.resolve(), CA_BUNDLE),)
        )  # operators' paths may contain links

    # -- why it was built
    def explain(self, request: Request, project: str, packages: Sequence[str], base: str) -> str:
        """Return in words why parts of the environment were missing, by comparison with the project's last job.

        Call it after each preparation, because this remembers the inputs for the next one. `project` names the project,
        `base` is the image without `packages`.
        """
        others = {
            "python": request.python,
            "packages": sorted(packages),
            "image": base,
            "indexes": self._indexes(),
            "place": request.project,
            "credentials": request.credentials.key(),
        }
        now = inputs_of(request.plan, request.trace.layer_rows, others)
        before = self._inputs.read(request.scope, project)
        if before != now:
            with contextlib.suppress(OSError):
                self._inputs.write(request.scope, project, now)
        if before is None:
            return "the first time for this project"
        changed = difference(before, now)
        if changed is None and "expired" in request.trace.done:
            return f"resolved again every {LOCK_LIFE / 86400:.0f} days"
        return changed or "it was no longer in the cache"

    # -- on disk
    def _indexes(self) -> list[str | None]:
        return [self._settings.index_url, *self._settings.extra_index_urls]

    def _lock_name(self, request: Request) -> str:
        plan = replace(request.plan, scm_version=None)
        dynamic = project_layer.layer_digest(request.tree, plan) if plan.is_dynamic else None
        return _digest(
            "lock",
            request.image_id,
            request.python,
            plan.digest(),
            self._indexes(),
            dynamic,
            request.project,
            *request.credentials.key(),
        )

    def _environment_key(self, request: Request, lock: Lock, scope: str) -> str:
        return _digest(
            "env",
            scope,
            request.image_id,
            request.python,
            lock.text,
            list(request.plan.index_options),
            request.plan.pip,
            *request.credentials.key(),
        )

    def _find_environment(self, request: Request, lock: Lock, scope: str) -> Published | None:
        return _find(self._root / scope / "envs", self._environment_key(request, lock, scope))

    def _layers(self, request: Request) -> Path:
        """Return the folder of a project's layer: in the job's own one if it fits no other."""
        return (
            self._folder(request.scope, "layers") if request.in_place is None else request.in_place.parents[1]
        )

    def _publish(self, scope: str, key: str, built: Built) -> Published:
        """Take over a build's environment, and mark it complete."""
        parent = self._folder(scope, "envs")
        with built.cell.opened("store") as store, opened_folder(parent) as target:
            takeover.take_ownership(store, _ENVIRONMENT, built.cell.owner)
            self._replace(store, _ENVIRONMENT, target, key)
        return self._complete(parent, key)

    def _publish_layer(self, request: Request, key: str, built: Built) -> Published:
        """Take over a build's layer: its environment, and its files in the workspace."""
        parent = self._layers(request)
        with built.cell.opened() as cell, opened_folder(parent) as target:
            os.mkdir("layer", 0o755, dir_fd=cell)
            with built.cell.opened("store") as store, built.cell.opened("layer") as layer:
                takeover.take_ownership(store, _LAYER, built.cell.owner)
                move(store, _LAYER, layer, "venv")
                if request.in_place is None:
                    os.mkdir("upper", 0o755, dir_fd=layer)
                    if self._owner is not None:
                        os.chown("upper", self._owner, self._owner, dir_fd=layer, follow_symlinks=False)
                    with built.cell.opened("upper") as upper, built.cell.opened("layer", "upper") as products:
                        takeover.keep_products(upper, products, request.files, self._owner)
            self._replace(cell, "layer", target, key)
        self._complete(parent, key)
        return _there(_find_layer(parent, key))

    def _replace(self, source: int, name: str, target: int, key: str) -> None:
        failpoints.hit(_STAGED)
        self._trash.remove_at(target, key)  # published before, but never marked complete
        move(source, name, target, key)
        failpoints.hit(_PUBLISHED)

    def _complete(self, parent: Path, key: str) -> Published:
        (parent / f"{key}.ok").touch()
        return _there(_find(parent, key))

    def _read_lock(self, scope: str, name: str) -> Lock | None:
        path = self._lock_path(scope, name)
        try:
            if path.stat().st_mtime < time.time() - LOCK_LIFE:
                return None
            return Lock.from_dict(json.loads(path.read_text()))
        except (FileNotFoundError, ValueError):
            return None

    def _lock_path(self, scope: str, name: str) -> Path:
        return self._root / scope / "locks" / f"{name}.json"

    def _write_lock(self, scope: str, name: str, lock: Lock) -> None:
        path = self._folder(scope, "locks") / f"{name}.json"
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        temporary.write_text(json.dumps(asdict(lock)))
        temporary.rename(path)

    def _folder(self, scope: str, part: str) -> Path:
        folder = self._root / scope / part
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        return folder


def _find(parent: Path, key: str) -> Published | None:
    """Return a published, complete item, and mark it as used now."""
    try:
        os.utime(parent / f"{key}.ok")
        with opened_folder(parent, key) as folder:
            return Published(key, parent / key, {parent / key: identity(folder)})
    except FileNotFoundError:
        return None


def _find_layer(parent: Path, key: str) -> Published | None:
    """Return a layer with its mounted folders."""
    found = _find(parent, key)
    if found is None:
        return None
    known = {}
    for part in ("venv", "upper"):
        with opened_folder(found.folder) as layer:
            if part == "venv" or is_folder(layer, part):
                with opened_folder(layer, part) as folder:
                    known[found.folder / part] = identity(folder)
    return Published(key, found.folder, known)


def _there(ready: Published | None) -> Published:
    if ready is None:
        raise EnvironmentFailed("the environment was removed at the moment when it was ready: submit again")
    return ready


def _lock_of(built: Built, request: Request) -> Lock:
    """Return the lock that a container made; it is untrusted."""
    raw = built.result.get("lock")
    return locks.parse(raw.get("text") if isinstance(raw, dict) else None, request.project, request.tree)


def _one_line(text: object) -> str:
    return " ".join(str(text or "no reason given").split())[:500]


def _reason(request: Request, result: Mapping[str, object]) -> str:
    """Return why a build failed, as its container says, and what to do about it."""
    mask = request.credentials.mask()
    words = _one_line(mask(str(result.get("error") or "")))
    if build_hints.is_conflict(words) and request.plan.chosen:
        chosen = ", ".join(request.plan.chosen[:10])
        settings = "`requirements`, `groups` and `extras` in [tool.remote-ci] choose others"
        return f"{words} (chosen: {chosen}; {settings})"
    output = result.get("output")
    searched = f"{mask(output) if isinstance(output, str) else ''}\n{words}"
    hint = build_hints.hint(searched, request.project, request.tree.digests)
    return words if hint is None else f"{words} ({hint})"


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps([VERSION, *parts]).encode()).hexdigest()[:32]
