"""Parameters of requests."""

from __future__ import annotations

from collections.abc import Mapping

#: Name → value of the parameters in a request's URL.
Parameters = Mapping[str, "str | int"]


def given(**parameters: str | int | None) -> dict[str, str | int]:
    """Return the parameters that are not None."""
    return {name: value for name, value in parameters.items() if value is not None}
