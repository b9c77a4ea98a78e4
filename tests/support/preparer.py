"""Prepares and runs a folder's tests on a real engine, without server or controller: what the tests here share."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ci_runner.controller.engine import Engine, Observed
from ci_runner.controller.engines.docker.allowed_hosts import Service
from ci_runner.controller.engines.docker.engine import DockerEngine
from ci_runner.controller.environments.container_specs import Prepared
from ci_runner.controller.environments.preparer import Preparer
from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.settings.groups import EnvironmentSettings, ReconcileSettings, StorageSettings
from ci_runner.storage.blobs import BlobStore, job_owner
from pytest_remote_ci.wire.protocol import Manifest, ManifestEntry, SubmitOptions
from support.waiting import wait_until

#: The certificates that the tests' own machine trusts: containers reach package indexes as it does.
CA_BUNDLE = os.environ.get("SSL_CERT_FILE")


@dataclass
class Ran:
    """How a job went."""

    code: int
    stdout: str
    stderr: str
    prepared: Prepared
    log: list[str]
    #: Whether something was really built.
    built: bool
    #: Seconds.
    preparing: float
    running: float


@dataclass
class Bench:
    """A data directory, an engine, a preparer."""

    data: Path
    engine: Engine
    base_image: str | None = None
    environments: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    reconcile: Mapping[str, Any] = field(default_factory=dict)
    install_id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def __post_init__(self) -> None:
        self.blobs = BlobStore(self.data, job_owner())
        settings = {"base_image": self.base_image, "default_python": "3.11", "grace": 5.0, **self.reconcile}
        self.preparer = Preparer(
            storage=StorageSettings(data_dir=self.data),
            reconcile=ReconcileSettings(**settings),
            environments=self.environments,
            engine=self.engine,
            install_id=self.install_id,
        )

    def submit(self, files: Mapping[str, str | bytes], user: str = "user-1", **options: Any) -> Job:
        """A job for these files."""
        entries = []
        for path, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            digest = self.blobs.put_bytes(data)
            entries.append(ManifestEntry(path, 0o644, len(data), digest))
        workspace = self.blobs.put_manifest(Manifest(tuple(entries)))
        wire = SubmitOptions.from_dict({"protocol": 1, **options}).to_dict()
        return Job(
            str(uuid.uuid4()),
            user_id=user,
            workspace=workspace,
            options=JobOptions.from_dict(wire),
            attempt=1,
        )

    def prepare(self, job: Job, log: list[str] | None = None) -> tuple[Prepared, bool]:
        """(what was prepared, whether something was built)."""
        built: list[bool] = []
        prepared = self.preparer.prepare(
            job,
            log=(log if log is not None else []).append,
            building=lambda: built.append(True),
            stopping=lambda: False,
        )
        assert len(built) <= 1
        return prepared, bool(built)

    def run(self, job: Job) -> Ran:
        """Prepare and run a job to its end."""
        log: list[str] = []
        began = time.monotonic()
        prepared, built = self.prepare(job, log)
        ready = time.monotonic()
        spec = self.preparer.container_spec(job, prepared, 1)
        spool = self.data / "work" / f"{job.id}-1" / "spool"
        container = self.engine.create(spec)
        try:
            self.engine.start(container)

            def ended() -> Observed | None:
                seen = self.engine.inspect(container)
                assert seen is not None
                return seen if seen.state in ("exited", "dead") else None

            seen = wait_until(ended, 120, what="the job's end")
            own = self.engine.output(container)
        finally:
            self.engine.remove(container)
        over = time.monotonic()
        frames = spool / "frames"
        assert frames.exists(), f"the worker never started: {own} {seen}"
        last = json.loads(frames.read_text().splitlines()[-1])
        assert last["t"] == "exit"
        assert seen.exit_code == last["code"]
        return Ran(
            last["code"],
            (spool / "stdout").read_text(),
            (spool / "stderr").read_text(),
            prepared,
            log,
            built,
            ready - began,
            over - ready,
        )


@contextmanager
def disposable_engine(
    scratch: Path, services: Sequence[Service] = (), **options: Any
) -> Iterator[DockerEngine]:
    """An engine of a new install; nothing of the install is left, and its jobs have left no container."""
    engine = DockerEngine(uuid.uuid4().hex[:12], scratch=scratch, services=services, **options)
    yield engine
    assert engine.list() == []
    engine.sweep(frozenset())
    engine.network.remove()
    engine.close()


def environment(prepared: Prepared) -> Path:
    """The folder that the job sees as its environment."""
    return next(bind.source for bind in prepared.binds if bind.target == "/ci/env")


def folder_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder, but for byte code."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
