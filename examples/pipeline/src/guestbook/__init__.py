"""A guest book: who was here, and what they wrote."""

from __future__ import annotations

import sqlite3
from types import TracebackType
from urllib.parse import urlsplit


class GuestBook:
    """The entries of one database: PostgreSQL for URLs, else a file of SQLite."""

    def __init__(self, place: str) -> None:
        self._is_remote = place.startswith("postgresql://")
        self._connection = _connect_remote(place) if self._is_remote else sqlite3.connect(place)
        self._run("CREATE TABLE IF NOT EXISTS entry (name TEXT PRIMARY KEY, text TEXT NOT NULL)")

    def __enter__(self) -> GuestBook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def sign(self, name: str, text: str) -> None:
        """Add an entry; who signs again writes theirs anew. Raises `ValueError` for an empty name."""
        if not name.strip():
            raise ValueError("nobody signs without a name")
        self._run(
            "INSERT INTO entry VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET text = excluded.text",
            name,
            text,
        )

    def entries(self) -> list[tuple[str, str]]:
        """Names and texts, by name."""
        return [(name, text) for name, text in self._run("SELECT name, text FROM entry ORDER BY name")]

    def clear(self) -> None:
        """Forget everybody."""
        self._run("DELETE FROM entry")

    def _run(self, statement: str, *values: str) -> list:
        cursor = self._connection.cursor()
        cursor.execute(statement.replace("?", "%s") if self._is_remote else statement, values)
        found = list(cursor.fetchall()) if cursor.description else []
        self._connection.commit()
        return found


def _connect_remote(place: str):
    import pg8000.dbapi

    url = urlsplit(place)
    return pg8000.dbapi.connect(
        user=url.username or "postgres",
        password=url.password,
        host=url.hostname or "localhost",
        port=url.port or 5432,
        database=url.path.lstrip("/") or None,
    )
