"""`Decoder`: decode rows that are queried repeatedly only once, as long as they do not change.

Most rows are the same from one tick of the controller to the next. Comparing a row costs far less than decoding it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeAlias, TypeVar

from ci_runner.store.database import Value

Made = TypeVar("Made")

Row: TypeAlias = tuple[Value, ...]


class Decoder(Generic[Made]):
    """Decodes the rows of a query with a key as its first column, from any thread; results must not be modified."""

    def __init__(self, make: Callable[[Row], Made]) -> None:
        self._make = make
        #: Key → the last decoded row, and its result.
        self._known: dict[Value, tuple[Row, Made]] = {}

    def __call__(self, rows: Sequence[Row]) -> list[Made]:
        """Return the decoded rows in their order; results for rows that are no longer present are dropped."""
        known, found = self._known, dict[Value, tuple[Row, Made]]()
        for row in rows:
            before = known.get(row[0])
            found[row[0]] = before if before is not None and before[0] == row else (row, self._make(row))
        self._known = found
        return [made for _, made in found.values()]
