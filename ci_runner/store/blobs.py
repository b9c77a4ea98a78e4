"""Grants: which user may refer to which content by its digest, and which contents are unused.

The contents are files outside the database. Knowing a digest gives no access: only a user who has sent the bytes has
a grant. Every submission that refers to a content renews the grant. A content is deleted when no grant was renewed
for a while and no artifact refers to it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Final

import peewee

from ci_runner.model.job import utcnow
from ci_runner.store.database import Database, Value
from ci_runner.store.rows import ArtifactDigest, Digest, Submitted
from ci_runner.store.schema import ArtifactRow, GrantRow, JobRow, RunRow, to_micros

#: Digests per statement; SQLite before 3.32 takes at most 999 parameters.
_DIGESTS: Final = 300
#: A grant renewed more recently is not written again: most submissions repeat what was just sent.
_RENEWAL: Final = dt.timedelta(hours=1)
#: A job's grants are at most this much older than its submission: `_RENEWAL` plus a long upload.
_MARGIN: Final = 2 * _RENEWAL


class Blobs:
    """Grants of contents to users (`store.blobs`)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def grant(self, user_id: str, digests: Iterable[str], now: dt.datetime | None = None) -> None:
        """Grant the user these contents, or renew the grants, durably; call this at every submission.

        The call must come before the job's row is stored. Grants renewed within the last hour are not written again.
        """
        moment = now or utcnow()
        wanted = set(digests)
        fresh = self._granted(
            wanted, " AND user_id = ? AND used_at > ?", user_id, to_micros(moment - _RENEWAL)
        )
        if wanted <= fresh:
            return
        with self._database.write():
            for piece in _pieces(wanted - fresh):
                rows = [{"user_id": user_id, "digest": digest, "used_at": moment} for digest in piece]
                self._database.insert(
                    GrantRow.insert_many(rows).on_conflict(
                        conflict_target=[GrantRow.user_id, GrantRow.digest], preserve=[GrantRow.used_at]
                    )
                )

    def granted(self, user_id: str, digests: Iterable[str]) -> set[str]:
        """Return those of `digests` that the user may refer to."""
        return self._granted(digests, " AND user_id = ?", user_id)

    def unreferenced(self, older_than: dt.datetime) -> list[str]:
        """Return digests unused by submissions since `older_than` and not needed by an open job; for `forget`.

        `older_than` must be some hours ago, because a submission may be in progress.
        """
        query = GrantRow.select(GrantRow.digest).group_by(GrantRow.digest)
        query = query.having(peewee.fn.MAX(GrantRow.used_at) < to_micros(self._limit(older_than)))
        return [row["digest"] for row in self._database.rows(query, Digest)]

    def forget(self, digests: Iterable[str], older_than: dt.datetime) -> set[str]:
        """Delete those grants of `digests` that are still unused; return the digests without any grant left.

        Only the files of the returned digests may be deleted: a submission in the meantime keeps its grants.
        """
        unused: set[str] = set()
        for piece in _pieces(digests):
            with self._database.write():
                limit = self._limit(older_than)
                self._database.run(
                    GrantRow.delete().where(GrantRow.digest.in_(piece), GrantRow.used_at < limit)
                )
                granted = GrantRow.select(GrantRow.digest).where(GrantRow.digest.in_(piece)).distinct()
                unused |= set(piece) - {row["digest"] for row in self._database.rows(granted, Digest)}
                unused -= self._of_artifacts(piece)
        return unused

    def known(self, digests: Iterable[str]) -> set[str]:
        """Return those of `digests` that any user may refer to or an artifact has; other files are unreferenced."""
        wanted = set(digests)
        return self._granted(wanted) | {
            found for piece in _pieces(wanted) for found in self._of_artifacts(piece)
        }

    def _of_artifacts(self, digests: list[str]) -> set[str]:
        query = ArtifactRow.select(ArtifactRow.sha256).where(ArtifactRow.sha256.in_(digests)).distinct()
        return {row["sha256"] for row in self._database.rows(query, ArtifactDigest)}

    def _granted(self, digests: Iterable[str], condition: str = "", *values: Value) -> set[str]:
        """Return those of `digests` with a grant.

        Plain SQL: building a statement with that many parameters costs several times its execution.
        """
        found: set[str] = set()
        for piece in _pieces(digests):
            marks = ", ".join("?" * len(piece))
            # The texts are ours, all values are parameters.
            statement = f"SELECT DISTINCT digest FROM blob_grants WHERE digest IN ({marks}){condition}"  # noqa: S608
            found.update(str(row[0]) for row in self._database.sql(statement, [*piece, *values]))
        return found

    def _limit(self, older_than: dt.datetime) -> dt.datetime:
        """Return `older_than`, or an earlier time if an open job or run needs it.

        Contents of a job or run were granted shortly before its submission.
        """
        oldest = (
            JobRow.select(JobRow.submitted_at).where(JobRow.end_time.is_null()).order_by(JobRow.submitted_at)
        )
        run = (
            RunRow.select(RunRow.submitted_at).where(RunRow.end_time.is_null()).order_by(RunRow.submitted_at)
        )
        found = [self._database.first(query, Submitted) for query in (oldest, run)]
        needed = [row["submitted_at"] - _MARGIN for row in found if row is not None]
        return min([older_than, *needed])


def _pieces(digests: Iterable[str]) -> Iterator[list[str]]:
    unique = sorted(set(digests))
    for start in range(0, len(unique), _DIGESTS):
        yield unique[start : start + _DIGESTS]
