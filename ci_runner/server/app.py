"""The HTTP API as one WSGI application, with its routes.

Each route is implemented in the module of its resource, errors are answered by `server.error_answers`;
docs/reference/wire.md describes the contract.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import falcon
import msgspec
from falcon.media import JSONHandler, MultipartFormHandler

from ci_runner.errors import RunnerError
from ci_runner.server.context import Services
from ci_runner.server.error_answers import add_error_handlers
from ci_runner.server.http.auth import Authenticator, AuthMiddleware
from ci_runner.server.http.limits import StreamSlots
from ci_runner.server.openapi.document import OpenApi
from ci_runner.server.openapi.page import DocsPage
from ci_runner.server.resources.artifacts import ArtifactArchive, ArtifactContent, ArtifactList, ChangeList
from ci_runner.server.resources.event_pages import JobEvents, RunEvents
from ci_runner.server.resources.health import Health, Ready
from ci_runner.server.resources.jobs import JobList, JobStream, JobSummary
from ci_runner.server.resources.kept import Kept
from ci_runner.server.resources.metrics import MetricsPage
from ci_runner.server.resources.pipelines import PipelineCheck
from ci_runner.server.resources.reports import REPORT_PATHS, Reports
from ci_runner.server.resources.runs import Durations, NumberedRun, Rerun, RunDetail, RunList, RunStream
from ci_runner.server.resources.submit import MissingBlobs, Submission, SubmitAsync, SubmitStream
from ci_runner.server.resources.tests import JobTests, TestReport
from ci_runner.server.streams.hub import Streams
from ci_runner.server.streams.sse_response import StreamResponder
from ci_runner.settings.groups import ServeSettings

if TYPE_CHECKING:
    from ci_runner.server.metrics import RequestTimer

_log = logging.getLogger(__name__)

_MOST_PARTS: Final = 16


class RunnerApp(falcon.App):  # type: ignore[type-arg]  # its parameters are not used
    """The application, with the background work that is started and stopped around it."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.authenticator = Authenticator(
            services.repository, services.serve.wrong_keys, services.clock, services.hooks
        )
        self.streams = Streams(services.store, self.authenticator, services.serve.heartbeat)
        self._activity = Activity()
        #: Returns the metrics; None if the operator wants none.
        self.metrics: Callable[[], bytes] | None = None
        timers: list[RequestTimer] = []
        if services.serve.metrics_token is not None:
            from ci_runner.server.metrics import (  # their library takes a while to import
                Metrics,
                RequestTimer,
            )

            metrics = Metrics(services, lambda: len(self.streams))
            self.metrics = metrics.text
            timers = [RequestTimer(metrics)]
        super().__init__(middleware=[*timers, self._activity, AuthMiddleware(self.authenticator)])

    def start(self) -> None:
        """Remove the remains of interrupted uploads and start the thread that wakes streams."""
        self.services.blobs.sweep_uploads()
        self.streams.start()

    def stop(self) -> None:
        """End all streams (their clients resume) and store when keys were last used."""
        self.streams.stop()
        try:
            self.authenticator.flush()
        except RunnerError as error:
            _log.warning("the last use of keys is not written: %s", error)

    def idle_seconds(self) -> float:
        """Return the seconds without any request; 0 while a stream is open."""
        return 0.0 if len(self.streams) else self._activity.idle_seconds()


class Activity:
    """Tracks when the last request began or was answered."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def process_request(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Note a request; Falcon calls this before anything else."""
        self._last = time.monotonic()

    def process_response(
        self, req: falcon.Request, resp: falcon.Response, resource: object, req_succeeded: bool
    ) -> None:
        """Note a response; Falcon calls this last, before a stream is iterated."""
        self._last = time.monotonic()

    def idle_seconds(self) -> float:
        """Return the seconds since the last request began or was answered."""
        return time.monotonic() - self._last


def create_app(services: Services) -> RunnerApp:
    """Return the application; call its `start` before serving it and its `stop` afterwards."""
    app = RunnerApp(services)
    handler = MultipartFormHandler()
    handler.parse_options.max_body_part_count = _MOST_PARTS
    app.req_options.media_handlers[falcon.MEDIA_MULTIPART] = handler
    app.resp_options.media_handlers[falcon.MEDIA_JSON] = JSONHandler(dumps=_dumps)
    add_error_handlers(app)
    slots = _stream_slots(services.serve)
    responder = StreamResponder(services.store, app.streams, slots)
    submission = Submission(services)
    reports = Reports(services.store)
    routes = {
        "/submit": SubmitStream(submission, responder, announce=False),
        "/submit-stream": SubmitStream(submission, responder, announce=True),
        "/submit-async": SubmitAsync(submission),
        "/blobs/missing": MissingBlobs(submission, services.serve.max_files),
        "/jobs": JobList(services.store),
        "/jobs/{job_id}": JobSummary(services.store),
        "/jobs/{job_id}/stream": JobStream(responder),
        "/jobs/{job_id}/events": JobEvents(responder),
        "/jobs/{job_id}/changes": ChangeList(services),
        "/jobs/{job_id}/artifacts": ArtifactList(services),
        "/jobs/{job_id}/artifacts/{path:path}": ArtifactContent(services),
        "/jobs/{job_id}/artifacts.tar": ArtifactArchive(services, slots),
        "/kept": Kept(services),
        "/runs": RunList(services, submission),
        "/runs/{run_id}": RunDetail(services.store),
        "/runs/{run_id}/stream": RunStream(responder),
        "/runs/{run_id}/events": RunEvents(responder),
        "/runs/{run_id}/rerun": Rerun(services),
        "/pipelines/{name}/runs/{run_number}": NumberedRun(services.store),
        "/pipelines/{name}/durations": Durations(services.store),
        **{f"/reports/pipelines{path}": reports for path in REPORT_PATHS},
        "/pipelines/check": PipelineCheck(),
        "/jobs/{job_id}/tests": JobTests(services.store),
        "/reports/tests": TestReport(services.store),
        "/health": Health(),
        "/ready": Ready(services),
        "/metrics": MetricsPage(services.serve.metrics_token, app.metrics),
        "/openapi.json": OpenApi(),
        "/docs": DocsPage(),
    }
    for path, resource in routes.items():
        app.add_route(path, resource)
    return app


def _dumps(body: object) -> str:
    """Return a body (`schemas`) as JSON."""
    return json.dumps(body, ensure_ascii=False, default=msgspec.to_builtins)


def _stream_slots(serve: ServeSettings) -> StreamSlots:
    return StreamSlots(serve.max_streams, serve.max_streams_per_user, serve.max_streams_per_address)
