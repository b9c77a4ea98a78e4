"""What the terminal reporter keeps of tests that passed, in a quarter of the memory.

It keeps every report until the end and reads most of them only to count them. A report of which nothing is to be said
but that it passed is put away as what tells it from others, as soon as nobody else holds it, and made again when
somebody looks: so nobody can see the difference. Who looks and then keeps or changes what was found, finds it again.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

#: So many newest reports stay as they are: whoever is still being told of them may change them.
_NEWEST = 8
#: Categories of the terminal reporter that tests which pass fill: set-up and teardown have none.
_FILLED = ("", "passed")


class _PutAway(tuple[Any, ...]):
    """Node id, location, names of keywords, phase, and the times as bytes."""

    __slots__ = ()


_PACK = struct.Struct("3d")


def _report(
    nodeid: Any, location: Any, keywords: Any, when: Any, duration: float, start: float, stop: float
) -> Any:
    make: Any = pytest.TestReport  # before pytest 8 `start` and `stop` are none of its own
    return make(nodeid, location, keywords, "passed", None, when, duration=duration, start=start, stop=stop)


_SAMPLE = _report("", ("", None, ""), {}, "call", 0.0, 0.0, 0.0)
_PLAIN = _SAMPLE.__dict__.keys()
#: Since pytest 9.2 a report keeps its node id in parts.
_ID = "_id" if "_id" in _PLAIN else "nodeid"


#: PyPy does not count.
_count: Any = getattr(sys, "getrefcount", None)


def _references(holder: list[Any], place: int) -> int:
    return int(_count(list.__getitem__(holder, place)))


#: References to a report that only a list holds, as the function above counts them here.
_ALONE = _references([_report("", None, None, "", 0, 0, 0)], 0) if _count is not None else 0


def _made_again(kept: _PutAway) -> Any:
    nodeid, location, names, when, times = kept
    return _report(nodeid, location, dict.fromkeys(names, 1), when, *_PACK.unpack(times))


class Kept(list[Any]):
    """A list of reports."""

    def __init__(self, reports: Iterable[Any] = ()) -> None:
        super().__init__(reports)
        #: What lies before this place was looked at.
        self._looked_at = 0
        #: The keywords of the report that was put away last.
        self._names: tuple[str, ...] = ()

    def extend(self, reports: Iterable[Any]) -> None:
        """Also puts away what has become old."""
        super().extend(reports)
        if len(self) - self._looked_at > 2 * _NEWEST:
            for place in range(self._looked_at, len(self) - _NEWEST):
                self._settle(place)
            self._looked_at = len(self) - _NEWEST

    def append(self, report: Any) -> None:
        """As `extend`."""
        self.extend((report,))

    def __iadd__(self, reports: Iterable[Any]) -> Kept:  # type: ignore[misc] # a list's own adds lists only
        """As `extend`."""
        self.extend(reports)
        return self

    def __radd__(self, others: list[Any]) -> list[Any]:
        """Behind those of an ordinary list."""
        return [*others, *self._whole()]

    def _put_away(self, has: dict[str, Any]) -> _PutAway | None:
        """A report with these attributes; None: more is to be said of it. Nobody asks what made it."""
        if has.keys() != _PLAIN or has["longrepr"] is not None or has["sections"] or has["user_properties"]:
            return None
        duration, start, stop = has["duration"], has["start"], has["stop"]
        if has["outcome"] != "passed" or not (float is type(duration) is type(start) is type(stop)):
            return None
        names, values = tuple(has["keywords"]), list(has["keywords"].values())
        if values.count(1) != len(values):
            return None
        if names == self._names:  # of another phase of the same test
            names = self._names
        self._names = names
        return _PutAway((has[_ID], has["location"], names, has["when"], _PACK.pack(duration, start, stop)))

    def _settle(self, place: int) -> None:
        if _references(self, place) > _ALONE:
            return
        report = list.__getitem__(self, place)
        kept = self._put_away(report.__dict__) if type(report) is pytest.TestReport else None
        if kept is not None:
            super().__setitem__(place, kept)

    def __iter__(self) -> Iterator[Any]:
        """Each report as it was. Those that nobody holds any more some steps later are put away again."""
        place = 0
        while place < len(self):
            found = list.__getitem__(self, place)
            if type(found) is _PutAway:
                super().__setitem__(place, _made_again(found))
            del found
            yield list.__getitem__(self, place)
            if place >= _NEWEST:
                self._settle(place - _NEWEST)
            place += 1

    def _whole(self) -> Kept:
        """All of it as it was, for whoever does more than to go through it."""
        for place, found in enumerate(super().__iter__()):
            if type(found) is _PutAway:
                super().__setitem__(place, _made_again(found))
        return self


def _on_the_whole(name: str) -> Any:
    method = getattr(list, name)

    def on_the_whole(self: Kept, *args: Any, **kwargs: Any) -> Any:
        others = [item._whole() if isinstance(item, Kept) else item for item in args]
        return method(self._whole(), *others, **kwargs)

    on_the_whole.__name__ = name
    return on_the_whole


for _name in (
    "__getitem__", "__setitem__", "__delitem__", "__add__", "__mul__", "__rmul__", "__imul__", "__contains__",
    "__reversed__", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "__repr__", "insert", "pop", "remove",
    "index", "count", "copy", "sort", "reverse",
):  # fmt: skip
    setattr(Kept, _name, _on_the_whole(_name))


class Statistics(dict[str, Any]):
    """The terminal reporter's lists by category."""

    def setdefault(self, category: str, default: Any = None) -> Any:
        """The way in which the reporter makes a list."""
        if category in _FILLED and category not in self and default == []:
            self[category] = Kept()
        return super().setdefault(category, default)


def keep_little(reporter: Any) -> None:
    """From now on, where the reporter keeps its reports as pytest's does."""
    if _count is not None and type(getattr(reporter, "stats", None)) is dict:
        reporter.stats = Statistics(reporter.stats)
