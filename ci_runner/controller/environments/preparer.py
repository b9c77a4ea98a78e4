"""Preparation of a job before its tests run: image, workspace, environment, the container's spec.

The controller's loop calls `Preparer`. It decides nothing about jobs, and writes only files of the data directory.
Parts: `base_image`, `workspaces`, `environments` and `bytecode` (over `builds`), `tools`, `cache_eviction`.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

from ci_runner.controller.artifacts import changes
from ci_runner.controller.artifacts.collect import JobOutput
from ci_runner.controller.cleanup.cache_eviction import Evictor
from ci_runner.controller.engine import (
    ENVIRONMENT,
    HOME,
    KEPT,
    PROJECT_LAYER,
    SPOOL,
    TOOLS,
    Bind,
    ContainerSpec,
    Engine,
    Limits,
    Overlay,
)
from ci_runner.controller.environments import worker_command
from ci_runner.controller.environments.accounts import Accounts
from ci_runner.controller.environments.ahead import Ahead, Layers, are_few, is_alike
from ci_runner.controller.environments.base_image import Base, choose_base
from ci_runner.controller.environments.builds import Builds, write_for
from ci_runner.controller.environments.bytecode import Bytecode
from ci_runner.controller.environments.cells import Cells
from ci_runner.controller.environments.credentials import Credentials, is_credential
from ci_runner.controller.environments.environments import Environments, Published, Request
from ci_runner.controller.environments.inputs import BuildTrace
from ci_runner.controller.environments.keep import Given, Keeper, Written
from ci_runner.controller.environments.places import PreparationStopped
from ci_runner.controller.environments.services import Services
from ci_runner.controller.environments.system_packages import PackageRequest, SystemPackages
from ci_runner.controller.environments.tools import Tools
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.controller.job_limits import limits_of, reductions
from ci_runner.dependencies.install_plan import make_plan, mount_point
from ci_runner.dependencies.locks import Lock
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
#: Variables with the number of processors: of pytest-xdist (`-n auto`), Python 3.13 (`os.process_cpu_count`), OpenMP.
_PROCESSORS: Final = ("PYTEST_XDIST_AUTO_NUM_WORKERS", "PYTHON_CPU_COUNT", "OMP_NUM_THREADS")
#: File beside a job's own copy of the project: what the copy has before the job runs.
_PREPARED_FILES: Final = "prepared.json"
#: Maximum processes of one build.
_BUILD_PIDS: Final = 1024


@dataclass(frozen=True)
class Prepared:
    """Everything that all attempts of a job share."""

    #: Content digest of the image.
    image: str
    #: Path of the project in the container.
    mount_point: str
    #: Read-only trees, topmost first: the project build's output, then the workspace.
    lowers: tuple[Path, ...]
    binds: tuple[Bind, ...]
    #: The tests' interpreter, as a path in the container; "" in an image without Python, where only scripts run.
    python: str
    env: Mapping[str, str]
    #: First folders on the command's PATH.
    path: tuple[str, ...]
    #: Names the environment, the layer and the image with packages, like `Job.environment`: not to be evicted while
    #: the job is open.
    key: str
    #: Run as ``python -m pytest``.
    module: bool
    #: If the engine cannot mount: the folder in which the job runs.
    upper: Path | None = None
    #: Path of the workspace in the container, if the project is a folder in it.
    workspace: str | None = None
    #: The container that shares its network with the job: that of its first service.
    join: str | None = None
    #: The files that earlier jobs left for this one.
    kept: Given | None = None
    #: Device and inode of mounted folders that a build made.
    known: Mapping[Path, tuple[int, int]] = field(default_factory=dict)
    #: Seconds of the phases of the preparation, and what was not there yet.
    timing: Timing = field(default_factory=Timing)


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
        self._isolates: bool | None = None
        self._guard = threading.Lock()
        #: Containers started ahead, by what stands for a job's id → what must not be evicted.
        self._ahead: dict[str, frozenset[str]] = {}

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
        log, building = _one_at_a_time(_masked(log, credentials)), _once(building)
        for line in reductions(options, self._settings):
            log(line)
        clock, trace = Stopwatch(), BuildTrace()
        base = choose_base(self._engine, self._settings, options, log)
        if not options.packages:
            return self._prepare(job, options, base, base, credentials, log, building, stopping, clock, trace)
        request = PackageRequest(
            job.id,
            job.attempt,
            user_scope(job.user_id),
            base.image,
            options.packages,
            log=log,
            building=lambda: trace.note("packages", building),
            stopping=stopping,
        )
        found = self._packages.ensure(request)
        derived = replace(base, image=found.image)
        prepared = self._prepare(
            job, options, derived, base, credentials, log, building, stopping, clock, trace
        )
        return replace(prepared, key=f"{prepared.key}.{found.key}")

    def _prepare(
        self,
        job: Job,
        options: SubmitOptions,
        base: Base,
        original: Base,
        credentials: Credentials,
        log: Callable[[str], None],
        building: Callable[[], None],
        stopping: Callable[[], bool],
        clock: Stopwatch,
        trace: BuildTrace,
    ) -> Prepared:
        """Prepare everything but the image; `original` is the one without packages."""
        clock.lap("environment")
        folder = self._workspaces.tree(job.workspace or "")
        clock.lap("workspace")
        files = self._workspaces.files(job.workspace or "")
        tree = files.seen_from(options.project_folder)
        plan = make_plan(tree, options, base.python)
        for note in plan.notes:
            log(note)
        if not base.image.pythons and job.options.script is not None and base.named_by_user:
            prepared = self._without_python(job, base.image.id, folder, options)
            prepared = self._with_kept(job, prepared, files.digests, log, stopping)
            clock.lap("environment")
            return self._with_services(job, options, prepared, log, stopping, clock)
        request = Request(
            job_id=job.id,
            attempt=job.attempt,
            scope=user_scope(job.user_id),
            may_share=not base.named_by_user and not credentials,
            credentials=credentials,
            image_id=base.image.id,
            python=base.python,
            plan=plan,
            tree=tree,
            files=files,
            folder=folder,
            mount=mount_point(options.root, options.project_folder),
            project_folder=options.project_folder,
            tools=self._tools.folder(),
            log=log,
            building=building,
            stopping=stopping,
            in_place=None if self._engine_isolates() else self._own_folder(job),
            trace=trace,
        )
        try:
            environment, layer = self._ready(request)
        except EnvironmentFailed as error:
            if not credentials:
                raise
            raise EnvironmentFailed(credentials.mask()(str(error))) from None
        if request.in_place is None:
            self._bytecode.want(
                environment.folder,
                self._environments.owner(environment.folder.parents[1].name),
                image_id=request.image_id,
                python=request.python,
                tools=request.tools,
            )
        clock.lap("environment")
        project = Project(job.user_id, options.root or "", job.planned or "").name
        why = self._environments.explain(request, project, options.packages, original.image.id)
        prepared = self._prepared(request, options, environment, layer)
        prepared = self._with_kept(job, prepared, files.digests, log, stopping)
        clock.lap("workspace")
        done = trace.words()
        if done is not None:
            cold = f"{done} in {formats.duration(clock.phases['environment'])}"
            cold = cold if trace.has_only_waited else f"{cold}: {why}"
            prepared = replace(prepared, timing=Timing(cold=(cold,)))
        return self._with_services(job, options, prepared, log, stopping, clock)

    def _with_services(
        self,
        job: Job,
        options: SubmitOptions,
        prepared: Prepared,
        log: Callable[[str], None],
        stopping: Callable[[], bool],
        clock: Stopwatch,
    ) -> Prepared:
        """Add the network of the job's services, and the times of all phases."""
        network = self._services.ensure(job.id, options, log=log, stopping=stopping)
        if options.services:
            clock.lap("services")
        return replace(prepared, join=network, timing=prepared.timing.with_phases(clock.phases))

    def _with_kept(
        self,
        job: Job,
        prepared: Prepared,
        sent: Mapping[str, str],
        log: Callable[[str], None],
        stopping: Callable[[], bool],
    ) -> Prepared:
        """Add the files that earlier jobs left: the lowest layer, so that they hide nothing."""
        kept = self._keeper.give(job, sent, log=log, stopping=stopping)
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

    def _ages(self, job: Job, options: SubmitOptions, work: Path) -> dict[str, str]:
        """Write the modification times for `pytest_remote_ci.job.mtimes`, if the client sent them.

        Return the environment variable with the file's path, or {}.
        """
        digest = job.options.mtimes
        if digest is None:
            return {}
        cwd = posixpath.join(options.project_folder, options.cwd)
        found = {"cwd": cwd.rstrip("/"), "times": self._workspaces.times(digest)}
        path = work / "spool" / "ages.json"
        if not os.path.lexists(path):  # otherwise written before a crash: the container may already have it
            temporary = path.with_name("ages.json.tmp")
            temporary.unlink(missing_ok=True)
            write_for(temporary, json.dumps(found), self._owner)
            temporary.rename(path)
        return {"REMOTE_CI_AGES": f"{SPOOL}/ages.json"}

    def container_spec(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        """Return the container to create; make the attempt's folders, its seal and `job.json`, once."""
        work = self._work(job.id, str(attempt))
        if worker_command.is_ahead(work):  # a controller ended while it handed a waiting container over
            self._trash.remove(work)
        self._folders(work)
        worker_command.write(work, prepared, self._description(job, prepared, work), self._owner)
        if prepared.upper is not None:
            self._note_prepared_files(job)
        return self._spec(job, prepared, attempt)

    def _description(self, job: Job, prepared: Prepared, work: Path) -> worker_command.Description:
        """Return what the worker has to know; write a file of modification times, if the client sent them."""
        options = job.options.usable()
        settings = self._settings
        cwd = "/".join(filter(None, (prepared.mount_point, options.cwd)))
        limits = limits_of(options, settings)
        own = {
            "REMOTE_CI_COLUMNS": str(options.columns),
            **({"REMOTE_CI_RECORDS": SPOOL} if options.records else {}),
            **self._ages(job, options, work),
            **{name: value for name, value in prepared.env.items() if name.startswith("REMOTE_CI_")},
        }
        processors = str(max(1, round(limits.cpus)))
        env = {
            # Else programs start a worker or a thread for every processor of the host.
            **dict.fromkeys(_PROCESSORS, processors),
            **prepared.env,
            **_env_of_command(job),
            **own,
        }
        return {
            "protocol": 1,
            "argv": worker_command.command(job, prepared),
            "cwd": cwd,
            "env": env,
            "path": list(prepared.path),
            "grace": settings.grace,
            "recorded": options.records and job.options.script is None,
            "restarts": options.restarts,
            "git": options.git,
            "kept": [(name, f"{KEPT}/{name}") for name in (prepared.kept.links if prepared.kept else ())],
            "memory": formats.size(limits.memory),
            "file_size": formats.size(limits.file_size),
            "shm_size": formats.size(limits.shm_size) if self._engine_isolates() else "",
        }

    def _spec(self, job: Job, prepared: Prepared, attempt: int) -> ContainerSpec:
        options = job.options.usable()
        settings = self._settings
        work = self._work(job.id, str(attempt))
        return ContainerSpec(
            name=f"{settings.prefix}{job.id}-{attempt}",
            image_id=prepared.image,
            argv=worker_command.worker(prepared),
            role="test",
            job_id=job.id,
            attempt=attempt,
            env={"HOME": HOME},
            binds=(*prepared.binds, Bind(work / "spool", SPOOL, read_only=False)),
            overlay=Overlay(
                prepared.lowers,
                prepared.upper or work / "upper",
                work / "work",
                prepared.workspace or prepared.mount_point,
            ),
            kept=self._kept_home(prepared, work),
            limits=limits_of(options, settings),
            network="none" if "none" in (options.network, settings.network) else "egress",
            join=prepared.join,
            known=prepared.known,
        )

    # -- containers started ahead (see `ahead`)
    def can_wait(self, job: Job) -> bool:
        """Return whether a container may be started ahead for jobs like this one: only the plainest jobs."""
        options = job.options.submitted
        return (
            self._engine_isolates()
            and job.options.script is None
            and options.records
            and not options.services
            and not job.options.secrets
        )

    def prepare_ahead(self, job: Job, stopping: Callable[[], bool]) -> Ahead | None:
        """Return a container like that of an ended job, with its folders; None if there is none."""
        if not self.can_wait(job):
            return None

        def building() -> None:
            raise PreparationStopped("nothing is built ahead")

        token = f"ahead{uuid.uuid4().hex[:16]}"
        model = replace(job, id=token)
        with self._guard:
            self._ahead[token] = frozenset(filter(None, (job.environment, job.workspace)))
        made = None
        try:
            prepared = self.prepare(model, log=lambda _: None, building=building, stopping=stopping)
            if prepared.python and not (prepared.kept and prepared.kept.links):
                made = self._make_ahead(model, prepared)
            return made
        except RunnerError as error:
            _log.info("no container waits for the next job like %s: %s", job.id, error)
            return None
        finally:
            if made is None:
                self._drop_ahead(token)

    def _make_ahead(self, model: Job, prepared: Prepared) -> Ahead:
        work = self._work(model.id, "1")
        self._folders(work)
        worker_command.write_ahead(work, self._description(model, prepared, work), self._owner)
        spec = replace(
            self._spec(model, prepared, 1),
            name=f"{self._settings.prefix}{model.id}",  # unlike a job's, it does not end in an attempt
            job_id="",
            attempt=0,
            ahead_of=self._settings.prefix,
        )
        return Ahead(model.id, spec, self._layers(model, prepared), prepared.key)

    def _layers(self, job: Job, prepared: Prepared) -> Layers:
        digest = job.workspace or ""
        kept = prepared.kept.project if prepared.kept is not None else None
        return Layers(digest, self._workspaces.tree(digest), kept)

    def is_ready(self, ahead: Ahead) -> bool:
        """Return whether a started one has done all that it can without its job."""
        return os.path.lexists(self._work(ahead.token, "1") / "spool" / "ready")

    def is_for(self, ahead: Ahead, job: Job, prepared: Prepared, attempt: int) -> bool:
        """Return whether a job may take it."""
        if not self.can_wait(job) or self._work(job.id, str(attempt)).exists():
            return False
        spec, layers = self._spec(job, prepared, attempt), self._layers(job, prepared)
        if spec.kept is not None or not is_alike(ahead.spec, ahead.layers, spec, layers):
            return False
        changes = self._workspaces.changes(ahead.layers.workspace, layers.workspace)
        return changes is not None and are_few(changes)

    def hand_over(self, ahead: Ahead, job: Job, prepared: Prepared, attempt: int) -> str:
        """Make its folders those of the job's attempt, with the job's files; return its name from now on.

        The container is frozen. Its mounts follow the folders, whatever their names are.
        """
        work = self._work(job.id, str(attempt))
        self._work(ahead.token, "1").rename(work)
        own = self._work(ahead.token, "own")
        if own.is_dir():
            own.rename(self._work(job.id, "ahead"))
        with self._guard:
            self._ahead.pop(ahead.token, None)
        changed = self._workspaces.changes(ahead.layers.workspace, job.workspace or "") or []
        (work / "spool" / "changes").mkdir(mode=0o755)
        changes: list[tuple[str, str | None, int]] = []
        for number, entry in enumerate(changed):
            if isinstance(entry, str):
                changes.append((entry, None, 0))
            else:
                self._workspaces.copy_content(entry, work / "spool" / "changes" / str(number))
                changes.append((entry.path, str(number), entry.mode))
        description = self._description(job, prepared, work)
        mount = prepared.workspace or prepared.mount_point
        worker_command.deliver(work, {**description, "workspace": mount, "changes": changes}, self._owner)
        return f"{self._settings.prefix}{job.id}-{attempt}"

    def was_handed_over(self, job_id: str, attempt: int) -> bool:
        """Return whether the folder of the attempt has all of the job's files."""
        return (self._work(job_id, str(attempt)) / "delivered").exists()

    def remove_attempt(self, job_id: str, attempt: int) -> None:
        """Remove the folder of an attempt that has not begun."""
        self._trash.remove(self._work(job_id, str(attempt)))

    def forget_ahead(self, ahead: Ahead) -> None:
        """Remove its folders; its container must be gone."""
        self._drop_ahead(ahead.token)

    def _drop_ahead(self, token: str) -> None:
        with self._guard:
            self._ahead.pop(token, None)
        self.remove_work(token)

    def _kept_home(self, prepared: Prepared, work: Path) -> Overlay | None:
        if prepared.kept is None or not prepared.kept.links:
            return None
        self._folders(work, "kept-upper", "kept-work")
        return Overlay((prepared.kept.home,), work / "kept-upper", work / "kept-work", KEPT)

    def expect_kept(self, job: Job) -> None:
        """Let the next job of the same project wait for `take_kept`, which follows; call it before the job's end."""
        try:
            self._keeper.expect(job, self._written(job))
        except (OSError, RunnerError) as error:
            _log.warning("job %s: its files to keep are not expected: %s", job.id, error)

    def take_kept(self, job: Job) -> None:
        """Keep what the job leaves to the next one; its container must be gone. May be repeated."""
        try:
            self._keeper.take(job, self._written(job), self.written(job).sent)
        except (OSError, PermanentError) as error:
            _log.warning("job %s: nothing is kept for the next one: %s", job.id, error)

    def _written(self, job: Job) -> Written:
        home = self._work(job.id, str(job.attempt)) / "kept-upper"
        return Written(self.written(job).folder, home, only_changes=self._engine_isolates())

    def written(self, job: Job) -> JobOutput:
        """Return where the files of the job's current attempt are."""
        workspace = job.workspace

        def sent() -> Mapping[str, str]:
            return self._workspaces.files(workspace).digests if workspace is not None else {}

        def original() -> changes.Original | None:
            return self._original(job)

        inner = job.options.submitted.project_folder
        if self._engine_isolates():
            root = _project_path(job.options.submitted)
            return JobOutput(self._work(job.id, str(job.attempt)) / "upper", root, sent, original, inner)
        folder = self._copy(job)
        if not folder.is_dir():  # of a job that began under an earlier version of the runner
            return JobOutput(self._work(job.id, "own") / "upper", str(folder), sent)
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
        if self._engine_isolates():
            return changes.Original(files)
        try:
            found = json.loads((self._work(job.id, "own") / _PREPARED_FILES).read_bytes())
        except (OSError, ValueError):
            return None
        prepared = {path: (size, time) for path, (size, time) in found.items()}
        return changes.Original(files, self._workspaces.tree(job.workspace), prepared)

    def _note_prepared_files(self, job: Job) -> None:
        """Write which files the job's own folder has before it runs, besides the submitted ones; once."""
        place = self._work(job.id, "own") / _PREPARED_FILES
        if job.workspace is None or not job.options.wants_changes or place.exists():
            return
        found = changes.prepared_files(self._copy(job), self._workspaces.rows(job.workspace))
        temporary = place.with_suffix(".tmp")
        temporary.write_text(json.dumps(found))
        temporary.rename(place)

    def compile_bytecode(self, job: Job, stopping: Callable[[], bool]) -> None:
        """Do work that can wait until the job has ended and speeds up the next one."""
        if job.environment is not None:
            self._bytecode.make(job.environment.partition(".")[0], job.id, stopping)

    def in_use(self) -> frozenset[str]:
        """Return the names of the build containers of calls in flight in this process."""
        return self._builds.in_use()

    def remove_work(self, job_id: str) -> None:
        """Remove the working folders of all of a job's attempts and builds. Harmless if there are none."""
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", job_id):
            return
        with self._guard:
            if job_id in self._ahead:
                return
        for folder in (self._data / "work").glob(f"{job_id}-*"):
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
        with self._guard:
            keep = keep.union(*self._ahead.values())
        self._evictor.evict(keep)
        self._trash.empty(_REMOVED_AT_ONCE)

    def _engine_isolates(self) -> bool:
        if self._isolates is None:
            self._isolates = self._engine.probe().isolates
        return self._isolates

    def _own_folder(self, job: Job) -> Path:
        copy = self._copy(job)
        self._folders(copy.parents[1], "work", "spool", "copy", f"copy/{copy.name}")
        return copy

    def _copy(self, job: Job) -> Path:
        """Return the path of the workspace's copy: named as locally, because pytest makes a keyword of that name."""
        submitted = job.options.submitted
        name = PurePosixPath(mount_point(submitted.root, submitted.project_folder)).name
        # A colon ends a path in PYTHONPATH, and so on: only harmless names are used unchanged.
        return (
            self._work(job.id, "own")
            / "copy"
            / (name if re.fullmatch(r"\w[\w.-]{0,99}", name) else "project")
        )

    def _work(self, job_id: str, part: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", job_id):
            raise PermanentError(f"{job_id!r} is not the id of a job")
        return self._data / "work" / f"{job_id}-{part}"

    def _folders(self, work: Path, *parts: str) -> None:
        for part in parts or ("upper", "work", "spool"):
            (work / part).mkdir(mode=0o755, parents=True, exist_ok=True)
            # Without isolation jobs are the runner's own user: git, among others, checks the owner of its folder.
            if self._owner is not None and self._engine_isolates():
                os.chown(work / part, self._owner, self._owner)


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


def _env_of_command(job: Job) -> dict[str, str]:
    """Return the developer's variables for the command: only scripts get credentials of builds."""
    is_for_builds = (
        set() if job.options.script is not None else set(filter(is_credential, job.options.secrets))
    )
    env = job.options.usable().env
    return {name: value for name, value in env.items() if name not in is_for_builds}


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
