"""A plugin that accepts JSON Web Tokens of an identity provider in place of the runner's own keys.

It is on if ``CI_RUNNER_JWT_SECRET`` (HS256) or ``CI_RUNNER_JWT_PUBLIC_KEY`` (RS256, path of a PEM file) is set. Then
``CI_RUNNER_JWT_AUDIENCE`` and ``CI_RUNNER_JWT_ISSUER`` are required, too, so that tokens made for other services are
refused. ``CI_RUNNER_JWT_CLAIM`` is the claim that identifies the user: ``email`` (default) or ``sub`` (a user's id or
address). The user must exist and be active; tokens never create users. Needs the extra ``pytest-remote-ci[jwt]``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Final

from ci_runner.errors import SettingsError
from ci_runner.plugins.hookspecs import hookimpl

_log = logging.getLogger(__name__)

_PREFIX: Final = "CI_RUNNER_JWT_"
#: Allowed difference between clocks in seconds.
LEEWAY: Final = 10
#: RFC 7518, section 3.2: the key must be at least as long as the hash.
_SHORTEST_SECRET: Final = 32


class JWTAuth:
    """The plugin; without settings it accepts no token."""

    def __init__(self) -> None:
        self._key: str | None = None
        self._algorithm = ""
        self._audience = ""
        self._issuer = ""
        self._claim = "email"
        self._jwt: ModuleType | None = None

    @hookimpl
    def configure(self, environ: Mapping[str, str]) -> None:
        """Read the settings: one kind of key, one issuer and one audience."""
        secret, public = environ.get(_PREFIX + "SECRET"), environ.get(_PREFIX + "PUBLIC_KEY")
        if not secret and not public:
            return
        if secret and public:
            raise SettingsError(f"{_PREFIX}SECRET and {_PREFIX}PUBLIC_KEY: set one of them")
        try:
            import jwt
        except ImportError as error:
            raise SettingsError(f"{_PREFIX}…: install pytest-remote-ci[jwt] to verify tokens") from error
        self._jwt = jwt
        self._audience = _required(environ, "AUDIENCE")
        self._issuer = _required(environ, "ISSUER")
        self._claim = environ.get(_PREFIX + "CLAIM") or "email"
        if self._claim not in ("email", "sub"):
            raise SettingsError(f"{_PREFIX}CLAIM: must be email or sub")
        if secret:
            if len(secret.encode()) < _SHORTEST_SECRET:
                raise SettingsError(f"{_PREFIX}SECRET: must have {_SHORTEST_SECRET} bytes at least")
            self._key, self._algorithm = secret, "HS256"
        else:
            assert public
            self._key, self._algorithm = _read_public_key(Path(public)), "RS256"

    @hookimpl
    def authenticate(self, credentials: str) -> str | None:
        """Return the user's id or e-mail address, or None if this is not a valid token."""
        jwt = self._jwt
        if jwt is None or self._key is None or credentials.count(".") != 2:
            return None
        try:
            claims: dict[str, object] = jwt.decode(
                credentials,
                self._key,
                algorithms=[self._algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY,
                options={"require": ["exp", "aud", "iss", self._claim]},
            )
        except jwt.InvalidTokenError as error:
            _log.info("a token was refused: %s", error)
            return None
        user = claims[self._claim]
        if not isinstance(user, str) or not user:
            return None
        if self._claim == "email" and ("@" not in user or claims.get("email_verified", True) is not True):
            return None
        return user


def _required(environ: Mapping[str, str], name: str) -> str:
    value = environ.get(_PREFIX + name)
    if not value:
        raise SettingsError(f"{_PREFIX}{name}: must be set, too")
    return value


def _read_public_key(path: Path) -> str:
    try:
        text = path.read_text()
    except OSError as error:
        raise SettingsError(f"{_PREFIX}PUBLIC_KEY: {path} cannot be read: {error}") from error
    if "PUBLIC KEY-----" not in text:
        raise SettingsError(f"{_PREFIX}PUBLIC_KEY: {path} is not a PEM file with a public key")
    return text
