"""Detection of files that look like secrets, by one fixed table, so that no private key is sent by accident.

The table covers files with personal secrets: the runner's own key, private keys, stored passwords. A name alone is
enough if it has only one use. Otherwise the content must match too, so that tests, stubs and documentation that
merely mention a secret are sent. `pytest_remote_ci.workspace.collect` decides what happens to a detected file.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from typing import Final

from pytest_remote_ci.wire.protocol import KEY_PATTERN

#: Increased with every change of the table, so that cached results are recomputed.
TABLE_VERSION: Final = 2

#: The content is searched up to this many bytes; larger files hold data, not keys.
CONTENT_LIMIT: Final = 1 << 20

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

#: Program text and documents quote keys as examples; a PEM block in them is not a key file.
_PROSE: Final = (
    *(
        "*.py",
        "*.pyi",
        "*.pyx",
        "*.ipynb",
        "*.c",
        "*.h",
        "*.cc",
        "*.cpp",
        "*.hpp",
        "*.go",
        "*.java",
        "*.js",
        "*.ts",
    ),
    *("*.rb", "*.rs", "*.md", "*.rst", "*.html", "*.htm", "*.po", "*.pot", "*.patch", "*.diff"),
)

_NEWLINE: Final = rb"(?:\r?\n|\\r\\n|\\n)[ \t]*"


@dataclass(frozen=True)
class SecretPattern:
    """One kind of secret. A file matches if both its name and its content match."""

    #: The kind of secret, for messages.
    what: str
    #: Shell patterns of the file's name, in lower case.
    names: tuple[str, ...] = ("*",)
    #: Names that never match.
    except_names: tuple[str, ...] = ()
    #: Bytes that a match must contain; checked first, because this is cheap for many files.
    marker: bytes = b""
    #: Pattern that the content must contain; None if the name is enough.
    content: re.Pattern[bytes] | None = None
    #: Additional check of a match of `content`.
    confirm: Callable[[bytes], bool] | None = None

    def matches(self, path: str, content: bytes) -> bool:
        """Return whether the file at this relative POSIX path is such a secret; `content` is its beginning."""
        if self.marker and self.marker not in content:
            return False
        name = path.lower().rpartition("/")[2]
        if not self._named.match(name) or (self.except_names and self._excepted.match(name)):
            return False
        if self.content is None:
            return True
        return any(self.confirm is None or self.confirm(found[0]) for found in self.content.finditer(content))

    @cached_property
    def _named(self) -> re.Pattern[str]:
        return _any_of(self.names)

    @cached_property
    def _excepted(self) -> re.Pattern[str]:
        return _any_of(self.except_names)


def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(translate(name) for name in names))


def _checksum_fits(found: bytes) -> bool:
    """Return whether the last six characters are the CRC-32 of the others, in base62, as in every key."""
    head, given = found[:-6], found[-6:].decode("ascii")
    value = zlib.crc32(head)
    digits = ""
    for _ in range(6):
        value, digit = divmod(value, 62)
        digits = _BASE62[digit] + digits
    return digits == given


SECRET_PATTERNS: Final[tuple[SecretPattern, ...]] = (
    SecretPattern(
        "a key of the runner",
        marker=b"ci_",
        content=re.compile(rb"(?<![0-9A-Za-z_])" + KEY_PATTERN.pattern.encode()),
        confirm=_checksum_fits,
    ),
    SecretPattern(
        "an SSH private key",
        names=("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "id_ecdsa_sk", "id_ed25519_sk"),
    ),
    SecretPattern(
        "a private key",
        except_names=_PROSE,
        marker=b"PRIVATE KEY-----",
        content=re.compile(
            rb"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY-----"
            + _NEWLINE
            + rb"(?:[A-Za-z0-9+/=]{32}|(?:Proc-Type|DEK-Info|Comment):)"
        ),
    ),
    SecretPattern(
        "a PGP private key",
        except_names=_PROSE,
        marker=b"PGP PRIVATE KEY BLOCK",
        content=re.compile(rb"-----BEGIN PGP PRIVATE KEY BLOCK-----" + _NEWLINE),
    ),
    SecretPattern(
        "a PuTTY private key",
        except_names=_PROSE,
        marker=b"PuTTY-User-Key-File-",
        content=re.compile(rb"\APuTTY-User-Key-File-\d: \S+"),
    ),
    SecretPattern(
        "an age private key",
        except_names=_PROSE,
        marker=b"AGE-SECRET-KEY-1",
        content=re.compile(rb"\bAGE-SECRET-KEY-1[0-9A-Z]{58}\b"),
    ),
    SecretPattern(
        "a key store",
        names=("*.p12", "*.pfx", "*.jks", "*.keystore"),
        content=re.compile(rb"\A(?:\x30[\x82-\x84]|\xfe\xed\xfe\xed)"),
    ),
    SecretPattern(
        "stored passwords",
        names=(".netrc", "_netrc"),
        content=re.compile(rb"\bpassword\s+\S"),
    ),
    SecretPattern(
        "stored passwords",
        names=(".pypirc",),
        content=re.compile(rb"^\s*password\s*[:=][ \t]*\S", re.MULTILINE),
    ),
    SecretPattern(
        "stored passwords",
        names=(".git-credentials", ".pgpass"),
        content=re.compile(rb"\S+:\S"),
    ),
    SecretPattern(
        "secret variables",
        names=(".env", ".env.local", ".env.*.local", ".env.prod", ".env.production", ".envrc"),
        content=re.compile(rb"^[ \t]*(?:export[ \t]+)?[A-Za-z_]\w*[ \t]*=[ \t]*[^\s#]", re.MULTILINE),
    ),
    SecretPattern(
        "a package registry's token",
        names=(".npmrc", ".yarnrc"),
        content=re.compile(rb"(?:_authToken|_password|_auth)\s*=\s*[^\s$]"),
    ),
    SecretPattern(
        "credentials of AWS",
        names=("credentials", "credentials.*", "config"),
        content=re.compile(
            rb"(?i)aws_secret_access_key\s*=\s*[A-Za-z0-9+/]{40}\b|\bsecret access key\b[^\n]*\n[^\n]*,"
        ),
    ),
    SecretPattern(
        "credentials of Google Cloud",
        names=("*.json",),
        content=re.compile(rb'"refresh_token"\s*:\s*"1//[A-Za-z0-9_-]{20}'),
    ),
    SecretPattern(
        "credentials of Azure",
        names=("accesstokens.json", "msal_token_cache.json", "msal_token_cache.bin"),
    ),
    SecretPattern(
        "credentials of Kubernetes",
        names=("config", "kubeconfig", "*.kubeconfig"),
        content=re.compile(rb"^\s*(?:client-key-data|token):\s*[A-Za-z0-9+/=._-]{20}", re.MULTILINE),
    ),
    SecretPattern(
        "credentials of a container registry",
        names=("config.json", ".dockercfg", ".dockerconfigjson", "auth.json"),
        content=re.compile(rb'"(?:auth|identitytoken)"\s*:\s*"[A-Za-z0-9+/=_.-]{8}'),
    ),
)


def find(path: str, content: bytes) -> str | None:
    """Return the kind of secret that the file at this relative POSIX path looks like, or None.

    `content` is the file's beginning, at most `CONTENT_LIMIT` bytes. The result is a text for messages.
    """
    for pattern in SECRET_PATTERNS:
        if pattern.matches(path, content):
            return pattern.what
    return None
