"""The seal of a worker's last frame: a keyed digest of that very line, so that it cannot be moved to another one.

The frame lies where everything in the container can read and change it. The key is known to the runner and to the
worker's memory alone (docs/internals/index.md, "The spool"); the worker has a copy of `seal_of`, because it runs
without this package.
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
    """Return the seal of a frame that is written as `text`, a JSON object without a seal."""
    return hashlib.blake2b(text, key=bytes.fromhex(key), digest_size=32).hexdigest()


def sealed(text: bytes, key: str) -> bytes:
    """Return `text` with its seal as the last field."""
    return text[:-1] + _FIELD + seal_of(text, key).encode() + b'"}'


def is_sealed(line: bytes, key: str) -> bool:
    """Return whether a line of frames bears the seal of everything else in it."""
    text, _, seal = line.rpartition(_FIELD)
    try:
        return hmac.compare_digest(seal, f'{seal_of(text + b"}", key)}"}}'.encode())
    except ValueError:  # the key is none
        return False
