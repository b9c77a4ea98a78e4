"""`SystemPackages`: images with packages of the distribution that jobs ask for, made once and used again.

An image is made of a base image and a list of packages, in a container in which root runs the distribution's package
manager and which sees nothing of the job (`Engine.create_image_build`). `images/<key>.json` in the data directory is
the truth about which images exist: the engine's names and labels could be made by anybody who brings an image. It is
written once an image is complete, and its modification time is that of the last use. An image without such a record
was being made by a controller that died; it is removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from ci_runner import failpoints
from ci_runner.controller.engine import Bind, DerivedImage, Engine, Image, ImageBuild, Limits
from ci_runner.controller.environments.builds import Builds
from ci_runner.controller.environments.places import PreparationStopped
from ci_runner.controller.environments.single_flight import SingleFlight
from ci_runner.dependencies import package_managers
from ci_runner.dependencies.package_managers import MANAGERS, PackageManager
from ci_runner.errors import EngineUnavailable, EnvironmentFailed, ImageUnavailable, PermanentError
from ci_runner.settings.groups import EnvironmentSettings
from pytest_remote_ci.wire import formats

_log = logging.getLogger(__name__)

_STARTED = failpoints.register(
    "controller.build.packages_started", "packages are to be installed in a started container"
)
_COMMITTED = failpoints.register(
    "controller.build.packages_committed", "an image with packages is made and not recorded"
)

#: Raised when images from the same inputs differ.
_VERSION: Final = 1
#: Path of the CA bundle in the container; what lies in /tmp does not become part of the image.
_CA_BUNDLE: Final = "/tmp/ci-ca.pem"  # noqa: S108  # a mount in the container
#: What a developer can do if packages cannot be installed in an image.
_INSTEAD: Final = "remove `packages` from [tool.remote-ci], or name another image with `image`"
#: Seconds between two checks whether the job is being stopped.
_POLL: Final = 0.1
#: Pieces of output that may wait for being logged.
_MOST_PIECES: Final = 256
#: Maximum bytes of output for the log, and of one line.
_OUTPUT_LIMIT: Final = 4 << 20
_LINE_LIMIT: Final = 4096
#: Characters of output that are searched for an error.
_TAIL: Final = 64_000


@dataclass(frozen=True)
class _Record:
    """What `images/<key>.json` has."""

    image: str
    #: Bytes in addition to the base image.
    size: int
    #: For the operator.
    base: str
    packages: tuple[str, ...]


@dataclass(frozen=True)
class WithPackages:
    """An image that has the packages, and the name under which it is recorded."""

    image: Image
    key: str


@dataclass(frozen=True)
class PackageRequest:
    """A job's wish, and its callbacks."""

    job_id: str
    attempt: int
    #: The user's own scope.
    scope: str
    base: Image
    packages: Sequence[str]
    log: Callable[[str], None]
    building: Callable[[], None]
    stopping: Callable[[], bool]


