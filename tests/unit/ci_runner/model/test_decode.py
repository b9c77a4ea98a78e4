"""JSON against a type: the first mistake is one line with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from ci_runner.model.decode import decode, words
from ci_runner.model.field_types import HostName, Positive, Python
from pytest_remote_ci.wire.protocol import WireError


class Open(Struct):
    """Has fields that it does not name."""

    pair: tuple[str, int]


def is_even(number: int) -> str | None:
    return "must be even" if number % 2 else None


@dataclass(frozen=True)
class Whole:
    """One of everything."""

    name: str
    kind: Literal["a", "b"] = "a"
    python: Python | None = None
    host: HostName = "h"
    seconds: Positive = 1.0
    even: Annotated[
        tuple[Annotated[int, words(check=is_even)], ...], words("must be a list", max_length=2)
    ] = ()
    table: Mapping[str, Positive] = field(default_factory=dict)
    inner: Open | None = None


def test_what_is_right_is_converted() -> None:
    raw = {
        "name": "n",
        "python": "3.12",
        "even": [2, 4],
        "table": {"x": 1},
        "inner": {"pair": ["a", 1], "z": 0},
    }
    found = decode("body", raw, Whole)
    assert found == Whole("n", python="3.12", even=(2, 4), table={"x": 1.0}, inner=Open(("a", 1)))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (1, "body: must be an object"),
        ({}, "body.name: is missing"),
        ({"name": None}, "body.name: must be text"),
        ({"name": "n", "nine": 1}, "body.nine: is unknown to this runner"),
        ({"name": "n", "kind": "c"}, "body.kind: must be one of a, b"),
        ({"name": "n", "kind": []}, "body.kind: must be one of a, b"),
        ({"name": "n", "python": "3.12\n"}, "body.python: '3.12\\n' is not a Python version such as '3.12'"),
        ({"name": "n", "python": [[[]]]}, "body.python: this is not a Python version such as '3.12'"),
        ({"name": "n", "host": "a\n"}, "body.host: 'a\\n' is not a host name"),
        ({"name": "n", "seconds": True}, "body.seconds: must be a number above 0"),
        ({"name": "n", "seconds": 10**400}, "body.seconds: must be a number above 0"),
        ({"name": "n", "even": [2, 3]}, "body.even[1]: must be even"),
        ({"name": "n", "even": [2, "3"]}, "body.even[1]: must be an integer"),
        ({"name": "n", "even": [2, 2, 2]}, "body.even: must be a list"),
        ({"name": "n", "table": {"x": 0}}, "body.table.x: must be a number above 0"),
        ({"name": "n", "inner": {"pair": ["a"]}}, "body.inner.pair: must be a list of strings"),
        ({"name": "n", "inner": {"pair": ["a", "b"]}}, "body.inner.pair[1]: must be an integer"),
    ],
)
def test_the_first_mistake_is_named(raw: object, message: str) -> None:
    with pytest.raises(WireError) as caught:
        decode("body", raw, Whole)
    assert str(caught.value) == message


@given(
    raw=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*Whole.__dataclass_fields__, "pair", "x"]), inner, max_size=5)
        ),
        max_leaves=12,
    )
)
def test_any_json_is_converted_or_refused_in_one_line(raw: object) -> None:
    try:
        assert isinstance(decode("body", raw, Whole), Whole)
    except WireError as refused:
        text = str(refused)
    else:
        text = "body"
    assert text.startswith("body")
    assert "\n" not in text
