"""A real server on loopback with a real store, for tests of the HTTP plane; no controller: tests play it."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests

from ci_runner.model import api_keys
from ci_runner.model.job import APIKey, Job, JobEvent, User, utcnow
from ci_runner.model.verdict import Verdict, ran
from ci_runner.server.app import RunnerApp, create_app
from ci_runner.server.context import Hooks, Services
from ci_runner.server.http.server import HttpServer
from ci_runner.settings.groups import ServeSettings, StorageSettings
from ci_runner.storage.blobs import BlobStore, job_owner
from ci_runner.store import Store
from support.openapi import validate_response


def zip_of(files: Mapping[str, bytes]) -> bytes:
    """A zip archive of `files`."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return target.getvalue()


PROJECT = zip_of({"test_one.py": b"def test_add():\n    assert 1 + 1 == 2\n"})


@dataclass(frozen=True)
class Person:
    """A user with a key."""

    user: User
    key: str
    headers: dict[str, str] = field(default_factory=dict)


class Runner:
    """A running server and what is behind it."""

    def __init__(self, root: Path, settings: ServeSettings, hooks: Hooks | None, reserve: int) -> None:
        self.data = root
        self.store = Store.open(root / "runner.db")
        self.blobs = BlobStore(root, job_owner())
        storage = StorageSettings(data_dir=root, disk_reserve=reserve)
        self.settings = replace(settings, host="127.0.0.1", port=0)
        self.app: RunnerApp = create_app(
            Services(self.store, self.blobs, self.settings, storage, hooks=hooks)
        )
        self.server = HttpServer(self.app, self.settings, root)
        self.session = requests.Session()
        self.session.trust_env = False
        self._epoch: int | None = None

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def epoch(self) -> int:
        """The lease of the controller that the test plays."""
        if self._epoch is None:
            self._epoch = self.store.lease.acquire("test")
        return self._epoch

    def person(self, name: str = "Ada", **changes: Any) -> Person:
        """A new user with a new key."""
        user = User(str(uuid.uuid4()), name, f"{uuid.uuid4().hex}@example.org", utcnow(), **changes)
        self.store.users.create(user)
        key = api_keys.generate()
        self.store.keys.create(APIKey(key.id, user.id, key.hash, "laptop", utcnow()))
        return Person(user, key.text, {"Authorization": f"Bearer {key.text}"})

    def request(self, method: str, path: str, person: Person | None = None, **more: Any) -> requests.Response:
        """One request, whose answer is held against the OpenAPI document."""
        headers = {**(person.headers if person else {}), **more.pop("headers", {})}
        more.setdefault("timeout", 30)
        response = self.session.request(method, self.url + path, headers=headers, **more)
        validate_response(response)
        return response

    def get(self, path: str, person: Person | None = None, **more: Any) -> requests.Response:
        return self.request("GET", path, person, **more)

    def submit(
        self,
        person: Person | None,
        content: bytes | None = PROJECT,
        options: Mapping[str, Any] | None = None,
        path: str = "/submit-async",
        manifest: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> requests.Response:
        """Post a project."""
        files: dict[str, Any] = {}
        if content is not None:
            files["file"] = ("project.zip", content, "application/zip")
        if options is not None:
            files["options"] = (None, json.dumps(options), "application/json")
        if manifest is not None:
            files["manifest"] = (None, json.dumps(manifest), "application/json")
        return self.request("POST", path, person, files=files, **more)

    def job(self, person: Person, **more: Any) -> Job:
        """A submitted job."""
        response = self.submit(person, **more)
        assert response.status_code == 200, response.text
        job = self.store.jobs.get(response.json()["job_id"])
        assert job is not None
        return job

    def log(self, job_id: str, *texts: str, stream: str = "terminal") -> None:
        """The controller appends text to the job's log."""
        events = [JobEvent("log", text, timestamp=utcnow(), fields={"stream": stream}) for text in texts]
        self.store.events.append(job_id, self.epoch, events)

    def finish(self, job_id: str, verdict: Verdict | None = None) -> None:
        """The controller ends the job."""
        assert self.store.jobs.finish(job_id, self.epoch, verdict or ran(0))

    def leftovers(self) -> list[str]:
        """Names of what is in the folder of uploads."""
        return sorted(path.name for path in self.blobs.uploads.iterdir())

    def close(self) -> None:
        self.session.close()
        self.server.stop(seconds=5)
        self.store.close()


@contextlib.contextmanager
def running(
    root: Path,
    settings: ServeSettings | None = None,
    *,
    hooks: Hooks | None = None,
    reserve: int = 0,
) -> Iterator[Runner]:
    """A server for the length of the block."""
    small = ServeSettings(threads=8, max_streams=8, max_streams_per_user=6, heartbeat=0.3, wrong_keys=1000)
    runner = Runner(root, settings or small, hooks, reserve)
    runner.server.start()
    try:
        yield runner
    finally:
        runner.close()


def frames(response: requests.Response) -> Iterator[dict[str, str]]:
    """The fields of each frame of an event stream, comments under the name ''."""
    with response:
        for block in _blocks(response):
            frame: dict[str, str] = {}
            for line in block.split("\n"):
                name, _, value = line.partition(":")
                assert name not in frame, f"a field twice in one frame: {block!r}"
                frame[name] = value.removeprefix(" ")
            yield frame


def _blocks(response: requests.Response) -> Iterator[str]:
    text = b""
    for piece in response.iter_content(chunk_size=None):
        text += piece
        while b"\n\n" in text:
            block, text = text.split(b"\n\n", 1)
            yield block.decode()
    assert text == b"", "the stream ended inside a frame"


def events(response: requests.Response) -> Iterator[tuple[int | None, dict[str, Any]]]:
    """Number and JSON of each event of a stream."""
    for frame in frames(response):
        if "data" in frame:
            yield (int(frame["id"]) if "id" in frame else None), json.loads(frame["data"])


def raw_exchange(port: int, request: bytes, *, timeout: float = 10.0) -> bytes:
    """Send bytes and read until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer
