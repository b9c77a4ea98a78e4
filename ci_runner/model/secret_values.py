"""Values of secrets in a client's request: checked, and never in a message."""

from __future__ import annotations

from typing import Final

from pytest_remote_ci.wire import checks
from pytest_remote_ci.wire.protocol import WireError

#: Maximum bytes of one secret's value.
_LONGEST: Final = 65536
#: Limited because all output of a job is searched for each secret, in many forms.
_MOST: Final = 100
_ALL: Final = 1 << 18


def parse(where: str, value: object) -> dict[str, str]:
    """Parse an object of secrets; raises `WireError`, which never contains a value."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WireError(f"{where}: must be an object of texts")
    for name, content in value.items():
        checks.as_long_text(f"{where}.{name[:100]}", content)
        if len(content) > _LONGEST:
            raise WireError(f"{where}.{name[:100]}: must be at most {_LONGEST} characters long")
    if len(value) > _MOST or sum(map(len, value.values())) > _ALL:
        raise WireError(f"{where}: at most {_MOST}, together at most {_ALL} characters long")
    return dict(value)
