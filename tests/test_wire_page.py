"""The tables of docs/reference/wire.md are true: routes, parameters, statuses and words are the server's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import falcon.inspect
import pytest
from support.http_server import running
from support.openapi import plain_document

from pytest_remote_ci.wire import records
from pytest_remote_ci.wire.protocol import Phase, Status

PAGE = (Path(__file__).parents[1] / "docs" / "reference" / "wire.md").read_text(encoding="utf-8")
#: Words for several parameters at once, which the text explains.
PHRASES = {
    "multipart": {"Idempotency-Key"},
    "same": {"Idempotency-Key", "view"},
    "same, without `view`": {"Idempotency-Key"},
    "as a job's": {"from_beginning", "after", "Last-Event-ID", "view"},
}

Route = tuple[str, str]


def section(heading: str) -> str:
    """The text below a heading of the page."""
    found = re.search(rf"^##+ {heading}\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found is not None, heading
    return found[1]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    lines = [line for line in section(heading).splitlines() if line.startswith("| ")]
    assert len(lines) > 2
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[1:]]


def plain(path: str) -> str:
    """A path without the names of its parts."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def spelled(path: str) -> Iterator[str]:
    """Each path that one with optional ends stands for: `/a[/b[/c]]` is three."""
    parts = path.rstrip("]").split("[")
    for count in range(1, len(parts) + 1):
        yield "".join(parts[:count])


def documented() -> dict[Route, str]:
    """Method and path of each route of the page, and what its row says of what goes in."""
    found: dict[Route, str] = {}
    for first, given, *_ in rows("Endpoints"):
        for words in re.findall(r"`([A-Z]+ [^`]+)`", first):
            method, path = words.split(" ")
            for each in spelled(path):
                route = (method, plain(each))
                assert route not in found, f"{route} has two rows"
                found[route] = given
    return found


def described() -> dict[Route, dict[str, Any]]:
    """The same of the OpenAPI document."""
    return {
        (method.upper(), plain(path)): operation
        for path, operations in plain_document()["paths"].items()
        for method, operation in operations.items()
        if method != "head"
    }


def test_the_page_names_the_routes_that_there_are(tmp_path: Path) -> None:
    with running(tmp_path) as runner:
        there = {
            (method.method, plain(route.path))
            for route in falcon.inspect.inspect_app(runner.app).routes
            for method in route.methods
            if not method.internal and method.method not in ("HEAD", "OPTIONS")
        }
    assert there == set(described())
    assert set(documented()) == set(described())


@pytest.mark.parametrize("route", described(), ids=" ".join)
def test_the_page_names_the_parameters_of_a_route(route: Route) -> None:
    given = documented()[route]
    named = set(re.findall(r"`([A-Za-z_-]+)(?:=[^`]*)?`", re.sub(r"\(default [^)]*\)", "", given)))
    for phrase, meant in PHRASES.items():
        if given == phrase or (phrase == "multipart" and given.startswith("multipart")):
            named = {*named, *meant}
    there = {
        item["name"] for item in described()[route].get("parameters", []) if item["in"] in ("query", "header")
    }
    missing = there - named
    assert not missing, f"docs/reference/wire.md does not name {missing}"
    # What else is named are parts and members of the body.
    if given.startswith("where no run is named: ") and "/runs/" in route[1]:
        named = set()
    body = described()[route].get("requestBody")
    assert body is not None or named <= there, f"docs/reference/wire.md names {named - there}"


def test_the_page_names_the_statuses_that_there_are() -> None:
    answers = {int(code) for operation in described().values() for code in operation["responses"]}
    cells = [row[1] for row in rows("Authentication")] + [
        cell for row in rows("Endpoints") for cell in row[1:]
    ]
    named = {int(code) for cell in cells for code in re.findall(r"(?<![-\w])(?<!\d,)[1-5]\d\d(?!,?\d)", cell)}
    # Of HTTP itself, of no route: what cannot be read, another method, a fault of the runner.
    assert answers - named <= {400}
    assert named - answers <= {405, 408, 431, 500, 501, 505}


def test_what_needs_no_key_is_said_to_need_none() -> None:
    sentence = section("Authentication").split("needs it")[0].rpartition("Everything but")[2]
    free = {path for _, path in re.findall(r"(`)(/[^`]+)`", sentence)}
    assert free == {path for (_, path), operation in described().items() if operation["security"] == []}


def test_the_words_for_statuses_and_phases_are_those_of_the_code() -> None:
    [statuses] = re.findall(r"`status` is one of ([^.]+)\.", PAGE)
    assert re.findall(r"`(\w+)`", statuses) == list(get_args(Status))
    [state] = [row for row in rows("Events") if row[0] == "`state`"]
    phases = re.search(r"`phase` \(([^)]+)\)", state[1])
    assert phases is not None
    assert set(re.findall(r"`(\w+)`", phases[1])) == set(get_args(Phase))


def test_the_page_names_each_kind_of_record_with_its_fields() -> None:
    shown = {kind.event_type for kind in records.KINDS.values()} - {""}  # "": only the runner reads it
    documented = {row[0].strip("`"): row for row in rows("Records")}
    assert documented.keys() == {name for name, kind in records.KINDS.items() if kind.event_type in shown}
    for name, row in documented.items():
        kind = records.KINDS[name]
        assert row[1] == f"`{kind.event_type}`", name
        assert {field for field, *_ in kind._fields} <= set(re.findall(r"`(\w+)`", row[3])), name
    assert {row[0].strip("`") for row in rows("Events")} >= shown


def test_the_page_promises_nothing_that_is_not_there() -> None:
    for words in ("dashboard", "not sent yet"):
        assert words not in PAGE
