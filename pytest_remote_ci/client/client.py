"""The Python client of a runner: submit a project, follow its job, list, cancel.

```python
from pathlib import Path
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.wire.protocol import Manifest, SubmitOptions

with Client("https://runner.example", key) as client:
    job_id = client.submit(Path("project.zip"), SubmitOptions(args=("-x", "tests/unit")))
    for event in client.stream(job_id):
        if event["type"] == "log":
            print(event["data"], end="")
```

Errors are those of `pytest_remote_ci.errors`. A `Client` belongs to one thread. The functions at the end do the same
in one call each, in the shape of the reference system's client library.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_remote_ci.client.multipart import MultipartUpload, Progress
from pytest_remote_ci.client.retry import Backoff
from pytest_remote_ci.client.stream import EventStream
from pytest_remote_ci.client.transport import (
    KEY_HELP,
    AuthenticationFailed,
    Content,
    Interrupted,
    NotOffered,
    Transport,
)
from pytest_remote_ci.errors import ClientError, JobNotFound, RunnerUnreachable, SubmissionRefused
from pytest_remote_ci.wire.control_characters import holds_any
from pytest_remote_ci.wire.protocol import Manifest, SubmitOptions
from pytest_remote_ci.workspace.collect import create_project_zip

if TYPE_CHECKING:
    from pytest_remote_ci.artifacts.download import Artifact

__all__ = [
    "KEY_HELP",
    "AuthenticationFailed",
    "Client",
    "create_project_zip",
    "list_jobs",  # noqa: F822 - see `__getattr__`
    "submit_tests_async",  # noqa: F822 - see `__getattr__`
    "submit_tests_streaming",  # noqa: F822 - see `__getattr__`
    "wait_for_job",  # noqa: F822 - see `__getattr__`
]

#: Above so many bytes the key is checked first: a refusal must not cost the upload.
_LARGE_UPLOAD = 1 << 20
#: Tests in one answer, when there are more.
_TESTS_PAGE = 1000
#: Seconds for which a submission that has reached the runner once is tried again.
_SUBMIT_PATIENCE = 60.0
#: Seconds for which a short request waits for a runner that says 429.
_BUSY_PATIENCE = 30.0
#: Seconds to wait for the answer to a submission after its last byte: the runner unpacks it meanwhile.
_SUBMIT_TIMEOUT = 300.0


class Client:
    """A runner at `url` as the owner of `key` sees it."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        connect_timeout: float = 10.0,
        read_timeout: float = 45.0,
        patience: float = 300.0,
        sleep: Callable[[float], None] = time.sleep,
        on_wait: Callable[[str], None] | None = None,
    ) -> None:
        """Times are seconds; `patience` is how long a stream waits for a runner that went away.

        `on_wait` is told in one line when the runner asks to wait because of a limit (429).
        """
        self._transport = Transport(url, key, connect_timeout=connect_timeout, read_timeout=read_timeout)
        self._patience = patience
        self._sleep = sleep
        self._on_wait = on_wait
        #: The runner has taken the key before.
        self._welcome = False

    @property
    def url(self) -> str:
        """The runner's address, without a final slash."""
        return self._transport.url

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def submit(
        self,
        archive: Path | IO[bytes] | None,
        options: SubmitOptions | None = None,
        *,
        manifest: Manifest | None = None,
        progress: Progress | None = None,
        idempotency_key: str | None = None,
    ) -> str:
        """Send a project's zip (a path, or a seekable open file) and return the id of its job.

        With a `manifest` the zip holds the contents that `missing` named, each under its digest; None: it named none.
        Safe to repeat with the same `idempotency_key`: a submission whose answer was lost is found, not made twice.
        Raises `SubmissionRefused` with the runner's reason.
        """
        if isinstance(archive, Path):
            with archive.open("rb") as opened:
                return self.submit(
                    opened, options, manifest=manifest, progress=progress, idempotency_key=idempotency_key
                )
        text = None if options is None else json.dumps(options.to_dict())
        answer = self.upload("/submit-async", archive, text, manifest, progress, idempotency_key)
        job_id = answer.get("job_id") if isinstance(answer, dict) else None
        if not isinstance(job_id, str) or not job_id or holds_any(job_id):
            raise RunnerUnreachable(f"{self.url} is no runner: its answer has no job id")
        return job_id

    def upload(
        self,
        path: str,
        archive: IO[bytes] | None,
        text: str | None,
        manifest: Manifest | None,
        progress: Progress | None,
        idempotency_key: str | None,
    ) -> Any:
        """Post a project to `path`, with `text` as its part ``options``; the JSON of the answer. See `submit`."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        files = None if manifest is None else json.dumps(manifest.to_dict(), separators=(",", ":"))
        backoff = Backoff(_SUBMIT_PATIENCE, self._sleep)
        patience = _SUBMIT_PATIENCE
        while True:
            body = MultipartUpload(archive, text, progress, manifest=files)
            try:
                if len(body) > _LARGE_UPLOAD and not backoff.failures and not self._welcome:
                    self.verify()
                return self._post(path, body, headers)
            except SubmissionRefused as error:
                patience = self._wait_for_turn(error, patience)
            except Interrupted as error:
                backoff.fail()
                if (error.refused and backoff.failures == 1) or backoff.is_exhausted:
                    raise RunnerUnreachable(str(error)) from error
                backoff.wait(error.retry_after)

    def _post(self, path: str, body: MultipartUpload, headers: dict[str, str]) -> Any:
        sent = {"Content-Type": body.content_type, **headers}
        try:
            with self._transport.send(
                "POST", path, data=body, headers=sent, read_timeout=_SUBMIT_TIMEOUT
            ) as response:
                return response.json()
        except Interrupted as error:
            if not body.handed_over and not error.refused:
                # A runner that refuses a request's head closes while the body is still being sent.
                with contextlib.suppress(RunnerUnreachable):
                    self.verify()
            raise
        except ValueError as error:
            raise RunnerUnreachable(f"{self.url} is no runner: its answer is no JSON") from error

    def missing(self, digests: Collection[str]) -> list[str] | None:
        """Those contents that must be sent for a submission by manifest; None: the runner knows no manifests."""
        headers = {"Content-Type": "application/json"}
        body = json.dumps(sorted(digests)).encode()
        try:
            with self._send("POST", "/blobs/missing", data=body, headers=headers) as response:
                answer = response.json()
        except (JobNotFound, NotOffered):
            return None
        except ValueError:
            answer = None
        if not isinstance(answer, list) or not set(answer) <= set(digests):
            raise RunnerUnreachable(f"{self.url} is no runner: its answer is no list of digests")
        self._welcome = True
        return answer

    def check_pipelines(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of `POST /pipelines/check` (docs/guide/pipelines.md)."""
        try:
            answer = self.ask("POST", "/pipelines/check", body=dict(question))
        except (JobNotFound, NotOffered) as error:
            raise RunnerUnreachable(
                f"the runner at {self.url} is too old for pipelines: update it"
            ) from error
        if not isinstance(answer, dict) or not isinstance(answer.get("problems"), list):
            raise RunnerUnreachable(f"{self.url} is no runner: its answer says nothing of pipelines")
        return answer

    def stream(
        self,
        job_id: str,
        *,
        from_beginning: bool = True,
        after: int = 0,
        view: str | None = None,
        time_limit: float | None = None,
        on_trouble: Callable[[str], None] | None = None,
        of_run: bool = False,
    ) -> EventStream:
        """The job's events up to `complete`, resumed after every interruption; see `EventStream`.

        `of_run`: the id is a run's, whose stream ends with `run_complete`.
        """
        return EventStream(
            self._transport,
            job_id,
            from_beginning=from_beginning,
            after=after,
            view=view,
            time_limit=time_limit,
            patience=self._patience,
            on_trouble=on_trouble,
            sleep=self._sleep,
            of_run=of_run,
        )

    def job(self, job_id: str) -> dict[str, Any]:
        """The job's summary. Raises `JobNotFound`."""
        summary = self._get(f"/jobs/{quote(job_id, safe='')}")
        if not isinstance(summary, dict):
            raise RunnerUnreachable(f"{self.url} is no runner: its answer is no job")
        return summary

    def jobs(
        self,
        *,
        status: str | None = None,
        since: str | None = None,
        query: str | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[dict[str, Any]]:
        """Summaries of the key owner's jobs, newest submission first."""
        params = {"status": status, "since": since, "q": query, "limit": limit, "before": before}
        answer = self._get("/jobs", {name: value for name, value in params.items() if value is not None})
        if not isinstance(answer, list):
            raise RunnerUnreachable(f"{self.url} is no runner: its answer is no list of jobs")
        return answer

    def artifacts(self, job_id: str) -> list[Artifact]:
        """What the job left behind; none before its end, and from a runner that keeps none."""
        from pytest_remote_ci.artifacts.download import parse_list

        try:
            found = parse_list(self._get(f"/jobs/{quote(job_id, safe='')}/artifacts"))
        except JobNotFound:
            self.job(job_id)  # raises where it is the job that is not found
            found = []
        if found is None:
            raise RunnerUnreachable(f"{self.url} is no runner: its answer is no list of artifacts")
        return found

    def tests(self, job_id: str) -> Iterator[dict[str, Any]]:
        """What became of the job's tests, in the order of their ids; none where the session was not recorded."""
        after = ""
        while True:
            answer = self._get(f"/jobs/{quote(job_id, safe='')}/tests", {"after": after} if after else None)
            if not isinstance(answer, list) or not all(isinstance(item, dict) for item in answer):
                raise RunnerUnreachable(f"{self.url} is no runner: its answer is no list of tests")
            yield from answer
            if len(answer) < _TESTS_PAGE or str(answer[-1].get("id")) <= after:
                return
            after = str(answer[-1]["id"])

    def test_report(
        self, kind: str = "all", *, root: str | None = None, runs: int | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """What the key owner's newest runs (of the project in `root`) say about their tests."""
        params = {"kind": kind, "root": root, "runs": runs, "limit": limit}
        answer = self._get(
            "/reports/tests", {name: value for name, value in params.items() if value is not None}
        )
        if not isinstance(answer, dict) or not isinstance(answer.get("tests"), list):
            raise RunnerUnreachable(f"{self.url} is no runner: its answer is no report")
        return answer

    def artifact(self, job_id: str, path: str, start: int = 0) -> Content:
        """The content of one artifact from its byte `start`, to be read and closed. Raises `Interrupted`."""
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        place = f"/jobs/{quote(job_id, safe='')}/artifacts/{quote(path)}"
        response = self._transport.send("GET", place, headers=headers, stream=True)
        content = Content(response, self._transport)
        if start and response.status_code != 206:
            content.skip(start)
        return content

    def artifact_archive(self, job_id: str) -> Content:
        """All artifacts as a tar archive, to be read as it comes, and closed. Raises `Interrupted`."""
        place = f"/jobs/{quote(job_id, safe='')}/artifacts.tar"
        headers = {"Accept-Encoding": "identity"}
        return Content(self._transport.send("GET", place, headers=headers, stream=True), self._transport)

    def cancel(self, job_id: str) -> bool:
        """Ask for the job's end; False when it was over already. Raises `JobNotFound`."""
        try:
            self._send("DELETE", f"/jobs/{quote(job_id, safe='')}", read_timeout=10.0).close()
        except SubmissionRefused as error:
            if error.status == 409:
                return False
            raise
        return True

    def verify(self) -> None:
        """Check that a runner answers and takes the key. Raises `RunnerUnreachable` or `AuthenticationFailed`."""
        self.jobs(limit=1)

    def is_healthy(self, timeout: float = 2.0) -> bool:
        """Whether a runner answers at all; the key does not matter."""
        try:
            with self._transport.send("GET", "/health", read_timeout=timeout) as response:
                body = response.json()
        except (ClientError, ValueError):
            return False
        return isinstance(body, dict) and body.get("status") == "ok"

    def ask(self, method: str, path: str, params: dict[str, Any] | None = None, body: Any = None) -> Any:
        """Any short request with the JSON of its answer; `body` goes as JSON, and is made no more than once."""
        more: dict[str, Any] = {}
        if body is not None:
            headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
            more = {"data": json.dumps(body).encode(), "headers": headers}
        with self._send(method, path, params=params, read_timeout=30.0, **more) as response:
            try:
                return response.json()
            except ValueError as error:
                raise RunnerUnreachable(f"{self.url} is no runner: its answer is no JSON") from error

    def _get(self, path: str, params: dict[str, Any] | None = None) -> Any:
        return self.ask("GET", path, params)

    def _send(self, method: str, path: str, **more: Any) -> Any:
        """Short requests: one repetition after a broken connection, then the error is the caller's."""
        backoff = Backoff(_BUSY_PATIENCE, self._sleep)
        patience = _BUSY_PATIENCE
        while True:
            try:
                return self._transport.send(method, path, **more)
            except SubmissionRefused as error:
                patience = self._wait_for_turn(error, patience)
            except Interrupted as error:
                backoff.fail()
                if error.refused or backoff.failures > 1:
                    raise RunnerUnreachable(str(error)) from error
                backoff.wait(error.retry_after)

    def _wait_for_turn(self, error: SubmissionRefused, patience: float) -> float:
        """Wait as long as a 429 asks for; what is left of `patience` then. Raises `error` for other ones."""
        left = patience - max(error.retry_after, 1.0)
        if error.status != 429 or not error.retry_after or left < 0:
            raise error
        if self._on_wait is not None:
            self._on_wait(f"{error}; trying again in {error.retry_after:g} s")
        self._sleep(error.retry_after)
        return left


def with_key_help(error: AuthenticationFailed) -> AuthenticationFailed:
    """The same error, with the ways to supply a key below its line."""
    return AuthenticationFailed(f"{error}\n\n{KEY_HELP}")


def __getattr__(name: str) -> Any:
    """The one-call functions of the reference system's client library, which are made of the above."""
    from pytest_remote_ci.client import legacy

    if name in __all__ and hasattr(legacy, name):
        return getattr(legacy, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
