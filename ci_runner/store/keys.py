"""API keys: only their hashes, never the keys. Revoked keys stay stored, so that lists still show them."""

from __future__ import annotations

import builtins
import datetime as dt

import peewee

from ci_runner.errors import Conflict, NotFound
from ci_runner.model.job import APIKey
from ci_runner.store.database import Database
from ci_runner.store.rows import Id, StoredKey
from ci_runner.store.schema import KeyRow, UserRow

_NAMES = tuple(APIKey.__dataclass_fields__)
_COLUMNS = tuple(getattr(KeyRow, name) for name in _NAMES)


class Keys:
    """Stored API keys (`store.keys`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, key: APIKey) -> APIKey:
        """Store a new key and return it as stored; a known hash or id raises `Conflict`, an unknown user `NotFound`."""
        user = UserRow.select(UserRow.id).where(UserRow.id == key.user_id, UserRow.deleted_at.is_null())
        with self._database.write():
            if self._database.first(user, Id) is None:
                raise NotFound("User not found", key.user_id)
            try:
                self._database.insert(KeyRow.insert(**{name: getattr(key, name) for name in _NAMES}))
            except peewee.IntegrityError as error:
                raise Conflict(f"API key {key.id} already exists") from error
            return self._require(key.id)

    def get(self, key_id: str) -> APIKey | None:
        """Return the key with that id, active or not, or None."""
        return self._find(KeyRow.id == key_id)

    def by_hash(self, key_hash: str) -> APIKey | None:
        """Return the key with that hash, active or not, or None."""
        return self._find(KeyRow.key_hash == key_hash)

    def list(self, user_id: str | None = None) -> builtins.list[APIKey]:
        """Return keys, newest first; empty for an unknown user."""
        query = KeyRow.select(*_COLUMNS)
        if user_id is not None:
            query = query.where(KeyRow.user_id == user_id)
        return [
            APIKey(**row)
            for row in self._database.rows(query.order_by(KeyRow.created_at.desc(), KeyRow.id), StoredKey)
        ]

    def revoke(self, key_id: str) -> APIKey:
        """Revoke the key permanently and durably; repeated calls change nothing. `NotFound` if unknown."""
        with self._database.write():
            self._database.run(KeyRow.update(is_active=False).where(KeyRow.id == key_id))
            return self._require(key_id)

    def touch(self, key_id: str, moment: dt.datetime) -> None:
        """Store when the key was last used; ignores a moment before the stored one."""
        with self._database.write(durable=False):
            self._database.run(
                KeyRow.update(last_used_at=moment).where(
                    KeyRow.id == key_id, KeyRow.last_used_at.is_null() | (KeyRow.last_used_at < moment)
                )
            )

    def _require(self, key_id: str) -> APIKey:
        key = self.get(key_id)
        if key is None:
            raise NotFound("API key not found", key_id)
        return key

    def _find(self, condition: peewee.Expression) -> APIKey | None:
        row = self._database.first(KeyRow.select(*_COLUMNS).where(condition), StoredKey)
        return APIKey(**row) if row else None
