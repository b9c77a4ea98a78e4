"""The link from one page of a list to the next."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

import falcon

from ci_runner.server.parameters import BEFORE, Parameter


def link_next_page(
    req: falcon.Request, resp: falcon.Response, parameters: Iterable[Parameter], last_id: str
) -> None:
    """Add a link (RFC 8288) to the same list after `last_id`, with the request's other values of `parameters`."""
    query = {each.name: value for each in parameters if (value := each.text(req)) is not None}
    resp.append_link(f"{req.path}?{urlencode(query | {BEFORE.name: last_id})}", "next")