class SystemPackages:
    """The images with packages of one data directory. Thread-safe."""

    def __init__(
        self,
        data_dir: Path,
        engine: Engine,
        builds: Builds,
        settings: EnvironmentSettings,
        allowed: tuple[str, ...],
        limits: Limits,
    ) -> None:
        """Set up the object; `allowed`: patterns of packages that users may install."""
        self._root = data_dir / "images"
        self._engine = engine
        self._builds = builds
        self._settings = settings
        self._allowed = allowed
        self._limits = limits
        self._flights = SingleFlight()
        #: Held from the making of an image to its record.
        self._recording = threading.Lock()

    def check(self, packages: Sequence[str]) -> None:
        """Raise `PermanentError` for the first package that the operator does not allow."""
        for name in packages:
            if not any(fnmatchcase(name, pattern) for pattern in self._allowed):
                allowed = f"allowed: {', '.join(self._allowed)}" if self._allowed else "no package is allowed"
                raise PermanentError(
                    f"package {name!r} may not be installed on this runner ({allowed}); its operator can allow it "
                    "with the setting `allowed-packages`"
                )

    def ensure(self, request: PackageRequest) -> WithPackages:
        """Return the image with the packages, made if it is missing.

        Raises `EnvironmentFailed`, `ImageUnavailable`, `PermanentError`, `EngineUnavailable`, `PreparationStopped`.
        """
        key = _key(request.base, request.packages)
        found = self._find(key, request.base)
        if found is not None:
            return found
        request.building()
        # Taken first: users share the flight, and must not wait in the turn of the one who leads it.
        with self._builds.place(request.scope, request.job_id, request.stopping):
            return self._flights.once(
                key,
                lambda: self._find(key, request.base),
                lambda: self._make(key, request),
                joined=lambda: request.log("waiting for the system packages that another job installs"),
                stopping=request.stopping,
            )

    # -- making
    def _make(self, key: str, request: PackageRequest) -> WithPackages:
        # `recover` looks for images once the folder exists.
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        request.log(f"installing system packages: {' '.join(sorted(set(request.packages)))}")
        with self._builds.named() as name:
            container_id = self._engine.create_image_build(self._spec(name, request))
            try:
                self._start(container_id, request)
                failpoints.hit(_STARTED)
                self._install(container_id, request)
                image = self._commit(key, container_id, request)
            finally:
                self._remove_container(container_id)
        return WithPackages(replace(request.base, id=image.id), key)

    def _spec(self, name: str, request: PackageRequest) -> ImageBuild:
        bundle = self._settings.ca_bundle
        return ImageBuild(
            name=name,
            image_id=request.base.id,
            job_id=request.job_id,
            attempt=request.attempt,
            binds=() if bundle is None else (Bind(bundle.resolve(), _CA_BUNDLE),),
            limits=self._limits,
        )

    def _start(self, container_id: str, request: PackageRequest) -> None:
        try:
            self._engine.start(container_id)
        except PermanentError as error:
            raise EnvironmentFailed(
                f"could not install system packages in image {request.base.reference!r}: {error}"
            ) from error

    def _install(self, container_id: str, request: PackageRequest) -> None:
        manager = self._manager(container_id, request)
        ca_bundle = None if self._settings.ca_bundle is None else _CA_BUNDLE
        env = self._env(ca_bundle)
        for command in manager.commands(ca_bundle, sorted(set(request.packages))):
            lines = _Lines(request.log)
            code = self._run(container_id, command, env, lines.write, request.stopping)
            lines.finish()
            if code != 0:
                raise EnvironmentFailed(self._failure(container_id, lines.tail, code, request))

    def _manager(self, container_id: str, request: PackageRequest) -> PackageManager:
        lines = _Lines(lambda line: None)
        find = ("sh", "-c", package_managers.FIND)
        code = self._run(container_id, find, package_managers.ENVIRONMENT, lines.write, request.stopping)
        lines.finish()
        if code not in (0, 1):
            raise EnvironmentFailed(
                f"image {request.base.reference!r} has no shell, without which no package can be installed: {_INSTEAD}"
            )
        for manager in MANAGERS:
            if manager.name in lines.tail.split():
                return manager
        known = ", ".join(manager.name for manager in MANAGERS)
        raise EnvironmentFailed(
            f"image {request.base.reference!r} has no package manager ({known}): {_INSTEAD}"
        )

    def _env(self, ca_bundle: str | None) -> dict[str, str]:
        env = dict(package_managers.ENVIRONMENT)
        if ca_bundle is not None:
            env |= dict.fromkeys(("SSL_CERT_FILE", "SSL_CA_CERT_FILE", "CURL_CA_BUNDLE"), ca_bundle)
        for name in ("http_proxy", "https_proxy", "no_proxy"):
            value = getattr(self._settings, name)
            if value:
                env[name] = value
        return env

    def _run(
        self,
        container_id: str,
        command: Sequence[str],
        env: Mapping[str, str],
        output: Callable[[bytes], None],
        stopping: Callable[[], bool],
    ) -> int | None:
        """Run a command as root; kill the container if the job is stopped meanwhile."""
        running = _Running(self._engine, container_id, command, env)
        while True:
            for piece in running.pieces():
                output(piece)
            if running.is_over:
                return running.result()
            if stopping():
                self._engine.signal(container_id, "KILL")
                raise PreparationStopped("stopped while system packages were installed")

    def _failure(self, container_id: str, output: str, code: int | None, request: PackageRequest) -> str:
        seen = self._engine.inspect(container_id)
        if seen is not None and seen.oom_killed:
            limit = formats.size(self._limits.memory)
            return f"could not install system packages: out of memory ({limit}; the setting `build-memory`)"
        if code is None:
            return "could not install system packages: their container no longer exists"
        words = package_managers.reason(output) or f"the package manager ended with exit code {code}"
        hint = ""
        if package_managers.is_unreachable(words):
            hint = (
                f"; builds on this runner must reach the package sources of image {request.base.reference!r}, for "
                "which its operator has the settings `http-proxy` and `allow-network`"
            )
        return f"could not install system packages: {words}{hint}"

    def _commit(self, key: str, container_id: str, request: PackageRequest) -> DerivedImage:
        # Nothing that a package started writes meanwhile.
        self._engine.signal(container_id, "KILL")
        packages = tuple(sorted(set(request.packages)))
        with self._recording:
            image = self._engine.commit(
                container_id, request.base, f"{request.base.reference}: {' '.join(packages)}"
            )
            failpoints.hit(_COMMITTED)
            self._write(key, _Record(image.id, image.size, request.base.id, packages))
        _log.info(
            "image %s has the packages %s (%s)", image.id[:19], " ".join(packages), formats.size(image.size)
        )
        return image

    def _remove_container(self, container_id: str) -> None:
        try:
            self._engine.remove(container_id)
        except EngineUnavailable as error:  # the controller removes builds that nothing uses
            _log.info("the container of an image build is removed later: %s", error)

    # -- records
    def _find(self, key: str, base: Image) -> WithPackages | None:
        """Return a recorded image, and mark it as used now."""
        path = self._path(key)
        record = _read(path)
        if record is None:
            return None
        try:
            self._engine.image(record.image, pull=False)
            os.utime(path)
        except (ImageUnavailable, FileNotFoundError):
            return None
        return WithPackages(replace(base, id=record.image), key)

    def _write(self, key: str, record: _Record) -> None:
        temporary = self._root / f".tmp-{uuid.uuid4().hex}"
        temporary.write_text(json.dumps(asdict(record)))
        temporary.rename(self._path(key))

    def _path(self, key: str) -> Path:
        return self._root / f"{key}.json"

    # -- removal
    def images(self) -> Iterator[tuple[float, Path, int]]:
        """Yield (time of last use, record, bytes) of each image; the record's stem is its key."""
        for path in self._root.glob("*.json"):
            record = _read(path)
            if record is not None:
                yield path.lstat().st_mtime, path, record.size

    def remove(self, path: Path) -> None:
        """Remove an image: its record first, so that no job uses it any more. Raises `EngineUnavailable`."""
        record = _read(path)
        path.unlink(missing_ok=True)
        if record is not None:
            self._engine.remove_image(record.image)

    def recover(self) -> None:
        """Remove images without a record, and records without an image. Raises `EngineUnavailable`."""
        if not self._root.is_dir():
            return
        with self._recording:
            there = self._engine.derived_images()
            records = {path: _read(path) for path in self._root.glob("*.json")}
            for path, record in records.items():
                if record is None or record.image not in there:
                    path.unlink(missing_ok=True)
            for image in there - {record.image for record in records.values() if record is not None}:
                if self._engine.remove_image(image):
                    _log.info("image %s, which nothing uses, was removed", image[:19])
            for path in self._root.glob(".tmp-*"):
                path.unlink(missing_ok=True)


