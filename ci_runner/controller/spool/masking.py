"""Masking of secrets: their values in a job's output are replaced by three stars in events.

A value is found as it is, line by line if it has several, and as written in JSON, Python, URLs, XML, shells, base64
and hexadecimal (`forms`). Output comes in pieces, so the end of a piece that could be the beginning of a value is
withheld until more output arrives (`Masker.withheld`).

This protects from accidents, not from the job itself, which may print a secret letter by letter. Values shorter than
`SHORTEST` are not masked.
"""

from __future__ import annotations

import base64
import html
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import AnyStr, Final
from urllib.parse import quote, quote_plus

from ci_runner.model.job import JobEvent

MASK: Final = "***"
#: Characters: masking shorter values would spoil ordinary text.
SHORTEST: Final = 4
#: The same for the part of a base64 text that does not depend on the value's surroundings.
_SHORTEST_INSIDE: Final = 6
#: Longer values are not masked: this is less than one reading of an output.
_LONGEST: Final = 1 << 18
#: Characters of a value's beginning to search for at once.
_HEAD: Final = 8
#: Possible beginnings of a value to check; after that, the rest of the text counts as one.
_TRIES: Final = 32


def forms(value: str) -> frozenset[str]:
    """Return the texts by which a value is recognised, without white space around it."""
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
    """Yield the text as JSON, Python and shells write it between quotes of either kind."""
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
        yield each.replace("'", "\\'")
    yield text.replace("'", "'\\''")
    yield text.replace("'", "'\"'\"'")


def _in_urls(text: str) -> Iterator[str]:
    for each in (
        quote(text, safe="", errors="surrogateescape"),
        quote(text, errors="surrogateescape"),
        quote_plus(text, errors="surrogateescape"),
    ):
        yield each
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), each)


def _in_markup(text: str) -> Iterator[str]:
    escaped = html.escape(text, quote=False)
    yield from (escaped, escaped.replace('"', "&quot;"), html.escape(text))
    yield escaped.replace('"', "&quot;").replace("'", "&apos;")


def _base64(raw: bytes) -> Iterator[str]:
    """Yield the whole encoding, also in lines, and the fixed part of it for each of the three possible offsets."""
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
    """Bytes with three stars in place of each value, and their origin."""

    data: bytes
    #: For each mask: its begin and end in `data`, and its value's begin and end in the bytes that were read.
    masks: tuple[tuple[int, int, int, int], ...]

    def read(self, used: int) -> int:
        """Return how many source bytes the first `used` bytes of `data` stand for; never splits a value."""
        index = bisect_right(self.masks, used, key=lambda mask: mask[0]) - 1
        if index < 0:
            return used
        begin, end, value_begin, value_end = self.masks[index]
        return value_begin if begin <= used < end else value_end + used - end


class Masker:
    """Masks the secrets of one job. False if there are none."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._texts = tuple(sorted({form for value in values for form in forms(value)}))
        self._raw = tuple(text.encode("utf-8", "surrogateescape") for text in self._texts)
        #: Bytes of the longest text to search for.
        self.longest = max(map(len, self._raw), default=0)

    def __bool__(self) -> bool:
        return bool(self._texts)

    def text(self, text: str) -> str:
        """Return the text with its values masked."""
        parts, at = [], 0
        for begin, end in _places(text, self._texts):
            parts += [text[at:begin], MASK]
            at = end
        return "".join([*parts, text[at:]])

    def data(self, data: bytes) -> MaskedBytes:
        """Return a piece of an output with its values masked."""
        parts: list[bytes] = []
        masks: list[tuple[int, int, int, int]] = []
        at = length = 0
        for begin, end in _places(data, self._raw):
            length += begin - at
            parts += [data[at:begin], MASK.encode()]
            masks.append((length, length + len(MASK), begin, end))
            length, at = length + len(MASK), end
        return MaskedBytes(b"".join([*parts, data[at:]]), tuple(masks))

    def withheld(self, data: bytes) -> int:
        """Return how many bytes at the end of `data` could begin a value that continues after it."""
        size = max((_beginning_at_end(data, value) for value in self._raw), default=0)
        start = len(data) - size
        for begin, end in reversed(_places(data[-2 * _LONGEST :], self._raw)) if size else ():
            shift = max(0, len(data) - 2 * _LONGEST)
            if begin + shift < start < end + shift:  # the end of a complete value
                return len(data) - end - shift
        return size

    def events(self, events: Sequence[JobEvent]) -> Sequence[JobEvent]:
        """Return the events with masked values, except an output's events, made from masked `data`."""
        return [event if event.type == "log" else self._event(event) for event in events] if self else events

    def _event(self, event: JobEvent) -> JobEvent:
        data = None if event.data is None else self.text(event.data)
        fields = {self.text(name): self._value(value) for name, value in event.fields.items()}
        # Unchanged fields keep the text from which they were parsed.
        if data == event.data and fields == event.fields:
            return event
        return replace(event, data=data, fields=fields)

    def _value(self, value: object) -> object:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self._value(key): self._value(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return value


NOTHING_TO_MASK: Final = Masker()


def _places(text: AnyStr, values: Iterable[AnyStr]) -> list[tuple[int, int]]:
    """Return where the values are, from left to right; merge those that touch or overlap."""
    found = []
    for value in values:
        # Do not check every position of a long repetitive value: it would take forever.
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
    """Return the length of the longest end of `data` that begins `value` and is shorter than it; or more."""
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
    sizes = range(len(head) - 1, 0, -1)
    return next((size for size in sizes if tail.endswith(value[:size])), 0)
