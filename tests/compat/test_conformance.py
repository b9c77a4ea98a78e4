"""Every portable case of the reference systems is a test, and the table of them is current."""

from __future__ import annotations

from compat import conformance_pipelines
from compat.conformance import DEFECTS, DIFFERENCES, PAGE, cases, page, sections, shown_by

ALL = [*range(1, 100), *(f"B{number}" for number in range(1, 80))]


def test_every_case_has_a_test() -> None:
    shown = shown_by()
    assert [number for number in ALL if number not in shown] == []


def test_no_test_names_a_case_that_does_not_exist() -> None:
    assert [number for number in shown_by() if number not in ALL] == []


def test_every_defect_has_a_test_that_shows_that_ours_has_it_not() -> None:
    assert list(DEFECTS) == [f"A{number}" for number in range(1, 21)]
    assert list(conformance_pipelines.DEFECTS) == list(range(1, 17))
    assert set(shown_by("defect")) == {*DEFECTS, *conformance_pipelines.DEFECTS}


def test_the_table_has_every_case_once() -> None:
    assert list(cases()) == ALL
    assert [number for _, numbers in sections() for number in numbers] == ALL
    assert set(DIFFERENCES) <= set(ALL)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run: PYTHONPATH=tests python -m compat.conformance"
