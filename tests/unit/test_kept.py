"""Reports that are put away, and that nobody can tell."""

from __future__ import annotations

import collections
import gc
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_remote_ci.replay import kept
from pytest_remote_ci.replay.kept import Kept, Statistics, keep_little


def made(number: int, when: str = "call", **more: Any) -> Any:
    fields: dict[str, Any] = {
        "duration": 0.25 * number,
        "start": 1e9 + number,
        "stop": 1e9 + 2 * number,
        **more,
    }
    keywords = {f"test_{number}": 1, "test_it.py": 1, "": 1}
    make: Any = pytest.TestReport
    return make(
        f"test_it.py::test_{number}", ("test_it.py", number, f"test_{number}"), keywords, "passed", None, when,
        **fields,
    )  # fmt: skip


def filled(count: int, make: Callable[[int], Any] = made) -> Kept:
    reports = Kept()
    for number in range(count):
        reports.extend([make(number)])
    return reports


def put_away(reports: Kept) -> int:
    """How many are: looked at from below, because a look at the list brings them back."""
    return sum(type(list.__getitem__(reports, place)) is kept._PutAway for place in range(len(reports)))


def contents(reports: Any) -> list[dict[str, Any]]:
    return [dict(report.__dict__) for report in reports]


def test_old_reports_are_put_away_and_come_back_as_they_were() -> None:
    reports = filled(100)
    assert put_away(reports) >= 100 - 2 * kept._NEWEST
    assert contents(reports) == contents([made(number) for number in range(100)])
    assert list(reports[3].__dict__) == list(made(3).__dict__), "in the same order"
    assert type(reports[3]) is pytest.TestReport
    assert reports[3].nodeid == "test_it.py::test_3"


@pytest.mark.parametrize("when", ["setup", "call", "teardown"])
def test_a_phase_is_the_one_that_it_was(when: str) -> None:
    assert {report.when for report in filled(20, lambda number: made(number, when))} == {when}


def test_what_somebody_holds_stays() -> None:
    held = made(0)
    reports = Kept([held])
    for number in range(1, 30):
        reports.append(made(number))
    assert reports[0] is held
    held.sections.append(("later", "text"))
    assert next(iter(reports)).sections == [("later", "text")]


ODD: dict[str, Callable[[Any], None]] = {
    "an attribute of its own": lambda report: setattr(report, "extras", []),
    "output": lambda report: report.sections.append(("Captured stdout call", "x")),
    "a property": lambda report: report.user_properties.append(("name", 1)),
    "another outcome": lambda report: setattr(report, "outcome", "skipped"),
    "a text": lambda report: setattr(report, "longrepr", "why"),
    "a keyword with a value": lambda report: report.keywords.update(mark=3),
    "an attribute less": lambda report: delattr(report, "sections"),
    "no duration": lambda report: setattr(report, "duration", None),
}


@pytest.mark.parametrize("name", ODD)
def test_a_report_of_which_something_is_to_be_said_stays(name: str) -> None:
    def odd(number: int) -> Any:
        report = made(number)
        ODD[name](report)
        return report

    reports = filled(30, odd)
    assert put_away(reports) == 0
    assert contents(reports) == contents([odd(number) for number in range(30)])


def test_reports_of_other_classes_stay() -> None:
    class Other(pytest.TestReport):
        pass

    def other(number: int) -> Any:
        report = made(number)
        report.__class__ = Other
        return report

    assert put_away(filled(30, other)) == 0


def test_counting_brings_nothing_back_for_long() -> None:
    reports = filled(1000)
    assert sum(1 for report in reports if report.when == "call") == 1000
    assert put_away(reports) >= 1000 - 3 * kept._NEWEST
    for _ in enumerate(reports):
        pass
    assert put_away(reports) >= 1000 - 3 * kept._NEWEST


