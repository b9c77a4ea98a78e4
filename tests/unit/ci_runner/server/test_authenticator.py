"""Who a request comes from: keys and plugins against a repository in memory, without HTTP and without a database."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

import pytest
from support.memory_repository import MemoryRepository

from ci_runner.errors import NotAuthenticated, TemporaryError, TooManyWrongKeys
from ci_runner.model import api_keys
from ci_runner.model.job import APIKey, Job, User
from ci_runner.server.http.auth import Authenticator
from ci_runner.store.job_repository import JobRepository

NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.timezone.utc)
ADDRESS = "192.0.2.1"


@dataclass
class Clock:
    now: dt.datetime = NOON

    def __call__(self) -> dt.datetime:
        return self.now


@dataclass
class Tokens:
    """A plugin that knows the users of some tokens."""

    users: dict[str, str] = field(default_factory=dict)

    def authenticate(self, *, credentials: str) -> str | None:
        if credentials == "broken":
            raise RuntimeError("the plugin is broken")
        return self.users.get(credentials)

    def job_submitted(self, *, job: Job) -> None:
        raise AssertionError("nothing is submitted here")


@pytest.fixture
def repository() -> JobRepository:
    repository = MemoryRepository()
    repository.create_user(User("ann", "Ann", "ann@example.org", NOON))
    return repository


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens() -> Tokens:
    return Tokens()


@pytest.fixture
def authenticator(repository: JobRepository, clock: Clock, tokens: Tokens) -> Authenticator:
    return Authenticator(repository, wrong_keys=3, clock=clock, hooks=tokens)


def make_key(repository: JobRepository, expires_at: dt.datetime | None = None) -> api_keys.Key:
    key = api_keys.generate()
    repository.create_api_key(APIKey(key.id, "ann", key.hash, created_at=NOON, expires_at=expires_at))
    return key


def last_used(repository: JobRepository) -> dt.datetime | None:
    [key] = repository.list_api_keys("ann")
    return key.last_used_at


def test_a_key_names_its_user(repository: JobRepository, authenticator: Authenticator) -> None:
    key = make_key(repository)
    caller = authenticator.authenticate(f"Bearer {key.text}")
    assert (caller.user.email, caller.key_id) == ("ann@example.org", key.id)
    assert key.text not in repr(caller)


def test_a_key_expires_at_its_moment(
    repository: JobRepository, authenticator: Authenticator, clock: Clock
) -> None:
    header = f"Bearer {make_key(repository, NOON + dt.timedelta(hours=1)).text}"
    clock.now = NOON + dt.timedelta(minutes=59)
    authenticator.authenticate(header)
    clock.now = NOON + dt.timedelta(hours=1)
    with pytest.raises(NotAuthenticated, match="Invalid or revoked API key"):
        authenticator.authenticate(header)


@pytest.mark.parametrize("change", ["revoke", "deactivate"])
def test_what_is_switched_off_is_refused_at_once(
    repository: JobRepository, authenticator: Authenticator, change: str
) -> None:
    key = make_key(repository)
    header = f"Bearer {key.text}"
    caller = authenticator.authenticate(header)
    assert authenticator.recent_user(header) == "ann"
    if change == "revoke":
        repository.revoke_api_key(key.id)
    else:
        repository.update_user_active_status("ann", False)
    assert not authenticator.still_valid(caller)
    assert authenticator.recent_user(header) is None


def test_the_last_use_is_written_once_for_many_requests(
    repository: JobRepository, authenticator: Authenticator, clock: Clock
) -> None:
    header = f"Bearer {make_key(repository).text}"
    authenticator.authenticate(header)
    assert last_used(repository) is None
    authenticator.flush()
    assert last_used(repository) == NOON
    clock.now = NOON + dt.timedelta(seconds=1)
    authenticator.authenticate(header)
    authenticator.flush()
    assert last_used(repository) == NOON


@pytest.mark.parametrize("name", ["ann", "ann@example.org", "ANN@example.org"])
def test_a_plugin_names_a_user_by_id_or_address(
    authenticator: Authenticator, tokens: Tokens, name: str
) -> None:
    tokens.users["token"] = name
    caller = authenticator.authenticate("Bearer token")
    assert (caller.user.id, caller.key_id) == ("ann", None)


@pytest.mark.parametrize("name", ["bob", "bob@example.org", ""])
def test_a_user_that_only_the_plugin_knows_is_refused(
    authenticator: Authenticator, tokens: Tokens, name: str
) -> None:
    tokens.users["token"] = name
    with pytest.raises(NotAuthenticated, match="User not found or inactive"):
        authenticator.authenticate("Bearer token")


def test_a_plugin_that_fails_lets_nobody_in(
    authenticator: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(NotAuthenticated, match="Invalid or revoked API key"):
        authenticator.authenticate("Bearer broken")
    assert "a plugin failed in authenticate" in caplog.text


def test_wrong_keys_are_counted_by_address_and_right_ones_always_served(
    repository: JobRepository, authenticator: Authenticator
) -> None:
    for _ in range(3):
        with pytest.raises(NotAuthenticated):
            authenticator.authenticate("Bearer wrong", ADDRESS)
    with pytest.raises(TooManyWrongKeys):
        authenticator.authenticate("Bearer wrong", ADDRESS)
    with pytest.raises(NotAuthenticated):
        authenticator.authenticate("Bearer wrong", "192.0.2.2")
    assert authenticator.authenticate(f"Bearer {make_key(repository).text}", ADDRESS).user.id == "ann"


def test_an_open_stream_outlives_a_store_that_cannot_be_queried() -> None:
    class Busy(MemoryRepository):
        is_busy = False

        def get_api_key_by_hash(self, key_hash: str) -> APIKey | None:
            if self.is_busy:
                raise TemporaryError("the database is busy")
            return super().get_api_key_by_hash(key_hash)

    repository = Busy()
    repository.create_user(User("ann", "Ann", "ann@example.org", NOON))
    authenticator = Authenticator(repository, wrong_keys=3)
    caller = authenticator.authenticate(f"Bearer {make_key(repository).text}")
    repository.is_busy = True
    assert authenticator.still_valid(caller)
