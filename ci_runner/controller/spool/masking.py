"""Values of secrets do not get into events: whatever a job prints of them becomes three stars.

Looked for are a value as it is, line by line where it has several, and as JSON, Python, URLs, XML, shells, base64 and
hexadecimal write it (`forms`). Output comes in pieces, so the end of a piece that could be the beginning of a value is
withheld until more of the output is there (`Masker.withheld`).

A help against accidents, not against the job itself, which may print a secret letter by letter. A value that is shorter
than `SHORTEST` is not looked for.
"""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, AnyStr, Final
from urllib.parse import quote, quote_plus

from ci_runner.model.job import JobEvent

MASK: Final = "***"
#: Masking shorter ones would spoil ordinary text.
SHORTEST: Final = 4
#: The same for the part of a base64 text that is there whatever surrounds the value.
_SHORTEST_INSIDE: Final = 6
#: What is longer is not looked for: less than what is read of an output at once.
_LONGEST: Final = 1 << 18
#: Characters of a beginning that are looked for at once.
_HEAD: Final = 8
#: Places where a value may begin, after which all from there on is taken for its beginning.
_TRIES: Final = 32


def forms(value: str) -> frozenset[str]:
    """The texts by which a value is recognised; what white space surrounds it is no part of it."""
    inner = value.strip()
    raw = inner.encode("utf-8", "surrogateescape")
    lines = {line.strip() for line in value.splitlines()}
    found = {*_quoted(inner), *_in_urls(inner), *_in_markup(inner), raw.hex(), raw.hex().upper()}
    long_enough = {text for text in ({inner} | lines | found) if len(text) >= SHORTEST}
    long_enough |= {text for text in _base64(raw) if len(text) >= _SHORTEST_INSIDE}
    return (
        frozenset(text for text in long_enough if len(text) <= _LONGEST)
        if len(inner) >= SHORTEST
        else frozenset()
    )


def _quoted(text: str) -> Iterator[str]:
    """As JSON, Python and shells write it between quotes of either kind."""
    escaped = json.dumps(text)[1:-1]
    raw = repr(text.encode("utf-8", "surrogateescape"))[2:-1]
    for each in (
        escaped,
        json.dumps(text, ensure_ascii=False)[1:-1],
        repr(text)[1:-1],
        ascii(text)[1:-1],
        raw,
    ):
        yield each
        yield each.replace("/", "\\/")
        yield each.replace("\\'", "'")
        yield each.replace("\\'", "'").replace("'", "\\'")
    yield text.replace("'", "'\\''")
    yield text.replace("'", "'\"'\"'")


def _in_urls(text: str) -> Iterator[str]:
    for each in (quote(text, safe="", errors="surrogateescape"), quote(text, errors="surrogateescape"),
                 quote_plus(text, errors="surrogateescape")):  # fmt: skip
        yield each
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), each)


def _in_markup(text: str) -> Iterator[str]:
    escaped = html.escape(text, quote=False)
    yield from (escaped, escaped.replace('"', "&quot;"), html.escape(text))
    yield escaped.replace('"', "&quot;").replace("'", "&apos;")


def _base64(raw: bytes) -> Iterator[str]:
    """The whole of it, in lines too; and what is there of it at each of the three places that it can begin at."""
    for alphabet in (None, b"-_"):
        for before in range(3):
            text = base64.b64encode(b"\0" * before + raw, alphabet).decode()
            yield text[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        whole = base64.b64encode(raw, alphabet).decode()
        yield whole
        for width in (64, 76):
            yield "\n".join(whole[start : start + width] for start in range(0, len(whole), width))


@dataclass(frozen=True)
class MaskedBytes:
    """Bytes with three stars in the place of each value, and where they come from."""

    data: bytes
    #: Of each mask: where it begins and ends in `data`, where its value begins and ends in what was read.
    masks: tuple[tuple[int, int, int, int], ...]

    def read(self, used: int) -> int:
        """How many bytes of what was read the first `used` bytes of `data` stand for; none of a value in part."""
        index = bisect_right(self.masks, used, key=lambda mask: mask[0]) - 1
        if index < 0:
            return used
        begin, end, value_begin, value_end = self.masks[index]
        return value_begin if begin <= used < end else value_end + used - end


class Masker:
    """Finds the values of one job's secrets. False when there are none to look for."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._texts = tuple(sorted({form for value in values for form in forms(value)}))
        self._raw = tuple(text.encode("utf-8", "surrogateescape") for text in self._texts)
        #: Bytes of the longest text that is looked for.
        self.longest = max(map(len, self._raw), default=0)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def text(self, text: str) -> str:
        """A text without the values."""
        parts, at = [], 0
        for begin, end in _places(text, self._texts):
            parts += [text[at:begin], MASK]
            at = end
        return "".join([*parts, text[at:]]) if parts else text

    def data(self, data: bytes) -> MaskedBytes:
        """A piece of an output without the values."""
        parts: list[bytes] = []
        masks: list[tuple[int, int, int, int]] = []
        at = length = 0
        for begin, end in _places(data, self._raw):
            length += begin - at
            parts += [data[at:begin], MASK.encode()]
            masks.append((length, length + len(MASK), begin, end))
            length, at = length + len(MASK), end
        return MaskedBytes(b"".join([*parts, data[at:]]), tuple(masks)) if parts else MaskedBytes(data, ())

    def withheld(self, data: bytes) -> int:
        """How many bytes at the end of `data` could be the beginning of a value that continues behind it."""
        size = max((_beginning_at_end(data, value) for value in self._raw), default=0)
        start = len(data) - size
        for begin, end in reversed(_places(data[-2 * _LONGEST :], self._raw)) if size else ():
            shift = max(0, len(data) - 2 * _LONGEST)
            if begin + shift < start < end + shift:  # the end of a value that is whole
                return len(data) - end - shift
        return size

    def events(self, events: Sequence[JobEvent]) -> Sequence[JobEvent]:
        """The events without the values, but for those of an output, of which `data` was made."""
        return [event if event.type == "log" else self._event(event) for event in events] if self else events

    def _event(self, event: JobEvent) -> JobEvent:
        data, fields = self._value(event.data), self._value(event.fields)
        # Fields keep the text that they were read from as long as nothing of them changes.
        if data == event.data and fields == event.fields:
            return event
        return replace(event, data=data, fields=fields)

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self._value(key): self._value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return value


NOTHING_TO_MASK: Final = Masker()


def _places(text: AnyStr, values: Iterable[AnyStr]) -> list[tuple[int, int]]:
    """Where the values are, from left to right; those that touch or overlap are one."""
    found = []
    for value in values:
        # Of a long value that repeats itself not every place is looked at, or this would take for ever.
        step = max(1, len(value) // 16)
        start = text.find(value)
        while start >= 0:
            found.append((start, start + len(value)))
            start = text.find(value, start + step)
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(found):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def _beginning_at_end(data: bytes, value: bytes) -> int:
    """The length of the longest end of `data` that is a beginning of `value`, and shorter than it; or more."""
    tail, head = data[max(0, len(data) - len(value) + 1) :], value[:_HEAD]
    at = tail.find(head)
    for _ in range(_TRIES):
        if at < 0:
            break
        if value.startswith(tail[at:]):
            return len(tail) - at
        at = tail.find(head, at + 1)
    if at >= 0:
        return len(tail) - at
    sizes = range(min(len(head), len(value)) - 1, 0, -1)
    return next((size for size in sizes if tail.endswith(value[:size])), 0)