def test_who_goes_through_and_keeps_or_changes_finds_it_again() -> None:
    reports = filled(50)
    found = [report for report in reports if report.nodeid.endswith("7")]
    for report in reports:
        if report.nodeid.endswith("8"):
            report._was_seen = True
    assert [report for report in reports if report.nodeid.endswith("7")] == found, "the same objects"
    assert sum(hasattr(report, "_was_seen") for report in reports) == 5


def test_a_walk_that_is_left_early_loses_nothing() -> None:
    reports = filled(50)
    for report in reports:
        report.sections.append(("seen", ""))
        if report.nodeid.endswith("_9"):
            break
    del report
    gc.collect()
    assert sum(bool(report.sections) for report in reports) == 10


OPERATIONS: dict[str, Callable[[Any, int, Any], Any]] = {
    "append": lambda reports, place, new: reports.append(new),
    "extend": lambda reports, place, new: reports.extend([new, new]),
    "+=": lambda reports, place, new: len(reports.__iadd__([new])),
    "insert": lambda reports, place, new: reports.insert(place, new),
    "pop": lambda reports, place, new: reports.pop(place).nodeid if reports else None,
    "get": lambda reports, place, new: reports[place : place + 3],
    "set": lambda reports, place, new: reports.__setitem__(slice(place, place + 1), [new]),
    "del": lambda reports, place, new: reports.__delitem__(slice(place, place + 2)),
    "reverse": lambda reports, place, new: reports.reverse(),
    "sort": lambda reports, place, new: reports.sort(key=lambda report: (report.nodeid, report.duration)),
    "in": lambda reports, place, new: new in reports,
    "walk": lambda reports, place, new: [report.nodeid for report in reports],
    "backwards": lambda reports, place, new: [report.nodeid for report in reversed(reports)],
    "before": lambda reports, place, new: contents([new] + reports),  # noqa: RUF005 - what is tested
    "behind": lambda reports, place, new: contents(reports + [new]),  # noqa: RUF005
    "copy": lambda reports, place, new: len(reports.copy()),
    "bool": lambda reports, place, new: (bool(reports), len(reports)),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(OPERATIONS)), st.integers(0, 30)), max_size=60))
def test_it_is_a_list(steps: list[tuple[str, int]]) -> None:
    ours, theirs = filled(20), [made(number) for number in range(20)]
    for step, (name, place) in enumerate(steps):
        if name == "pop":
            place = min(place, len(theirs) - 1)
        answers = [OPERATIONS[name](reports, place, made(step)) for reports in (ours, theirs)]
        if isinstance(answers[0], list) and name == "get":
            answers = [contents(answer) for answer in answers]
        assert answers[0] == answers[1]
        assert len(ours) == len(theirs)
    assert contents(ours) == contents(theirs)


def test_only_what_fills_is_kept_so_and_only_when_it_is_made() -> None:
    class Reporter:
        def __init__(self) -> None:
            self.stats: dict[str, list[Any]] = {"passed": [1]}

    reporter = Reporter()
    keep_little(reporter)
    assert type(reporter.stats) is Statistics
    assert "" not in reporter.stats, "pytest asks whether there is such a category"
    for category in ("", "passed", "failed"):
        reporter.stats.setdefault(category, []).extend([made(1)])
    assert {name: type(found) for name, found in reporter.stats.items()} == {
        "": Kept, "passed": list, "failed": list
    }  # fmt: skip
    assert len(reporter.stats["passed"]) == 2


def test_a_reporter_without_such_lists_is_left_alone() -> None:
    keep_little(None)
    bare = SimpleNamespace(shown=[1])
    keep_little(bare)
    assert vars(bare) == {"shown": [1]}


@pytest.mark.parametrize("kind", [collections.OrderedDict, collections.defaultdict])
def test_lists_of_another_kind_are_left_alone(kind: type[dict[str, Any]]) -> None:
    stats = kind()
    reporter = SimpleNamespace(stats=stats)
    keep_little(reporter)
    assert reporter.stats is stats
    stats.setdefault("passed", []).append(1)
    assert type(stats["passed"]) is list
