"""Log records of a test's phases: bounded, and as JSON whatever a test logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_remote_ci.job.logs import Logs


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def logs(notes: list[str]) -> Logs:
    records: Any = SimpleNamespace(add=lambda kind, text: notes.append(f"{kind}: {text}"))
    return Logs(records)


def during(phase: Iterator[None], act: Callable[[], None]) -> None:
    next(phase)
    act()
    assert list(phase) == []


def test_records_belong_to_the_phase_in_which_they_were_made_and_are_taken_once(logs: Logs) -> None:
    item = SimpleNamespace(nodeid="t.py::a")
    during(logs.pytest_runtest_setup(item), lambda: logging.warning("early %d", 1))
    during(logs.pytest_runtest_call(item), lambda: logging.getLogger("x").error("late", extra={"y": {2}}))
    assert [record["msg"] for record in logs.take("t.py::a", "setup")] == ["early 1"]
    (late,) = logs.take("t.py::a", "call")
    assert (late["name"], late["msg"], late["args"], late["y"]) == ("x", "late", None, [2])
    assert logs.take("t.py::a", "call") == []


def test_what_a_test_logs_is_bounded_and_what_is_left_out_is_said(logs: Logs, notes: list[str]) -> None:
    item = SimpleNamespace(nodeid="t.py::a")

    def flood() -> None:
        for _ in range(3000):
            logging.warning("x" * 100)

    during(logs.pytest_runtest_call(item), flood)
    found = logs.take("t.py::a", "call")
    assert len(json.dumps(found)) < 1 << 20
    assert notes == [f"note: t.py::a (call): {3000 - len(found)} log records are not in the JSON report"]


def test_a_long_text_and_a_hostile_value_are_json(logs: Logs) -> None:
    item = SimpleNamespace(nodeid="t.py::a")
    during(
        logs.pytest_runtest_call(item),
        lambda: logging.warning("y" * (5 << 20), extra={"v": Unprintable(), "k": {1: 2}}),
    )
    (record,) = json.loads(json.dumps(logs.take("t.py::a", "call")))
    assert len(record["msg"]) < 20_000
    assert record["v"].startswith("<unprintable Unprintable")
