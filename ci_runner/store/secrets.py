"""Values of secrets, encrypted, as long as the run or the job that they were sent with is not over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import peewee

from ci_runner.store.database import Database
from ci_runner.store.rows import Secret
from ci_runner.store.schema import JobSecretRow, RunSecretRow

#: The table of the owner's kind.
Table: TypeAlias = type[RunSecretRow] | type[JobSecretRow]


def add_inside(database: Database, table: Table, owner: str, secrets: Mapping[str, str]) -> None:
    """Store the values, inside a transaction. Raises `SecretsUnreadable` if there can be no key."""
    for name, value in secrets.items():
        encrypted = database.encryption.encrypt(value)
        database.insert(table.insert({_owner(table): owner, table.name: name, table.value: encrypted}))


def read(database: Database, table: Table, owner: str) -> dict[str, str]:
    """Return the values by name; empty once the owner is over. Raises `SecretsUnreadable`."""
    query = table.select(table.name, table.value).where(_owner(table) == owner)
    return {row["name"]: database.encryption.decrypt(row["value"]) for row in database.rows(query, Secret)}


def delete_inside(database: Database, table: Table, owner: str) -> None:
    """Delete the values, inside a transaction; soon they are in no file of the database."""
    if database.run(table.delete().where(_owner(table) == owner)):
        database.must_checkpoint = True


def _owner(table: Table) -> peewee.Field:
    """Return the column with the owner's id."""
    owner: peewee.Field = getattr(table, "job_id" if table is JobSecretRow else "run_id")
    return owner
