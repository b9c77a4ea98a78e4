"""Preparation of a job before its tests run: image, workspace, environment, the container's spec.

The controller's loop calls `Preparer`. It decides nothing about jobs, and writes only files of the data directory.
Parts: `base_image`, `workspaces`, `environments` and `bytecode` (over `builds`), `container_specs`, `ahead`, `tools`,
`cache_eviction`.
"""

from __future__ import annotations

import functools
import json
import logging
import posixpath
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ci_runner.controller.artifacts import changes
from ci_runner.controller.artifacts.collect import JobOutput
from ci_runner.controller.cleanup.cache_eviction import Evictor
from ci_runner.controller.engine import (
    ENVIRONMENT,
    HOME,
    PROJECT_LAYER,
    TOOLS,
    Bind,
    ContainerSpec,
    Engine,
    Limits,
)
from ci_runner.controller.environments.accounts import Accounts
from ci_runner.controller.environments.ahead import AheadContainers
from ci_runner.controller.environments.base_image import Base, choose_base
from ci_runner.controller.environments.builds import Builds
from ci_runner.controller.environments.bytecode import Bytecode
from ci_runner.controller.environments.cells import Cells
from ci_runner.controller.environments.container_specs import ContainerSpecs, Prepared
from ci_runner.controller.environments.credentials import Credentials
from ci_runner.controller.environments.environments import Environments, Published, Request
from ci_runner.controller.environments.inputs import BuildTrace
from ci_runner.controller.environments.job_folders import JobFolders
from ci_runner.controller.environments.keep import Keeper, Written
from ci_runner.controller.environments.places import PreparationStopped
from ci_runner.controller.environments.services import Services
from ci_runner.controller.environments.system_packages import PackageRequest, SystemPackages
from ci_runner.controller.environments.tools import Tools
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.controller.job_limits import limits_of, reductions
from ci_runner.dependencies.install_plan import make_plan, mount_point
from ci_runner.dependencies.locks import Lock
from ci_runner.dependencies.project import Tree
from ci_runner.errors import EngineUnavailable, EnvironmentFailed, PermanentError, RunnerError
from ci_runner.model.job import Job
from ci_runner.settings.groups import EnvironmentSettings, ReconcileSettings, StorageSettings
from ci_runner.storage.blobs import BlobStore, job_owner
from ci_runner.storage.kept_folders import Project
from ci_runner.storage.safe_fs import Trash
from ci_runner.storage.scopes import user_scope
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.protocol import SubmitOptions
from pytest_remote_ci.wire.timing import Stopwatch, Timing

__all__ = ["PreparationStopped", "Prepared", "Preparer"]

_log = logging.getLogger(__name__)

#: Entries of the trash that one round removes.
_REMOVED_AT_ONCE: Final = 200_000
#: Maximum processes of one build.
_BUILD_PIDS: Final = 1024


@dataclass
class _Call:
    """One call of `Preparer.prepare`."""

    job: Job
    options: SubmitOptions
    credentials: Credentials
    log: Callable[[str], None]
    building: Callable[[], None]
    stopping: Callable[[], bool]
    clock: Stopwatch = field(default_factory=Stopwatch)
    trace: BuildTrace = field(default_factory=BuildTrace)


