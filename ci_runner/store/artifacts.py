"""Artifacts of jobs, and what jobs did to files of the project: paths, blobs with contents, dates of deletion.

They are written in the transaction that ends the job, so an ended job has all of its artifacts or none. A content is
not collected while a row refers to it (`ci_runner.store.blobs`).
"""

from __future__ import annotations

import builtins
import datetime as dt
from collections.abc import Sequence
from typing import Final

import peewee

from ci_runner.model.job import Artifact
from ci_runner.store.database import Database
from ci_runner.store.rows import StoredArtifact
from ci_runner.store.schema import ArtifactRow

#: Rows per insert statement: nine parameters each, and SQLite before 3.32 takes at most 999.
_ROWS: Final = 100
_COLUMNS: Final = tuple(getattr(ArtifactRow, name) for name in Artifact.__dataclass_fields__)

_BYTES: Final = """
SELECT COALESCE(SUM(a.size), 0) FROM artifacts a JOIN jobs j ON j.id = a.job_id WHERE j.user_id = ? AND a.sha256 <> ''
"""


class Artifacts:
    """Stored artifacts (`store.artifacts`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def list(self, job_id: str) -> builtins.list[Artifact]:
        """Return the artifacts that were asked for, ordered by path; empty if the job is unknown or not over."""
        return self._list(job_id, ArtifactRow.requested)

    def changes(self, job_id: str) -> builtins.list[Artifact]:
        """Return what the job did to files of the project, ordered by path; empty as `list` is."""
        return self._list(job_id, ArtifactRow.change.is_null(False))

    def _list(self, job_id: str, condition: peewee.ColumnBase) -> builtins.list[Artifact]:
        query = ArtifactRow.select(*_COLUMNS).where(ArtifactRow.job_id == job_id, condition)
        return [
            Artifact(**row) for row in self._database.rows(query.order_by(ArtifactRow.path), StoredArtifact)
        ]

    def get(self, job_id: str, path: str) -> Artifact | None:
        """Return the file with exactly this path, an artifact or a change, or None."""
        row = self._database.first(
            ArtifactRow.select(*_COLUMNS).where(ArtifactRow.job_id == job_id, ArtifactRow.path == path),
            StoredArtifact,
        )
        return Artifact(**row) if row is not None else None

    def bytes_of(self, user_id: str) -> int:
        """Return the total bytes of all artifacts of a user's jobs; equal contents count each time."""
        return self._database.integer(_BYTES, (user_id,))

    def prune(self, now: dt.datetime) -> int:
        """Delete artifacts past their date and return how many; unreferenced contents are collected later."""
        with self._database.write(durable=False):
            return self._database.run(ArtifactRow.delete().where(ArtifactRow.kept_until < now))


def add_inside(database: Database, job_id: str, artifacts: Sequence[Artifact]) -> None:
    """Store a job's artifacts, inside the transaction that ends the job."""
    for start in range(0, len(artifacts), _ROWS):
        rows = [{**vars(item), "job_id": job_id} for item in artifacts[start : start + _ROWS]]
        database.insert(ArtifactRow.insert_many(rows))
