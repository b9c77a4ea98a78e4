"""Log records of a test's phases: all of them, and as JSON whatever a test logs."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from pytest_remote_ci.job.logs import Logs, WorkersLogs, detach


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


def during(phase: Iterator[None], act: Callable[[], None]) -> None:
    next(phase)
    act()
    assert list(phase) == []


def taken(logs: Logs, when: str) -> list[dict[str, Any]]:
    text = logs.pop("t.py::a", when)
    assert text.isascii()
    return list(json.loads(text or "[]"))


ITEM: Any = SimpleNamespace(nodeid="t.py::a")


def test_records_belong_to_the_phase_in_which_they_were_made_and_are_taken_once() -> None:
    logs = Logs()
    during(logs.pytest_runtest_setup(ITEM), lambda: logging.warning("early %d", 1))
    during(logs.pytest_runtest_call(ITEM), lambda: logging.getLogger("x").error("late", extra={"y": {2}}))
    assert [record["msg"] for record in taken(logs, "setup")] == ["early 1"]
    (late,) = taken(logs, "call")
    assert (late["name"], late["msg"], late["args"], late["y"]) == ("x", "late", None, "{2}")
    assert taken(logs, "call") == []


def test_nothing_of_what_a_test_logs_is_left_out() -> None:
    logs = Logs()

    def flood() -> None:
        for _ in range(3000):
            logging.warning("x" * 100)
        logging.warning("y" * (5 << 20))

    during(logs.pytest_runtest_call(ITEM), flood)
    found = taken(logs, "call")
    assert len(found) == 3001
    assert len(found[-1]["msg"]) == 5 << 20


def test_hostile_values_are_json() -> None:
    logs = Logs()
    cycle: list[object] = []
    cycle.append(cycle)
    extra = {"v": Unprintable(), "k": {1: 2, (3, 4): 5}, "c": cycle, "s": "\udc80"}
    during(logs.pytest_runtest_call(ITEM), lambda: logging.warning("hostile", extra=extra))
    (record,) = taken(logs, "call")
    assert record["v"].startswith("<unprintable Unprintable")
    assert record["s"] == "\udc80"


def test_records_of_a_worker_travel_with_its_report_and_are_no_part_of_it_any_more() -> None:
    there, here = WorkersLogs(), Logs()
    during(there.pytest_runtest_call(ITEM), lambda: logging.warning("far away"))
    report: Any = SimpleNamespace(nodeid=ITEM.nodeid, when="call")
    phase: Any = there.pytest_runtest_makereport(ITEM)
    next(phase)
    with contextlib.suppress(StopIteration):
        phase.send(SimpleNamespace(get_result=lambda: report))
    there.pytest_runtest_logreport(report)
    before = vars(report).copy()
    here.pytest_runtest_logreport(report)
    assert vars(report) == {"nodeid": ITEM.nodeid, "when": "call"} != before
    assert [record["msg"] for record in taken(here, "call")] == ["far away"]


def test_what_is_too_much_for_a_record_goes_beside_it() -> None:
    def data(length: int) -> dict[str, Any]:
        extra = {"setup": {"log": [{"msg": "a"}]}, "call": {"log": [{"msg": "b" * length}], "stdout": "x"}}
        return {"when": "call", "_json_report_extra": extra}

    few, many, original = data(9), data(1 << 20), data(1 << 20)
    inside = many["_json_report_extra"]
    assert detach(few) == ""
    assert few == data(9)
    assert json.loads(detach(many)) == original["_json_report_extra"]["call"]["log"]
    assert many["_json_report_extra"] == {"setup": {"log": []}, "call": {"log": [], "stdout": "x"}}
    assert inside == original["_json_report_extra"]  # the report itself is as it was
    assert detach({"when": "call", "_json_report_extra": "odd"}) == detach({}) == ""
