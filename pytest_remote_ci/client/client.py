"""A client of one runner: submit a project, follow its job, list jobs, cancel them.

```python
from pathlib import Path
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.wire.protocol import Manifest, SubmitOptions

with Client("https://runner.example", key) as client:
    job_id = client.submit(Path("project.zip"), SubmitOptions(args=("-x", "tests/unit")))
    for event in client.stream(job_id):
        if event.type == "log":
            print(event.text, end="")
```

Errors are those of `pytest_remote_ci.errors`. A `Client` must be used by one thread only. The functions of
`pytest_remote_ci.client.legacy`, which do the same in one call each, can also be imported from here.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, TYPE_CHECKING, TypeVar
from urllib.parse import quote

from pytest_remote_ci.client.ids import PAGE, whole_id
from pytest_remote_ci.client.multipart import MultipartUpload, Progress
from pytest_remote_ci.client.parameters import Parameters, given
from pytest_remote_ci.client.retry import Backoff
from pytest_remote_ci.client.stream import EventStream, OnTrouble
from pytest_remote_ci.client.transport import (
    KEY_HELP,
    AuthenticationFailed,
    Content,
    Interrupted,
    NotOffered,
    Transport,
)
from pytest_remote_ci.errors import ClientError, JobNotFound, RunnerUnreachable, SubmissionRefused
from pytest_remote_ci.wire import answers
from pytest_remote_ci.wire.control_characters import holds_any
from pytest_remote_ci.wire.protocol import STRICT_PROTOCOL, Manifest, SubmitOptions
from pytest_remote_ci.workspace.collect import create_project_zip

if TYPE_CHECKING:
    import requests

    from pytest_remote_ci.artifacts.download import Artifact
    from pytest_remote_ci.client.legacy import (
        list_jobs,
        submit_tests_async,
        submit_tests_streaming,
        wait_for_job,
    )
    from pytest_remote_ci.wire.changes import Change
    from pytest_remote_ci.wire.events import Event

_T = TypeVar("_T")

__all__ = [
    "KEY_HELP",
    "AuthenticationFailed",
    "Client",
    "create_project_zip",
    "list_jobs",
    "submit_tests_async",
    "submit_tests_streaming",
    "wait_for_job",
]

#: Uploads larger than this (bytes) are preceded by a check of the key, so that a refusal does not cost the upload.
_LARGE_UPLOAD = 1 << 20
#: The runner's page size for a job's tests.
_TESTS_PAGE = 1000
#: Seconds for which a submission is retried, unless the first attempt finds no listener.
_SUBMIT_PATIENCE = 60.0
#: Seconds for which a short request is retried while the runner answers 429.
_BUSY_PATIENCE = 30.0
#: The same while nothing listens, for a runner that has answered before, and for one that may just be restarted.
_RESTART_PATIENCE = 10.0
_FIRST_PATIENCE = 2.0
#: Seconds to wait for the answer after a submission's last byte. The runner unpacks the submission in this time.
_SUBMIT_TIMEOUT = 300.0


class Client:
    """A connection to the runner at `url`, with the rights of the owner of `key`."""

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
        """Set up the connection pool; nothing is sent yet.

        All times are in seconds. `patience` limits how long a stream waits for a runner that went away. `on_wait` is
        called with one line of text when the runner asks to wait because of a limit (429).
        """
        self._transport = Transport(url, key, connect_timeout=connect_timeout, read_timeout=read_timeout)
        self._patience = patience
        self._sleep = sleep
        self._on_wait = on_wait
        #: Whether the runner has answered a request, and the attempts since nothing listens any more.
        self._has_answered = False
        self._restart: Backoff | None = None
        #: Whether the runner has accepted the key before.
        self._welcome = False

    @property
    def url(self) -> str:
        """The runner's address, without a trailing slash."""
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
        secrets: Mapping[str, str] = MappingProxyType({}),
    ) -> str:
        """Send a project's zip (a path, or a seekable open file) and return the id of its job.

        With a `manifest`, the zip holds the contents that `missing` returned, each named by its digest; `archive` is
        None if there were none. `secrets` are variables of the job that the runner encrypts and masks, beside those in
        `options`. Safe to repeat with the same `idempotency_key`: if the answer was lost, the runner
        returns the existing job instead of making a second one. Raises `SubmissionRefused` with the runner's reason.
        """
        if isinstance(archive, Path):
            with archive.open("rb") as opened:
                return self.submit(
                    opened,
                    options,
                    manifest=manifest,
                    progress=progress,
                    idempotency_key=idempotency_key,
                    secrets=secrets,
                )
        sent = None if options is None and not secrets else (options or SubmitOptions()).to_dict()
        if sent is not None and secrets:
            sent |= {"protocol": STRICT_PROTOCOL, "secrets": dict(secrets)}
        text = None if sent is None else json.dumps(sent)
        answer = self.upload("/submit-async", archive, text, manifest, progress, idempotency_key)
        job_id = self.read("no job id", lambda raw: answers.Fields(raw).text("job_id"), answer)
        if not job_id or holds_any(job_id):
            raise self._odd("no job id")
        return job_id

    def upload(
        self,
        path: str,
        archive: IO[bytes] | None,
        text: str | None,
        manifest: Manifest | None,
        progress: Progress | None,
        idempotency_key: str | None,
    ) -> object:
        """Post a project to `path` and return the JSON of the answer.

        `text` becomes the part ``options``. The other arguments and the errors are those of `submit`.
        """
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
                if self._waited_for_restart(error):
                    continue
                backoff.fail()
                if (error.refused and backoff.failures == 1) or backoff.is_exhausted:
                    raise RunnerUnreachable(str(error)) from error
                backoff.wait(error.retry_after)

    def _post(self, path: str, body: MultipartUpload, headers: dict[str, str]) -> object:
        sent = {"Content-Type": body.content_type, **headers}
        try:
            with self._transport.send(
                "POST", path, data=body, headers=sent, read_timeout=_SUBMIT_TIMEOUT
            ) as response:
                self._answered()
                return _json(response)
        except Interrupted as error:
            if not body.handed_over and not error.refused:
                # If the runner refuses a request by its headers, it closes the connection while the body is being
                # sent. `verify` then raises the actual error.
                with contextlib.suppress(RunnerUnreachable):
                    self.verify()
            raise
        except ValueError as error:
            raise self._odd("not JSON") from error

    def missing(self, digests: Collection[str]) -> list[str] | None:
        """Return the digests of the contents to send; None if the runner does not support manifests."""
        headers = {"Content-Type": "application/json"}
        body = json.dumps(sorted(digests)).encode()
        try:
            with self._send("POST", "/blobs/missing", data=body, headers=headers) as response:
                answer = _json(response)
        except (JobNotFound, NotOffered):
            return None
        except ValueError:
            answer = None
        found = self.read("not a list of digests", answers.texts, answer)
        if not set(found) <= set(digests):
            raise self._odd("not a list of digests")
        self._welcome = True
        return found

    def check_pipelines(self, question: Mapping[str, object]) -> answers.CheckedPipelines:
        """Return the answer of `POST /pipelines/check` (docs/guide/pipelines.md)."""
        try:
            answer = self.ask("POST", "/pipelines/check", body=dict(question))
        except (JobNotFound, NotOffered) as error:
            raise RunnerUnreachable(
                f"the runner at {self.url} is too old for pipelines: update it"
            ) from error
        return self.read("nothing about pipelines", answers.CheckedPipelines, answer)

    def stream(
        self,
        job_id: str,
        *,
        from_beginning: bool = True,
        after: int = 0,
        view: str | None = None,
        time_limit: float | None = None,
        on_trouble: OnTrouble | None = None,
        of_run: bool = False,
    ) -> EventStream:
        """Return the job's events up to `complete`, resumed after every interruption; see `EventStream`.

        With `of_run`, the id is that of a run, and the stream ends with `run_complete`.
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

    def job(self, job_id: str) -> answers.Job:
        """Return the job's summary. Raises `JobNotFound`."""
        return self.read("not a job", answers.Job, self._get(f"/jobs/{quote(job_id, safe='')}"))

    def job_id(self, word: str) -> str:
        """Return the id of the job that `word` begins. Raises `JobNotFound`, `AmbiguousId`."""

        def page(before: str | None) -> list[str]:
            return [job.job_id for job in self.jobs(query=word, limit=PAGE, before=before)]

        return whole_id("job", word, page)

    def jobs(
        self,
        *,
        status: str | None = None,
        since: str | None = None,
        query: str | None = None,
        limit: int | None = None,
        before: str | None = None,
    ) -> list[answers.Job]:
        """Return summaries of the key owner's jobs, newest submission first."""
        params = given(status=status, since=since, q=query, limit=limit, before=before)
        return self.read("not a list of jobs", answers.list_of(answers.Job), self._get("/jobs", params))

    def events(self, job_id: str, *, after: int, limit: int, view: str | None = None) -> list[Event]:
        """Return a page of the job's events: at most `limit` after event number `after`."""
        answer = self._get(
            f"/jobs/{quote(job_id, safe='')}/events", given(after=after, limit=limit, view=view)
        )
        return self.read("not a list of events", answers.events_in, answer)

    def artifacts(self, job_id: str) -> list[Artifact]:
        """Return the job's artifacts.

        The list is empty before the job's end, and if the runner does not support artifacts.
        """
        from pytest_remote_ci.artifacts.download import parse_list

        try:
            found = parse_list(self._get(f"/jobs/{quote(job_id, safe='')}/artifacts"))
        except JobNotFound:
            self.job(job_id)  # raises if the job itself does not exist
            found = []
        if found is None:
            raise self._odd("not a list of artifacts")
        return found

    def changes(self, job_id: str) -> tuple[str | None, list[Change]]:
        """Return where the job's project was on its client, and what the job did to the project's files.

        The list is empty before the job's end, and if the runner does not record changes.
        """
        from pytest_remote_ci.wire.changes import parse_list

        try:
            answer = self._get(f"/jobs/{quote(job_id, safe='')}/changes")
        except JobNotFound:
            self.job(job_id)  # raises if the job itself does not exist
            return None, []
        changes = self.read("not a list of changes", answers.Changes, answer)
        found = parse_list(changes.files)
        if found is None:
            raise self._odd("not a list of changes")
        return changes.root, found

    def tests(self, job_id: str) -> Iterator[answers.TestResult]:
        """Yield the results of the job's tests, ordered by test id; none if the session was not recorded."""
        after = ""
        while True:
            answer = self._get(f"/jobs/{quote(job_id, safe='')}/tests", {"after": after} if after else None)
            page = self.read("not a list of tests", answers.list_of(answers.TestResult), answer)
            yield from page
            if len(page) < _TESTS_PAGE or page[-1].id <= after:
                return
            after = page[-1].id

    def test_report(
        self, kind: str = "all", *, root: str | None = None, runs: int | None = None, limit: int | None = None
    ) -> answers.TestReport:
        """Return statistics about tests from the key owner's newest runs (of the project in `root`)."""
        answer = self._get("/reports/tests", given(kind=kind, root=root, runs=runs, limit=limit))
        return self.read("not a report", answers.TestReport, answer)

    def kept(self, root: str | None = None) -> list[answers.KeptFolder]:
        """Return what the key owner's jobs (of the project in `root`) keep for the next one."""
        answer = self._get("/kept", given(root=root))
        return self.read("not a list of kept folders", answers.list_of(answers.KeptFolder), answer)

    def clear_kept(self, root: str | None = None) -> answers.Cleared:
        """Remove what `kept` lists; return the runner's answer."""
        return self.read("not an object", answers.Cleared, self.ask("DELETE", "/kept", given(root=root)))

    def artifact(self, job_id: str, path: str, start: int = 0) -> Content:
        """Open the content of one artifact from byte `start`. The caller closes it. Raises `Interrupted`."""
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        place = f"/jobs/{quote(job_id, safe='')}/artifacts/{quote(path)}"
        response = self._transport.send("GET", place, headers=headers, stream=True)
        content = Content(response, self._transport)
        if start and response.status_code != 206:
            content.skip(start)
        return content

    def artifact_archive(self, job_id: str) -> Content:
        """Open all artifacts as a tar archive, to be read as a stream. The caller closes it. Raises `Interrupted`."""
        place = f"/jobs/{quote(job_id, safe='')}/artifacts.tar"
        headers = {"Accept-Encoding": "identity"}
        return Content(self._transport.send("GET", place, headers=headers, stream=True), self._transport)

    def cancel(self, job_id: str) -> bool:
        """Request the cancellation of a job; return False if it had already ended. Raises `JobNotFound`."""
        try:
            self._send("DELETE", f"/jobs/{quote(job_id, safe='')}", read_timeout=10.0).close()
        except SubmissionRefused as error:
            if error.status == 409:
                return False
            raise
        return True

    def verify(self) -> None:
        """Check that a runner answers and accepts the key. Raises `RunnerUnreachable` or `AuthenticationFailed`."""
        self.jobs(limit=1)

    def is_healthy(self, timeout: float = 2.0) -> bool:
        """Return whether a runner answers at all, with any key."""
        try:
            with self._transport.send("GET", "/health", read_timeout=timeout) as response:
                return answers.Fields(_json(response)).text("status") == "ok"
        except (ClientError, ValueError):
            return False

    def read(self, what: str, parse: Callable[[object], _T], answer: object) -> _T:
        """Return an answer parsed. Raises `RunnerUnreachable`; `what` says what a wrong answer is."""
        try:
            return parse(answer)
        except answers.AnswerError as error:
            detail = str(error)
            raise self._odd(f"{what}: {detail}" if detail else what) from error

    def _odd(self, what: str) -> RunnerUnreachable:
        """Return the error for an answer that no runner gives."""
        return RunnerUnreachable(f"{self.url} does not answer like a runner ({what}); check the address")

    def ask(
        self,
        method: str,
        path: str,
        params: Parameters | None = None,
        body: Mapping[str, object] | None = None,
    ) -> object:
        """Send any short request and return the JSON of its answer.

        `body` is sent as JSON with an idempotency key, so that a repetition has no second effect.
        """
        headers, data = None, None
        if body is not None:
            headers = {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
            data = json.dumps(body).encode()
        with self._send(
            method, path, params=params, headers=headers, data=data, read_timeout=30.0
        ) as response:
            try:
                return _json(response)
            except ValueError as error:
                raise self._odd("not JSON") from error

    def _get(self, path: str, params: Parameters | None = None) -> object:
        return self.ask("GET", path, params)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Parameters | None = None,
        headers: Mapping[str, str] | None = None,
        data: bytes | None = None,
        read_timeout: float | None = None,
    ) -> requests.Response:
        """Send a short request; repeat it once after a broken connection, then raise `RunnerUnreachable`."""
        backoff = Backoff(_BUSY_PATIENCE, self._sleep)
        patience = _BUSY_PATIENCE
        while True:
            try:
                response = self._transport.send(
                    method, path, params=params, headers=headers, data=data, read_timeout=read_timeout
                )
                self._answered()
                return response
            except SubmissionRefused as error:
                patience = self._wait_for_turn(error, patience)
            except Interrupted as error:
                if self._waited_for_restart(error):
                    continue
                backoff.fail()
                if error.refused or backoff.failures > 1:
                    raise RunnerUnreachable(str(error)) from error
                backoff.wait(error.retry_after)

    def _waited_for_restart(self, error: Interrupted) -> bool:
        """Sleep if the runner may just be restarted; return whether to send the request again.

        A wrong address costs this time once, not once for each request.
        """
        if not error.restarting:
            return False
        if self._restart is None:
            patience = _RESTART_PATIENCE if self._has_answered else _FIRST_PATIENCE
            self._restart = Backoff(patience, self._sleep)
            if self._has_answered and self._on_wait is not None:
                self._on_wait(f"{error}; trying for {patience:g} s")
        if self._restart.is_exhausted:
            return False
        self._restart.fail()
        self._restart.wait()
        return True

    def _answered(self) -> None:
        self._has_answered, self._restart = True, None

    def _wait_for_turn(self, error: SubmissionRefused, patience: float) -> float:
        """Sleep as long as a 429 asks for and return the rest of `patience` (seconds).

        Raises `error` itself if it is not a 429, has no Retry-After, or would exceed `patience`.
        """
        left = patience - max(error.retry_after, 1.0)
        if error.status != 429 or not error.retry_after or left < 0:
            raise error
        if self._on_wait is not None:
            self._on_wait(f"{error}; trying again in {error.retry_after:g} s")
        self._sleep(error.retry_after)
        return left


def _json(response: requests.Response) -> object:
    """Return the body, parsed. Raises ValueError."""
    found: object = response.json()
    return found


def with_key_help(error: AuthenticationFailed) -> AuthenticationFailed:
    """Return the same error with the ways to supply a key added below its message."""
    return AuthenticationFailed(f"{error}\n\n{KEY_HELP}")


def __getattr__(name: str) -> object:
    """Import the functions of `pytest_remote_ci.client.legacy`, which are built on this module, on first use."""
    from pytest_remote_ci.client import legacy

    if name in __all__ and hasattr(legacy, name):
        found: object = getattr(legacy, name)
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
