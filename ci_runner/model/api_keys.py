"""API keys: how they are made, recognised and compared. Pure: no store, no clock, no HTTP.

A key is ``ci_``, 8 characters that name it, 32 of secret (190 bits) and 6 of checksum, all base62, so that a
double click selects it whole and a scanner finds it. The checksum (CRC-32 of everything before it) lets both
sides tell a typing error without asking the store; it is no security. Keys have so much entropy that a plain
SHA-256 is what the store keeps: a slow hash would only help who floods the runner with wrong keys.
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
    """A whole key and the part that may be shown. The text never appears in a `repr`."""

    #: The key itself: shown to its owner once, then forgotten.
    text: str = field(repr=False)

    @property
    def id(self) -> str:
        """What people name the key by; no secret."""
        return self.text[len(PREFIX) :][:ID_LENGTH]

    @property
    def hash(self) -> str:
        """What the store keeps."""
        return hash_key(self.text)


def generate() -> Key:
    """A new key out of the system's own randomness."""
    head = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH + SECRET_LENGTH))
    return Key(head + checksum(head))


def parse(text: str) -> Key | None:
    """The key that `text` is, or None when it cannot be one: wrong shape or wrong checksum. Nothing is
    trimmed.
    """
    if len(text) != KEY_LENGTH or not text.isascii() or KEY_PATTERN.fullmatch(text) is None:
        return None
    head, given = text[:-CHECKSUM_LENGTH], text[-CHECKSUM_LENGTH:]
    return Key(text) if hmac.compare_digest(checksum(head), given) else None


def checksum(head: str) -> str:
    """CRC-32 of `head` (ASCII) in base62, always `CHECKSUM_LENGTH` characters."""
    value = zlib.crc32(head.encode("ascii"))
    digits = ""
    for _ in range(CHECKSUM_LENGTH):
        value, digit = divmod(value, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits


def hash_key(text: str) -> str:
    """Hexadecimal SHA-256 of a whole key; any text is taken, so that callers need not check first."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def matches(text: str, key_hash: str) -> bool:
    """Whether `text` is the key whose hash is `key_hash`, compared in constant time."""
    return hmac.compare_digest(hash_key(text), key_hash)
