"""Which user may refer to which content by its digest, and which contents nobody used for long.

The contents are files and no part of the database. Knowing a digest gives no access: only who sent the bytes
once has a grant. A grant is renewed by every submission that refers to it; contents go when no grant was
renewed for a while, and no artifact has them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from typing import Any, Final

import peewee

from ci_runner.model.job import utcnow
from ci_runner.store.database import Database
from ci_runner.store.schema import ArtifactRow, GrantRow, JobRow, RunRow, to_micros

#: Digests per statement; SQLite before 3.32 takes 999 parameters.
_DIGESTS: Final = 300
#: A grant that was renewed more recently is not written again: most submissions repeat what was just sent.
_RENEWAL: Final = dt.timedelta(hours=1)
#: A job's grants are at most this much older than its submission: `_RENEWAL`, and a long upload.
_MARGIN: Final = 2 * _RENEWAL


class Blobs:
    """`store.blobs`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def grant(self, user_id: str, digests: Iterable[str], now: dt.datetime | None = None) -> None:
        """Let the user refer to these contents, durably, or renew that; to be called at every submission.

        It must come before the job's row. What was renewed within the last hour is not written again.
        """
        moment = now or utcnow()
        wanted = set(digests)
        fresh = self._granted(wanted, GrantRow.user_id == user_id, GrantRow.used_at > moment - _RENEWAL)
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
        """Those of `digests` that the user may refer to."""
        return self._granted(digests, GrantRow.user_id == user_id)

    def unreferenced(self, older_than: dt.datetime) -> list[str]:
        """Digests that no submission used since `older_than`, and no open job needs; for `forget`.

        `older_than` must lie some hours back, for a submission may be under way.
        """
        query = GrantRow.select(GrantRow.digest).group_by(GrantRow.digest)
        query = query.having(peewee.fn.MAX(GrantRow.used_at) < to_micros(self._limit(older_than)))
        return [row["digest"] for row in self._database.rows(query)]

    def forget(self, digests: Iterable[str], older_than: dt.datetime) -> set[str]:
        """Take back those grants of `digests` that are still unused; returns the digests nobody has now.

        Only the files of these may be deleted; a submission that came in between keeps its own.
        """
        unused: set[str] = set()
        for piece in _pieces(digests):
            with self._database.write():
                limit = self._limit(older_than)
                self._database.run(
                    GrantRow.delete().where(GrantRow.digest.in_(piece), GrantRow.used_at < limit)
                )
                kept = GrantRow.select(GrantRow.digest).where(GrantRow.digest.in_(piece)).distinct()
                unused |= set(piece) - {row["digest"] for row in self._database.rows(kept)}
                unused -= self._of_artifacts(piece)
        return unused

    def known(self, digests: Iterable[str]) -> set[str]:
        """Those of `digests` that anybody may refer to, or an artifact has: any other file is nobody's."""
        wanted = set(digests)
        return self._granted(wanted) | {
            found for piece in _pieces(wanted) for found in self._of_artifacts(piece)
        }

    def _of_artifacts(self, digests: list[str]) -> set[str]:
        query = ArtifactRow.select(ArtifactRow.sha256).where(ArtifactRow.sha256.in_(digests)).distinct()
        return {row["sha256"] for row in self._database.rows(query)}

    def _granted(self, digests: Iterable[str], *conditions: Any) -> set[str]:
        found: set[str] = set()
        for piece in _pieces(digests):
            query = GrantRow.select(GrantRow.digest).where(GrantRow.digest.in_(piece), *conditions).distinct()
            found.update(row["digest"] for row in self._database.rows(query))
        return found

    def _limit(self, older_than: dt.datetime) -> dt.datetime:
        """`older_than`, or earlier: what an open job or run was submitted with was granted shortly before its
        submission.
        """
        oldest = (
            JobRow.select(JobRow.submitted_at).where(JobRow.end_time.is_null()).order_by(JobRow.submitted_at)
        )
        run = (
            RunRow.select(RunRow.submitted_at).where(RunRow.end_time.is_null()).order_by(RunRow.submitted_at)
        )
        found = [row for row in (self._database.first(oldest), self._database.first(run)) if row is not None]
        needed: list[dt.datetime] = [row["submitted_at"] - _MARGIN for row in found]
        return min([older_than, *needed])


def _pieces(digests: Iterable[str]) -> Iterator[list[str]]:
    unique = sorted(set(digests))
    for start in range(0, len(unique), _DIGESTS):
        yield unique[start : start + _DIGESTS]