class Preparer:
    """A job preparer; see the module. Thread-safe."""

    def __init__(
        self,
        *,
        storage: StorageSettings,
        reconcile: ReconcileSettings,
        environments: EnvironmentSettings,
        engine: Engine,
        install_id: str,
    ) -> None:
        """Make the data directory's folders, and nothing else."""
        self._data = storage.data_dir.resolve()  # operators' paths may contain links; mounts must not
        self._settings = reconcile
        self._engine = engine
        self._owner = job_owner()
        self._tools = Tools(self._data)
        self._accounts = Accounts(self._data, engine, self._owner)
        self._workspaces = Workspaces(self._data, BlobStore(self._data, self._owner), self._owner)
        limits = Limits(
            cpus=reconcile.max_cpus, memory=environments.build_memory, pids=_BUILD_PIDS, file_size=8 << 30
        )
        self._trash = Trash(self._data / "trash")
        self._cells = Cells(self._data, self._trash)
        self._builds = Builds(
            engine,
            self._cells,
            prefix=reconcile.prefix,
            install_id=install_id,
            owner=self._owner,
            limits=limits,
            places=reconcile.builds,
        )
        self._packages = SystemPackages(
            self._data, engine, self._builds, environments, reconcile.allowed_packages, limits
        )
        self._bytecode = Bytecode(self._builds)
        self._environments = Environments(
            self._data, environments, self._builds, self._trash, owner=self._owner
        )
        self._evictor = Evictor(
            self._data,
            self._workspaces,
            self._cells,
            self._packages,
            self._trash,
            environments.cache_size,
            2 * reconcile.prepare_timeout,
        )
        self._services = Services(engine, reconcile)
        self._keeper = Keeper(self._data, self._trash, self._owner, reconcile.max_kept, storage.disk_reserve)
        self._isolates = functools.cache(lambda: engine.probe().isolates)
        self._folders = JobFolders(self._data, self._owner, self._isolates)
        self._specs = ContainerSpecs(
            reconcile, self._workspaces, self._folders, self._trash, self._owner, self._isolates
        )
        #: What containers need that are started before their job.
        self.ahead = AheadContainers(
            self._prepare_unbuilt,
            self._specs,
            self._workspaces,
            self._folders,
            self._trash,
            prefix=reconcile.prefix,
            owner=self._owner,
            may_wait=self.can_wait,
        )

    def prepare(
        self,
        job: Job,
        *,
        log: Callable[[str], None],
        building: Callable[[], None],
        stopping: Callable[[], bool],
    ) -> Prepared:
        """Block until everything is ready; takes some milliseconds if it already is.

        `log` gets lines for the user; `building` is called at most once, before a real build; when `stopping` returns
        true, builds are killed and `PreparationStopped` is raised. Raises `EnvironmentFailed`, `ImageUnavailable`,
        `PermanentError`, `EngineUnavailable`, `StorageFull`.
        """
        options = job.options.usable()
        limits_of(options, self._settings)  # raises before anything is built
        self._packages.check(options.packages)
        credentials = Credentials.of(job)
        call = _Call(
            job, options, credentials, _one_at_a_time(_masked(log, credentials)), _once(building), stopping
        )
        for line in reductions(options, self._settings):
            call.log(line)
        base = choose_base(self._engine, self._settings, options, call.log)
        if not options.packages:
            return self._prepare(call, base, base)
        request = PackageRequest(
            job.id,
            job.attempt,
            user_scope(job.user_id),
            base.image,
            options.packages,
            log=call.log,
            building=lambda: call.trace.note("packages", call.building),
            stopping=stopping,
        )
        found = self._packages.ensure(request)
        prepared = self._prepare(call, replace(base, image=found.image), base)
        return replace(prepared, key=f"{prepared.key}.{found.key}")

    def _prepare_unbuilt(self, job: Job, stopping: Callable[[], bool]) -> Prepared:
        """Prepare a job if nothing has to be built; raises `PreparationStopped` otherwise."""

        def building() -> None:
            raise PreparationStopped("nothing is built ahead")

        return self.prepare(job, log=lambda _: None, building=building, stopping=stopping)

    def can_wait(self, job: Job) -> bool:
        """Return whether a container may be started ahead for jobs like this one: only the plainest jobs."""
        options = job.options.submitted
        return (
            self._isolates()
            and job.options.script is None
            and options.records
            and not options.services
            and not job.options.secrets
        )

    def _prepare(self, call: _Call, base: Base, original: Base) -> Prepared:
        """Prepare everything but the image; `original` is the one without packages."""
        job, options = call.job, call.options
        call.clock.lap("environment")
        folder = self._workspaces.tree(job.workspace or "")
        call.clock.lap("workspace")
        files = self._workspaces.files(job.workspace or "")
        if not base.image.pythons and job.options.script is not None and base.named_by_user:
            prepared = self._without_python(job, base.image.id, folder, options)
            prepared = self._with_kept(call, prepared, files.digests)
            call.clock.lap("environment")
            return self._with_services(call, prepared)
        request = self._request(call, base, folder, files)
        environment, layer = self._environment(call, request)
        call.clock.lap("environment")
        project = Project(job.user_id, options.root or "", job.planned or "").name
        why = self._environments.explain(request, project, options.packages, original.image.id)
        prepared = self._prepared(request, options, environment, layer)
        prepared = self._with_kept(call, prepared, files.digests)
        call.clock.lap("workspace")
        done = call.trace.words()
        if done is not None:
            cold = f"{done} in {formats.duration(call.clock.phases['environment'])}"
            cold = cold if call.trace.has_only_waited else f"{cold}: {why}"
            prepared = replace(prepared, timing=Timing(cold=(cold,)))
        return self._with_services(call, prepared)

    def _request(self, call: _Call, base: Base, folder: Path, files: Tree) -> Request:
        """Return what the environment and the project are built from; log what the plan leaves out."""
        job, options = call.job, call.options
        tree = files.seen_from(options.project_folder)
        plan = make_plan(tree, options, base.python)
        for note in plan.notes:
            call.log(note)
        return Request(
            job_id=job.id,
            attempt=job.attempt,
            scope=user_scope(job.user_id),
            may_share=not base.named_by_user and not call.credentials,
            credentials=call.credentials,
            image_id=base.image.id,
            python=base.python,
            plan=plan,
            tree=tree,
            files=files,
            folder=folder,
            mount=mount_point(options.root, options.project_folder),
            project_folder=options.project_folder,
            tools=self._tools.folder(),
            log=call.log,
            building=call.building,
            stopping=call.stopping,
            in_place=None if self._isolates() else self._folders.make_copy(job),
            trace=call.trace,
        )

    def _environment(self, call: _Call, request: Request) -> tuple[Published, Published | None]:
        """Return environment and layer; their byte code is made later."""
        try:
            environment, layer = self._ready(request)
        except EnvironmentFailed as error:
            if not call.credentials:
                raise
            raise EnvironmentFailed(call.credentials.mask()(str(error))) from None
        if request.in_place is None:
            self._bytecode.want(
                environment.folder,
                self._environments.owner(environment.folder.parents[1].name),
                image_id=request.image_id,
                python=request.python,
                tools=request.tools,
            )
        return environment, layer

    def _with_services(self, call: _Call, prepared: Prepared) -> Prepared:
        """Add the network of the job's services, and the times of all phases."""
        network = self._services.ensure(call.job.id, call.options, log=call.log, stopping=call.stopping)
        if call.options.services:
            call.clock.lap("services")
        return replace(prepared, join=network, timing=prepared.timing.with_phases(call.clock.phases))

    def _with_kept(self, call: _Call, prepared: Prepared, sent: Mapping[str, str]) -> Prepared:
        """Add the files that earlier jobs left: the lowest layer, so that they hide nothing."""
        kept = self._keeper.give(call.job, sent, log=call.log, stopping=call.stopping)
        if kept is None:
            return prepared
        return replace(
            prepared,
            lowers=prepared.lowers if kept.project is None else (*prepared.lowers, kept.project),
            kept=kept,
            known={**prepared.known, **kept.known},
        )

    def _without_python(self, job: Job, image_id: str, folder: Path, options: SubmitOptions) -> Prepared:
        """Prepare a script in a user's image without Python: nothing is installed."""
        return Prepared(
            image=image_id,
            mount_point=_project_path(options),
            workspace=mount_point(options.root, options.project_folder),
            lowers=(folder,),
            binds=(
                Bind(self._tools.folder(), TOOLS),
                *self._environments.ca_binds(),
                *self._accounts.binds(image_id),
            ),
            python="",
            env={**self._environments.ca_env(), "REMOTE_CI_JOB": job.id},
            path=(),
            key="",
            module=False,
        )

    def _ready(self, request: Request) -> tuple[Published, Published | None]:
        """Return environment and layer; build both at once if neither needs the other."""
        independent = (
            request.in_place is None
            and request.plan.install
            and request.plan.source != "uv.lock"
            and not any(
                line.startswith(("-e", "--editable", ".", "/", "file:")) for line in request.plan.requirements
            )
        )
        if not independent:
            environment, lock = self._environments.dependencies(request)
            place = environment.folder if request.in_place is not None else None
            return environment, self._environments.project(request, lock, place)
        with _ParallelBuild(request) as aside:
            layer = aside.submit(lambda request: self._environments.project(request, Lock("")))
            environment, lock = self._environments.dependencies(request)
            first = layer.result()
        # The lock may still name folders of the workspace.
        return environment, self._environments.project(request, lock) if lock.locals else first

    def _prepared(
        self, request: Request, options: SubmitOptions, environment: Published, layer: Published | None
    ) -> Prepared:
        binds = [
            Bind(request.tools, TOOLS),
            Bind(environment.folder, ENVIRONMENT),
            *self._environments.ca_binds(),
            *self._accounts.binds(request.image_id),
        ]
        home, path, lowers = ENVIRONMENT, [f"{ENVIRONMENT}/bin", f"{HOME}/.local/bin"], [request.folder]
        if layer is not None:
            home = PROJECT_LAYER
            path = [f"{PROJECT_LAYER}/bin", f"{ENVIRONMENT}/project-bin", *path]
            binds.append(Bind(layer.folder / "venv", PROJECT_LAYER))
            if request.in_place is None:
                lowers.insert(0, layer.folder / "upper")
        env = {
            **self._environments.ca_env(),
            "VIRTUAL_ENV": home,
            "REMOTE_CI_JOB": request.job_id,
            "REMOTE_CI_PYTHON": f"{home}/bin/python",
        }
        return Prepared(
            image=request.image_id,
            mount_point=request.project,
            workspace=request.mount,
            lowers=tuple(lowers),
            binds=tuple(binds),
            python=f"{home}/bin/python",
            env=env,
            path=tuple(path),
            key=environment.key + (f".{layer.key}" if layer is not None else ""),
            module=options.module,
            upper=request.in_place,
            known={**environment.known, **(layer.known if layer is not None else {})},
        )

    def container_spec(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        """Return the container to create; make the attempt's folders, its seal and `job.json`, once."""
        return self._specs.create(job, prepared, attempt)

    def expect_kept(self, job: Job) -> None:
        """Let the next job of the same project wait for `store_kept`, which follows; call it before the job's end."""
        try:
            self._keeper.expect(job, self._written(job))
        except (OSError, RunnerError) as error:
            _log.warning("job %s: its files to keep are not expected: %s", job.id, error)

    def store_kept(self, job: Job) -> None:
        """Keep what the job leaves to the next one; its container must be gone. May be repeated."""
        try:
            self._keeper.store(job, self._written(job), self.written(job).sent)
        except (OSError, PermanentError) as error:
            _log.warning("job %s: nothing is kept for the next one: %s", job.id, error)

    def _written(self, job: Job) -> Written:
        home = self._folders.of(job.id, job.attempt) / "kept-upper"
        return Written(self.written(job).folder, home, only_changes=self._isolates())

    def written(self, job: Job) -> JobOutput:
        """Return where the files of the job's current attempt are."""
        workspace = job.workspace

        def sent() -> Mapping[str, str]:
            return self._workspaces.files(workspace).digests if workspace is not None else {}

        def original() -> changes.Original | None:
            return self._original(job)

        inner = job.options.submitted.project_folder
        if self._isolates():
            root = _project_path(job.options.submitted)
            return JobOutput(self._folders.of(job.id, job.attempt) / "upper", root, sent, original, inner)
        folder = self._folders.copy(job)
        if not folder.is_dir():  # of a job that began under an earlier version of the runner
            return JobOutput(self._folders.of(job.id, "own") / "upper", str(folder), sent)
        return JobOutput(folder, posixpath.join(str(folder), inner).rstrip("/"), sent, original, inner)

    def _original(self, job: Job) -> changes.Original | None:
        """Return the project before the job ran; None if its changes are not wanted, or that is not known any more."""
        if job.workspace is None or not job.options.wants_changes:
            return None
        try:
            files = {
                path: changes.Sent(sha256, bool(mode & 0o100))
                for path, (mode, sha256) in self._workspaces.rows(job.workspace).items()
            }
        except PermanentError:  # the workspace is gone
            return None
        if self._isolates():
            return changes.Original(files)
        try:
            found = json.loads(self._folders.prepared_files(job).read_bytes())
        except (OSError, ValueError):
            return None
        prepared = {path: (size, time) for path, (size, time) in found.items()}
        return changes.Original(files, self._workspaces.tree(job.workspace), prepared)

    def compile_bytecode(self, job: Job, stopping: Callable[[], bool]) -> None:
        """Do work that can wait until the job has ended and speeds up the next one."""
        if job.environment is not None:
            self._bytecode.make(job.environment.partition(".")[0], job.id, stopping)

    def in_use(self) -> frozenset[str]:
        """Return the names of the build containers of calls in flight in this process."""
        return self._builds.in_use()

    def remove_work(self, job_id: str) -> None:
        """Remove the working folders of all of a job's attempts and builds. Harmless if there are none."""
        if not self.ahead.is_waiting(job_id):
            for folder in self._folders.all_of(job_id):
                self._trash.remove(folder)

    def evict(self, keep: frozenset[str]) -> None:
        """Remove the least recently used trees and environments beyond the cache's size.

        `keep`: workspaces' digests and `Prepared.key`s of jobs that have not ended.
        """
        try:
            self._builds.recover()
            self._packages.recover()
        except EngineUnavailable as error:
            _log.info("leftovers of builds are checked later: %s", error)
        self._evictor.evict(keep | self.ahead.in_use())
        self._trash.empty(_REMOVED_AT_ONCE)


class _ParallelBuild:
    """A second thread for one part of a preparation; if either part fails, the other is stopped."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._failed = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prepare-project")

    def __enter__(self) -> _ParallelBuild:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is not None:
            self._failed.set()
        self._pool.shutdown(wait=True)

    def submit(self, part: Callable[[Request], Published | None]) -> Future[Published | None]:
        """Run `part` in the thread, with a request that stops when this object does."""
        stopping = self._request.stopping
        return self._pool.submit(
            part, replace(self._request, stopping=lambda: self._failed.is_set() or stopping())
        )


def _masked(log: Callable[[str], None], credentials: Credentials) -> Callable[[str], None]:
    mask = credentials.mask()
    return lambda line: log(mask(line))


def _project_path(options: SubmitOptions) -> str:
    """Return the project's path in the container."""
    mount = mount_point(options.root, options.project_folder)
    return posixpath.join(mount, options.project_folder) if options.project_folder else mount


def _one_at_a_time(log: Callable[[str], None]) -> Callable[[str], None]:
    lock = threading.Lock()

    def locked(line: str) -> None:
        with lock:
            log(line)

    return locked


def _once(action: Callable[[], None]) -> Callable[[], None]:
    lock = threading.Lock()
    done: list[bool] = []

    def first_only() -> None:
        with lock:
            if not done:
                action()
                done.append(True)

    return first_only
