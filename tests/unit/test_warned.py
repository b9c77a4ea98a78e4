"""Warnings of reporters here, between those of a test, whatever else comes meanwhile."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_remote_ci.job.warned import TEST
from pytest_remote_ci.replay.warned import Warned


class Session:
    """As much of a session's configuration as is asked for: warnings are caught, and somebody hears of them."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.pluginmanager = SimpleNamespace(hasplugin=lambda name: name == "warnings")
        self.hook = SimpleNamespace(pytest_warning_recorded=self)

    def call_historic(self, kwargs: dict[str, Any]) -> None:
        self.heard.append(str(kwargs["warning_message"].message))


def reporter(report: Any) -> None:
    warnings.warn(f"heard of {report.when}", stacklevel=1)


def warning(text: str, place: list[int] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record, and the arguments of the hook."""
    message = warnings.WarningMessage(UserWarning(text), UserWarning, "x.py", 1)
    arguments = {"warning_message": message, "when": "runtest", "nodeid": "a", "location": None}
    return {"t": "warning", "id": "a", **({"place": place} if place else {})}, arguments


def told(between: list[dict[str, Any]], *, placed: bool = True) -> list[str]:
    """What is heard of a test that warns in two phases; `between`: what comes before each of its warnings."""
    session: Any = Session()
    warned = Warned(session)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with warned.during("a", is_distributed=False):
            for when in ("setup", "call"):
                warned.tell(reporter, SimpleNamespace(when=when), {})
    for number, text in enumerate(("in setup", "in call")):
        event, arguments = warning(text, [number, TEST] if placed else None)
        for one in (*between, event):
            warned.settle_before(one)
        warned.take(event, arguments)
    warned.settle_before({"t": "started", "id": "b"})
    return list(session.heard)


@pytest.mark.parametrize(
    "between",
    [[], [{"type": "log", "stream": "terminal", "data": "x"}, {"type": "state"}]],
    ids=["alone", "output"],
)
def test_each_stands_where_it_was_emitted(between: list[dict[str, Any]]) -> None:
    assert told(between) == ["in setup", "heard of setup", "in call", "heard of call"]


def test_without_places_those_from_here_come_first() -> None:
    assert told([], placed=False) == ["heard of setup", "heard of call", "in setup", "in call"]


def test_another_record_is_the_end_of_them() -> None:
    found = told([{"t": "started", "id": "b"}])
    assert found == ["heard of setup", "heard of call", "in setup", "in call"]
