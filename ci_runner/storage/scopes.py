"""Scopes: the folders below `environments/`, one for what all users share and one for each user."""

from __future__ import annotations

import hashlib
import re
from typing import Final

#: The scope that all users share; containers of users never write to it.
SHARED: Final = "shared"


def user_scope(user_id: str | None) -> str:
    """Return the name of a user's own scope: unique per user, and never the shared one."""
    name = user_id or "nobody"
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}", name) and name != SHARED:
        return name
    return f"_{hashlib.sha256(name.encode()).hexdigest()[:32]}"