class _Running:
    """A command in a container, and the thread that waits for it."""

    def __init__(
        self, engine: Engine, container_id: str, command: Sequence[str], env: Mapping[str, str]
    ) -> None:
        self.is_over = False
        self._pieces: queue.Queue[bytes | None] = queue.Queue(_MOST_PIECES)
        self._code: int | None = None
        self._error: Exception | None = None

        def run() -> None:
            try:
                self._code = engine.run_as_root(container_id, command, env, self._pieces.put)
            except Exception as error:
                self._error = error
            finally:
                self._pieces.put(None)

        # Ends with its container, which is removed in any case. The program need not wait for that.
        threading.Thread(target=run, name="system-packages", daemon=True).start()

    def pieces(self) -> Iterator[bytes]:
        """Yield output for a short time; sets `is_over` at the end of all of it."""
        until = time.monotonic() + _POLL
        while not self.is_over and (left := until - time.monotonic()) > 0:
            try:
                piece = self._pieces.get(timeout=left)
            except queue.Empty:
                return
            if piece is None:
                self.is_over = True
            else:
                yield piece

    def result(self) -> int | None:
        """Return the exit code of the command, which has ended, or raise its error."""
        if self._error is not None:
            raise self._error
        return self._code


class _Lines:
    """Output of a command, passed on line by line, within limits; and its end."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self.tail = ""
        self._log = log
        self._rest = b""
        self._left = _OUTPUT_LIMIT

    def write(self, piece: bytes) -> None:
        """Take a piece of output."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > _LINE_LIMIT:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self._pass_on(line)

    def finish(self) -> None:
        """Pass on an unfinished line."""
        if self._rest:
            self._pass_on(self._rest)
            self._rest = b""

    def _pass_on(self, line: bytes) -> None:
        text = line[:_LINE_LIMIT].decode("utf-8", "replace").rstrip("\r")
        self.tail = f"{self.tail}{text}\n"[-_TAIL:]
        if self._left > 0:
            self._log(text)
        self._left -= len(line) + 1


def _key(base: Image, packages: Sequence[str]) -> str:
    inputs = [_VERSION, base.id, sorted(set(packages))]
    return hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]


def _read(path: Path) -> _Record | None:
    try:
        raw = json.loads(path.read_bytes())
        return _Record(str(raw["image"]), int(raw["size"]), str(raw["base"]), tuple(raw["packages"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
