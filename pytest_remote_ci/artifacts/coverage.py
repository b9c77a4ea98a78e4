"""Map paths in remote coverage data and reports to local ones, in each of the formats, without coverage.

Their paths begin with the folder that the project had in the job. Only those are changed; an unreadable file stays
unchanged.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path
from typing import Final

_SQLITE: Final = b"SQLite format 3\x00"
_TEXTS: Final = frozenset({".xml", ".json", ".lcov", ".info", ".jsonl", ".html"})
#: Larger reports keep their paths.
_LARGEST: Final = 64 << 20


def is_coverage(name: str) -> bool:
    """Whether a file of that name can contain coverage data."""
    return name == ".coverage" or name.startswith(".coverage.") or Path(name).suffix in _TEXTS


def relocate(file: Path, name: str, old: str, new: str) -> None:
    """Replace the folder `old` by `new` at the beginning of paths in `file`, which will be called `name`."""
    if old == new or not old.startswith("/") or len(old) < 2 or not is_coverage(name):
        return
    with contextlib.suppress(OSError):
        with file.open("rb") as opened:
            is_database = opened.read(len(_SQLITE)) == _SQLITE
        if is_database:
            _relocate_database(file, old, new)
        elif Path(name).suffix in _TEXTS and file.stat().st_size <= _LARGEST:
            _relocate_text(file, old, new)


def _relocate_database(file: Path, old: str, new: str) -> None:
    """Map all paths in a transaction of SQLite: all or none."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA trusted_schema = OFF")
        connection.execute("PRAGMA journal_mode = MEMORY")  # no journal next to the file
        rows = connection.execute(
            "SELECT id, path FROM file WHERE substr(path, 1, ?) = ?", (len(old) + 1, f"{old}/")
        ).fetchall()
        with connection:
            for number, path in rows:
                rest = path[len(old) + 1 :].replace("/", os.sep)
                connection.execute("UPDATE file SET path = ? WHERE id = ?", (f"{new}{os.sep}{rest}", number))


def _relocate_text(file: Path, old: str, new: str) -> None:
    """Map paths in a text, also after an escaped line end in JSON."""
    content = file.read_bytes()
    pattern = rb"(?:(?<![\w./-])|(?<=\\[nrt]))" + re.escape(old.encode()) + rb"(?![\w.-])"
    fresh = new.replace(os.sep, "/").encode("utf-8", "surrogateescape")
    changed = re.sub(pattern, lambda match: fresh, content)
    if changed != content:
        file.write_bytes(changed)
