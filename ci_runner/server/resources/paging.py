"""Helpers shared by lists of jobs, runs and reports: common filters, and the link to the next page."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from urllib.parse import urlencode

import falcon

from ci_runner.errors import InvalidSubmission
from ci_runner.model.job import parse_time
from pytest_remote_ci.wire.protocol import STATUSES


def status_and_since(req: falcon.Request) -> tuple[str | None, dt.datetime | None]:
    """Return the filters `status` and `since`, each None if absent. Raises `InvalidSubmission`."""
    status = req.get_param("status")
    if status is not None and status not in STATUSES:
        raise InvalidSubmission(f"status: must be one of {', '.join(STATUSES)}")
    try:
        return status, parse_time(req.get_param("since"))
    except ValueError as error:
        raise InvalidSubmission("since: must be a time such as 2026-01-31T12:00:00Z") from error


def link_next_page(req: falcon.Request, resp: falcon.Response, kept: Iterable[str], last_id: str) -> None:
    """Add a link (RFC 8288) to the same list after `last_id`, with the parameters `kept` of the request."""
    query = {name: value for name in kept if (value := req.get_param(name)) is not None}
    resp.append_link(f"{req.path}?{urlencode(query | {'before': last_id})}", "next")
