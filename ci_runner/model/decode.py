"""Check JSON from a client against a type, with one clear line for the first mistake, and convert it.

msgspec checks single values and converts; this module adds the place of a mistake and words for it. A type's words
and further checks are in its annotation: see `words`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Final,
    Literal,
    TypedDict,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta, Struct, UnsetType

from pytest_remote_ci.wire.protocol import WireError

if TYPE_CHECKING:
    from typing_extensions import Unpack

_T = TypeVar("_T")


class Bounds(TypedDict, total=False):
    """Bounds of msgspec."""

    gt: float
    ge: float
    lt: float
    le: float
    pattern: str
    min_length: int
    max_length: int


_KINDS: Final[Mapping[object, str]] = {
    str: "must be text",
    bool: "must be true or false",
    int: "must be an integer",
    float: "must be a number",
    list: "must be a list",
    tuple: "must be a list",
    dict: "must be an object",
    Mapping: "must be an object",
}


def words(
    text: str = "", *, check: Callable[[_T], str | None] | None = None, **bounds: Unpack[Bounds]
) -> Meta:
    """Return an annotation: `bounds` of msgspec, and the message for a value that is outside of them.

    `text` is such as "must be a number above 0"; "{value}" in it stands for the value. `check`: what no bound can
    express; it returns what is wrong with a value, as in "must be …", or None.
    """
    make: Callable[..., Meta] = Meta  # its overloads exclude combinations that no caller uses
    return make(**bounds, extra={"text": text, "check": check})


def decode(where: str, raw: object, kind: type[_T]) -> _T:
    """Return JSON `raw` as a `kind`; raises `WireError` with the place of the first mistake, which begins with `where`.

    A dataclass has all fields that it names and no others, as has a Struct that forbids unknown ones.
    """
    for problem in _problems(where, raw, kind, ()):
        raise WireError(problem)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        raise WireError(f"{where or 'body'}: {error}") from error


def trusted(raw: object, kind: type[_T]) -> _T:
    """Return what the runner itself wrote, or has checked before, as a `kind`; raises ValueError if it is not one."""
    return msgspec.convert(raw, kind)


def _problems(where: str, raw: object, kind: object, notes: tuple[Meta, ...]) -> Iterator[str]:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        yield from _problems(where, raw, arguments[0], (*arguments[1:], *notes))
    elif origin in (Union, UnionType):
        rest = [each for each in arguments if each not in (NoneType, UnsetType)]
        if raw is not None or NoneType not in arguments:
            assert len(rest) == 1, kind
            yield from _problems(where, raw, rest[0], notes)
    elif isinstance(kind, type) and (dataclasses.is_dataclass(kind) or issubclass(kind, Struct)):
        yield from _of_fields(where, raw, kind)
    else:
        if not _is_as(raw, kind, origin, notes):
            yield f"{where}: {_text(raw, kind, origin, notes)}"
            return
        if origin in (dict, Mapping) and isinstance(raw, dict):
            for name, value in raw.items():
                yield from _problems(where, name, arguments[0], ())
                yield from _problems(f"{where}.{name}", value, arguments[1], ())
        elif origin in (list, tuple) and isinstance(raw, (list, tuple)):
            pairs = len(arguments) > 1 and arguments[1] is not Ellipsis
            for index, item in enumerate(raw):
                yield from _problems(f"{where}[{index}]", item, arguments[index if pairs else 0], ())
        yield from _of_checks(where, raw, notes)


def _of_fields(where: str, raw: object, kind: type) -> Iterator[str]:
    if not isinstance(raw, dict):
        yield f"{where or 'body'}: must be an object"
        return
    hints, required, is_open = _fields(kind)
    prefix = f"{where}." if where else ""
    for name in sorted(map(str, raw.keys() - hints.keys())):
        if not is_open:
            yield f"{prefix}{name}: is unknown to this runner"
    for name in required:
        if name not in raw:
            yield f"{prefix}{name}: is missing"
    for name in hints.keys() & raw.keys():
        yield from _problems(f"{prefix}{name}", raw[name], hints[name], ())


@cache
def _fields(kind: type) -> tuple[dict[str, object], tuple[str, ...], bool]:
    """Return the types of a kind's fields, the names of those that it must have, and whether it may have others."""
    hints = get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        required = [
            item.name
            for item in dataclasses.fields(kind)
            if item.default is missing and item.default_factory is missing
        ]
        return hints, tuple(required), False
    assert issubclass(kind, Struct)
    found, config = msgspec.structs.fields(kind), kind.__struct_config__
    return hints, tuple(item.name for item in found if item.required), not config.forbid_unknown_fields


def _is_as(raw: object, kind: object, origin: object, notes: tuple[Meta, ...]) -> bool:
    """Return whether a value fits, without regard to what is in it."""
    shallow = _SHALLOW.get(origin, kind)
    for note in notes:
        bounds = {name: getattr(note, name) for name in _BOUNDS if getattr(note, name) is not None}
        shallow = Annotated[shallow, Meta(**bounds)] if bounds else shallow
    if origin is tuple and Ellipsis not in get_args(kind) and isinstance(raw, list):
        return len(raw) == len(get_args(kind))
    try:
        msgspec.convert(raw, cast("type[object]", shallow))
    except (msgspec.ValidationError, UnicodeError, OverflowError):
        return False
    return True


_BOUNDS: Final = tuple(Bounds.__annotations__)
#: Origin of a type → a type for all of its values, whatever is in them.
_SHALLOW: Final[Mapping[object, object]] = {
    list: list[object],
    tuple: tuple[object, ...],
    dict: dict[str, object],
    Mapping: dict[str, object],
}


def _text(raw: object, kind: object, origin: object, notes: tuple[Meta, ...]) -> str:
    for note in reversed(notes):
        if note.extra and note.extra["text"]:
            text: str = note.extra["text"]
            return text.replace("{value}", repr(raw[:200]) if isinstance(raw, str) else "this")
    if origin is Literal:
        return f"must be one of {', '.join(map(str, get_args(kind)))}"
    if origin in (list, tuple) and get_args(kind)[0] is str:
        return "must be a list of strings"
    return _KINDS.get(origin or kind, "has a wrong value")


def _of_checks(where: str, raw: object, notes: tuple[Meta, ...]) -> Iterator[str]:
    for note in notes:
        check: Callable[[object], str | None] | None = note.extra["check"] if note.extra else None
        problem = check(raw) if check is not None else None
        if problem is not None:
            yield f"{where}: {problem}"
