"""API keys: generating, recognising and comparing them. Pure: no store, no clock, no HTTP.

A key is ``ci_``, 8 characters of id, 32 of secret (190 bits) and 6 of checksum, all base62, so that a double click
selects it whole and a scanner finds it. The checksum (CRC-32 of everything before it) lets both sides detect a typing
error without the store; it adds no security. Keys have so much entropy that the store keeps a plain SHA-256: a slow
hash would only help an attacker who floods the runner with wrong keys.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Final

from pytest_remote_ci.wire.protocol import KEY_PATTERN

PREFIX: Final = "ci_"
ID_LENGTH: Final = 8
SECRET_LENGTH: Final = 32
CHECKSUM_LENGTH: Final = 6
KEY_LENGTH: Final = len(PREFIX) + ID_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Key:
    """A whole key and its public part. The text never appears in a `repr`."""

    #: The key itself: shown to its owner once, then forgotten.
    text: str = field(repr=False)

    @property
    def id(self) -> str:
        """Return the name of the key for people; not secret."""
        return self.text[len(PREFIX) :][:ID_LENGTH]

    @property
    def hash(self) -> str:
        """Return the hash that the store keeps."""
        return hash_key(self.text)


def generate() -> Key:
    """Return a new key from the system's randomness."""
    head = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH + SECRET_LENGTH))
    return Key(head + checksum(head))


def parse(text: str) -> Key | None:
    """Return `text` as a key, or None if its shape or checksum is wrong. Nothing is trimmed."""
    if len(text) != KEY_LENGTH or not text.isascii() or KEY_PATTERN.fullmatch(text) is None:
        return None
    head, given = text[:-CHECKSUM_LENGTH], text[-CHECKSUM_LENGTH:]
    return Key(text) if hmac.compare_digest(checksum(head), given) else None


def checksum(head: str) -> str:
    """Return the CRC-32 of `head` (ASCII) in base62, always `CHECKSUM_LENGTH` characters."""
    value = zlib.crc32(head.encode("ascii"))
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def hash_key(text: str) -> str:
    """Return the hexadecimal SHA-256 of a key; accepts any text, so that callers need not check first."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def matches(text: str, key_hash: str) -> bool:
    """Return whether `text` is the key with the hash `key_hash`; compares in constant time."""
    return hmac.compare_digest(hash_key(text), key_hash)
