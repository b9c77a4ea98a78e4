"""Authentication by bearer keys, before any other part of a request is looked at.

Keys are looked up for every request, so a revocation takes effect at once; open streams check twice a second.
Recently valid keys are also remembered for code that must not query the database. That memory decides a request's turn
and whether its body is read, but never what a request may do. Wrong keys are counted by address, and answered
with 429 above a limit; a valid key is always served, regardless of others at its address. The last use of a key is
remembered in memory and written at intervals, not within a request.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import falcon

from ci_runner.errors import NotAuthenticated, RunnerError, TooManyWrongKeys
from ci_runner.model import api_keys
from ci_runner.model.job import User, utcnow
from ci_runner.server.context import Hooks
from ci_runner.server.http.addresses import WrongKeys, network_of
from ci_runner.store.job_repository import JobRepository

_log = logging.getLogger(__name__)

#: Texts of the contract; clients compare them.
NOT_AUTHENTICATED: Final = "Not authenticated"
INVALID_KEY: Final = "Invalid or revoked API key"
NO_USER: Final = "User not found or inactive"

#: RFC 6750's b64token: no spaces or commas, so that repeated headers, which arrive joined, are refused.
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")
_LONGEST: Final = 8192
#: Seconds between two writes of one key's last use.
_LAST_USED_EVERY: Final = 300.0
#: Seconds for which a valid key is remembered, and the maximum number of such keys.
_RECENT: Final = 30.0
_MOST_RECENT: Final = 4096


@dataclass(frozen=True)
class Caller:
    """An authenticated user and the credentials."""

    user: User
    #: The key's id; None if a plugin accepted the credentials.
    key_id: str | None = None
    #: The bearer credentials, for later checks; never shown.
    token: str = field(default="", repr=False)


class Authenticator:
    """Turns an `Authorization` header into a `Caller`; safe in any thread."""

    def __init__(
        self,
        repository: JobRepository,
        wrong_keys: int,
        clock: Callable[[], dt.datetime] = utcnow,
        hooks: Hooks | None = None,
    ) -> None:
        self._repository = repository
        self._clock = clock
        self._hooks = hooks
        self._lock = threading.Lock()
        self._used: dict[str, dt.datetime] = {}
        self._written: dict[str, float] = {}
        self._wrong = WrongKeys(wrong_keys)
        #: Digest of a token → its user and the time until which it is remembered; oldest first.
        self._recent: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def authenticate(self, header: str | None, network: str | None = None) -> Caller:
        """Return the caller; raises `NotAuthenticated` with the text of the contract.

        `network`: the origin of the request; wrong keys are counted by it, and raise `TooManyWrongKeys` above the
        limit.
        """
        token = bearer_token(header)
        if token is None:
            raise NotAuthenticated(NOT_AUTHENTICATED)
        try:
            caller = self._by_key(token) or self._by_hook(token)
        except NotAuthenticated:
            with self._lock:
                self._recent.pop(_digest(token), None)
            seconds = 0.0 if network is None else self._wrong.note(network)
            if seconds:
                raise TooManyWrongKeys(seconds) from None
            raise
        self._remember(token, caller.user.id)
        return caller

    def recent_user(self, header: str | None) -> str | None:
        """Return the user's id if the key was valid recently, else None, without a database query."""
        token = bearer_token(header)
        if token is None:
            return None
        with self._lock:
            user_id, until = self._recent.get(_digest(token), (None, 0.0))
        return user_id if time.monotonic() < until else None

    def still_valid(self, caller: Caller) -> bool:
        """Return whether the caller's credentials are still accepted; True if the store cannot be queried."""
        try:
            return self.authenticate(f"Bearer {caller.token}").user.id == caller.user.id
        except NotAuthenticated:
            return False
        except RunnerError:
            return True

    def flush(self) -> None:
        """Store when keys were last used, for each key at most every five minutes."""
        now = time.monotonic()
        with self._lock:
            due = [
                key
                for key in self._used
                if now - self._written.get(key, -_LAST_USED_EVERY) >= _LAST_USED_EVERY
            ]
            moments = {key: self._used.pop(key) for key in due}
            self._written.update(dict.fromkeys(due, now))
        for key, moment in moments.items():
            self._repository.update_api_key_last_used(key, moment)

    def _remember(self, token: str, user_id: str) -> None:
        digest = _digest(token)
        with self._lock:
            self._recent[digest] = (user_id, time.monotonic() + _RECENT)
            self._recent.move_to_end(digest)
            while len(self._recent) > _MOST_RECENT:
                self._recent.popitem(last=False)

    def _by_key(self, token: str) -> Caller | None:
        key = api_keys.parse(token)
        if key is None:
            return None
        stored = self._repository.get_api_key_by_hash(key.hash)
        if stored is None or not api_keys.matches(token, stored.key_hash) or not stored.is_active:
            raise NotAuthenticated(INVALID_KEY)
        now = self._clock()
        if stored.expires_at is not None and stored.expires_at <= now:
            raise NotAuthenticated(INVALID_KEY)
        user = self._active(self._repository.get_user(stored.user_id))
        with self._lock:
            self._used[stored.id] = now
        return Caller(user, stored.id, token)

    def _by_hook(self, token: str) -> Caller:
        name = self._ask_hook(token)
        if name is None:
            raise NotAuthenticated(INVALID_KEY)
        find = self._repository.get_user_by_email if "@" in name else self._repository.get_user
        return Caller(self._active(find(name)), None, token)

    def _ask_hook(self, token: str) -> str | None:
        """Return the id or e-mail address of the token's user; None if the plugin fails."""
        try:
            return self._hooks.authenticate(credentials=token) if self._hooks is not None else None
        except Exception:
            _log.exception("a plugin failed in authenticate")
            return None

    @staticmethod
    def _active(user: User | None) -> User:
        if user is None or not user.is_active:
            raise NotAuthenticated(NO_USER)
        return user


class AuthMiddleware:
    """Requires credentials on every route without `public = True`, before its responder runs."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def process_resource(
        self, req: falcon.Request, resp: falcon.Response, resource: object, params: dict[str, object]
    ) -> None:
        """Authenticate; Falcon calls this once a route is found. A method that the route lacks is always 405."""
        if resource is None or getattr(resource, "public", False):
            return
        if not hasattr(resource, f"on_{req.method.lower()}"):
            return
        network = network_of(req.remote_addr)
        req.context.caller = self._authenticator.authenticate(req.get_header("Authorization"), network)


def bearer_token(header: str | None) -> str | None:
    """Return the token of an `Authorization` header, or None unless it is a single bearer credential."""
    scheme, _, token = (header or "").partition(" ")
    token = token.strip(" ")
    if scheme.lower() != "bearer" or len(token) > _LONGEST or not _TOKEN.match(token):
        return None
    return token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def caller_of(req: falcon.Request) -> Caller:
    """Return the caller of a request that passed `AuthMiddleware`."""
    caller = req.context.caller
    assert isinstance(caller, Caller)
    return caller
