"""The key of a runner that a session brings along, made in a repository in memory."""

from __future__ import annotations

from support.memory_repository import MemoryRepository

from ci_runner.embedded import make_key
from ci_runner.model import api_keys
from ci_runner.model.job import APIKey


def test_each_start_makes_a_key_and_revokes_the_one_before() -> None:
    repository = MemoryRepository()
    texts = [make_key(repository) for _ in range(3)]
    [user] = repository.list_users()
    by_hash = {key.key_hash: key for key in repository.list_api_keys(user.id)}
    states = [by_hash[api_keys.hash_key(text)].is_active for text in texts]
    assert states == [False, False, True]


def test_other_keys_of_the_user_stay() -> None:
    repository = MemoryRepository()
    make_key(repository)
    [user] = repository.list_users()
    repository.create_api_key(APIKey("laptop", user.id, "0" * 64, "laptop"))
    make_key(repository)
    laptop = repository.get_api_key_by_hash("0" * 64)
    assert laptop is not None
    assert laptop.is_active
