"""Seals of exit frames: a keyed digest of the frame's line, so that it cannot be moved to another one.

Everything in the container can read and change the frame's file. Only the runner and the worker's memory have the key
(docs/internals/index.md, "The spool"). The worker has a copy of `seal_of`, because it runs without this package.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

_FIELD = b', "seal": "'


def new_key() -> str:
    """Return a key for one attempt."""
    return secrets.token_hex(32)


def is_key(text: str) -> bool:
    """Return whether `text` can be such a key."""
    return re.fullmatch("[0-9a-f]{64}", text) is not None


def seal_of(text: bytes, key: str) -> str:
    """Return the seal of a frame with this `text`, a JSON object without a seal."""
    return hashlib.blake2b(text, key=bytes.fromhex(key), digest_size=32).hexdigest()


def sealed(text: bytes, key: str) -> bytes:
    """Return `text` with its seal as the last field."""
    return text[:-1] + _FIELD + seal_of(text, key).encode() + b'"}'


def is_sealed(line: bytes, key: str) -> bool:
    """Return whether a line of frames has the right seal for the rest of it."""
    text, _, seal = line.rpartition(_FIELD)
    try:
        return hmac.compare_digest(seal, f'{seal_of(text + b"}", key)}"}}'.encode())
    except ValueError:  # not a valid key
        return False
