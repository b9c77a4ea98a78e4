"""Types of single fields of the API: msgspec checks values against them and makes JSON Schemas of them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ci_runner.model.decode import words
from pytest_remote_ci.wire.protocol import PROTOCOL

Time = Annotated[str, Meta(description="RFC 3339, UTC", extra_json_schema={"format": "date-time"})]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="SHA-256")]
Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]
Count = Annotated[int, Meta(ge=0)]
FromOne = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
#: How many tests have which outcome.
Counts = dict[str, Count]
EndStatus = Literal["completed", "failed", "cancelled"]
Protocol = Annotated[int, Meta(extra_json_schema={"const": PROTOCOL})]
Positive = Annotated[float, words("must be a number above 0", gt=0, lt=1e9)]
Python = Annotated[
    str, words("{value} is not a Python version such as '3.12'", pattern=r"^3\.[0-9]{1,2}$", max_length=4)
]
#: A label of a host name (RFC 1123).
HostName = Annotated[
    str,
    words("{value} is not a host name", pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$(?!\n)", max_length=63),
]
