"""Metrics for Prometheus: `GET /metrics`."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Final

import falcon

from ci_runner.errors import NotAuthenticated, RequestError
from ci_runner.server.http.auth import bearer_token

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class MetricsOff(RequestError):
    """The operator has not switched metrics on."""

    status = 404


class MetricsPage:
    """`GET /metrics`."""

    #: It has a token of its own.
    public = True

    def __init__(self, token: str | None, text: Callable[[], bytes] | None) -> None:
        """`token`: what the scraper has to send; `text` returns the metrics. None: there are none."""
        self._token = token
        self._text = text

    def on_get(self, req: falcon.Request, resp: falcon.Response) -> None:
        """Send all metrics in Prometheus' text format."""
        if self._token is None or self._text is None:
            raise MetricsOff("Metrics are off; an operator switches them on with --metrics-token")
        sent = bearer_token(req.get_header("Authorization")) or ""
        if not hmac.compare_digest(sent.encode(), self._token.encode()):
            raise NotAuthenticated("The token for metrics is missing or wrong")
        resp.data = self._text()
        resp.content_type = CONTENT_TYPE
