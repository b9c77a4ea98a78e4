"""Pages of events for clients that cannot stream: a proxy between here and them holds streams back."""

from __future__ import annotations

import time
from collections.abc import Callable

import falcon

from ci_runner.server import parameters
from ci_runner.server.parameters import View
from ci_runner.server.resources.jobs import own_job
from ci_runner.server.resources.runs import own_run
from ci_runner.server.streams.source import is_visible
from ci_runner.server.streams.sse_response import StreamResponder

#: Returns the next events above a number as (number, whether the view shows it, event), at most so many; [] at the end.
_Next = Callable[[int, int], list[tuple[int, bool, dict[str, object]]]]


class JobEvents:
    """`GET /jobs/{job_id}/events`."""

    def __init__(self, responder: StreamResponder) -> None:
        self._responder = responder

    def on_get(self, req: falcon.Request, resp: falcon.Response, job_id: str) -> None:
        """Send the job's events after a number; may wait for one on request, using a stream slot meanwhile."""
        store = self._responder.store
        job = own_job(store, req, job_id)
        view: View = parameters.VIEW.read(req)

        def following(after: int, limit: int) -> list[tuple[int, bool, dict[str, object]]]:
            events = store.events.after(job.id, after, limit)
            return [
                (event.seq, is_visible(event, view), event.to_dict() | {"seq": event.seq}) for event in events
            ]

        _send_page(self._responder, req, resp, job.id, following, may_wait=not job.is_over)


class RunEvents:
    """`GET /runs/{run_id}/events`."""

    def __init__(self, responder: StreamResponder) -> None:
        self._responder = responder

    def on_get(self, req: falcon.Request, resp: falcon.Response, run_id: str) -> None:
        """Send events of the run and of all its jobs, as `JobEvents` does."""
        store = self._responder.store
        run = own_run(store, req, run_id)
        view: View = parameters.VIEW.read(req)

        def following(after: int, limit: int) -> list[tuple[int, bool, dict[str, object]]]:
            return [
                (
                    item.seq,
                    item.job_id is None or is_visible(item.event, view),
                    item.to_dict() | {"seq": item.seq},
                )
                for item in store.feed.after(run.id, after, limit)
            ]

        _send_page(self._responder, req, resp, run.id, following, may_wait=not run.is_over)


def _send_page(
    responder: StreamResponder,
    req: falcon.Request,
    resp: falcon.Response,
    subject: str,
    following: _Next,
    *,
    may_wait: bool,
) -> None:
    """Send the next events; if there are none, wait as long as the request says."""
    after, limit = parameters.EVENTS_AFTER.read(req), parameters.EVENTS_LIMIT.read(req)
    wait = parameters.EVENTS_WAIT.read(req)
    events = _visible(following, after, limit)
    if not events and wait and may_wait:
        ends_at = time.monotonic() + wait
        streams = responder.streams
        with (
            responder.admit(req) as admission,
            streams.listen(subject, admission.caller, admission.disconnected) as listener,
        ):
            while True:
                listener.news.clear()
                events = _visible(following, after, limit)
                left = ends_at - time.monotonic()
                if events or left <= 0 or listener.ended:
                    break
                streams.wait(listener, left)
    resp.media = events
    resp.set_header("Cache-Control", "no-store")


def _visible(following: _Next, after: int, limit: int) -> list[dict[str, object]]:
    """Return the next events that are shown, skipping pages without any."""
    while True:
        events = following(after, limit)
        visible = [event for _, shown, event in events if shown]
        if visible or not events:
            return visible
        after = events[-1][0]
