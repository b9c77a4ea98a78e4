"""Answers that are not the runner's own: from a proxy in front of it, or from another server at its address.

The runner explains every refusal in JSON. Anything else comes from something in between, which cannot be configured
here, so the message names it and the setting that helps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import requests

#: Longest name of a server in a message.
_LONGEST_NAME: Final = 60
#: HTTP status → what to do.
_ADVICE: Final = {
    401: "it asks for a login of its own: let requests to the runner pass",
    403: "it blocks these requests: let requests to the runner pass",
    407: "it asks for a login of its own: set HTTPS_PROXY with user and password, or NO_PROXY for the runner",
    413: "it limits uploads: set `client_max_body_size 0;` (nginx) or a larger `request_body` `max_size` (Caddy)",
    502: "it cannot reach the runner: start the runner, or correct the address that the proxy passes requests to",
    503: "it cannot reach the runner: start the runner, or correct the address that the proxy passes requests to",
    504: "it does not wait long enough: raise `proxy_read_timeout` (nginx) to 300s or more",
}


def describe(response: requests.Response, url: str) -> str:
    """Return who answered instead of the runner at `url`, and what to do about it."""
    status = f"{response.status_code} {response.reason or ''}".rstrip()
    name = " ".join(response.headers.get("Server", "").split())[:_LONGEST_NAME]
    who = f"A proxy or another server ({name})" if name else "A proxy or another server"
    advice = _ADVICE.get(response.status_code, "check the address of the runner")
    if response.status_code == 400 and urlsplit(url).scheme == "http":
        advice = "if it expects https, write the address with https://"
    return f"{who} answered for the runner at {url}: {status}; {advice}"
