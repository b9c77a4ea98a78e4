"""`Decoder`: rows that are asked for again and again become values once each, for as long as they stay as they are.

From one tick of the controller to the next most rows do; comparing one costs a small part of decoding it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

Made = TypeVar("Made")

Row = tuple[Any, ...]


class Decoder(Generic[Made]):
    """Call it with all rows of a query whose first column is a key, from any thread; what it gives stays unchanged."""

    def __init__(self, make: Callable[[Row], Made]) -> None:
        self._make = make
        #: Key → the row that was decoded last, and what came out.
        self._known: dict[Any, tuple[Row, Made]] = {}

    def __call__(self, rows: Sequence[Row]) -> list[Made]:
        """What the rows say, in their order; those of earlier calls that are no longer there are forgotten."""
        known, found = self._known, dict[Any, tuple[Row, Made]]()
        for row in rows:
            before = known.get(row[0])
            found[row[0]] = before if before is not None and before[0] == row else (row, self._make(row))
        self._known = found
        return [made for _, made in found.values()]
