"""What only a native session can: report files here, crashes that name their test, attaching, falling back."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

from .comparison import Pair, difference

C = "--continue-on-collection-errors"


def cases(path: Path, *roots: Path) -> list[tuple[str, ...]]:
    """A JUnit file's cases: names, outcomes, properties, messages."""
    text = path.read_text()
    for root in roots:
        text = text.replace(str(root), "ROOT")
    return [
        (case.get("classname", ""), case.get("name", ""), *[child.tag for child in case], *case.itertext())
        for case in ElementTree.fromstring(re.sub(r"0x[0-9a-f]+|[^\s'\"<>]*/lib/python3", "", text)).iter(
            "testcase"
        )
    ]


def test_a_junit_file_is_written_here_with_the_same_cases(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    both.run(C, "--junitxml=report.xml")
    found = [cases(place / "report.xml", both.direct, both.local) for place in (both.direct, both.local)]
    assert len(found[0]) > 30
    assert found[1] == found[0]


def test_an_attached_session_shows_the_whole_run(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    first = both.remotely(C)
    job = first.err.partition("Job ID: ")[2].split()[0]
    again = both.developer.pytest(f"--remote-ci-attach={job}", cwd=both.local, COLUMNS="100")
    found = difference(first, again, both.local, both.local)
    assert not found, found


def test_text_is_as_ever_and_a_job_without_records_is_shown_as_text(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    text = both.developer.pytest("--remote-ci-text", C, cwd=both.local, COLUMNS="100")
    assert "FAILED tests/unit/test_basic.py::test_fail" in text.out
    job = text.err.partition("Job ID: ")[2].split()[0]
    attached = both.developer.pytest(f"--remote-ci-attach={job}", cwd=both.local)
    assert attached.out == text.out
    assert attached.code == text.code
    assert "this job was submitted without records; showing pytest's text instead" in attached.err


def test_a_recorded_job_looks_to_text_clients_as_it_always_did(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    args = ("tests/unit/test_more.py", "-s", "-v")
    first = both.remotely(*args)
    job = first.err.partition("Job ID: ")[2].split()[0]
    recorded = both.developer.pytest("--remote-ci-text", f"--remote-ci-attach={job}", cwd=both.local)
    plain = both.developer.pytest("--remote-ci-text", *args, cwd=both.local, COLUMNS="100")

    def body(text: str) -> str:
        return re.sub(r"[0-9a-f-]{36}-own|in \d+\.\d+s|=+|0x[0-9a-f]+", "", text)

    assert body(recorded.out) == body(plain.out)
    assert recorded.code == plain.code


MOOD_THERE = """
import pytest

@pytest.hookimpl(hookwrapper=True)
def pytest_report_to_serializable(report):
    outcome = yield
    if report.nodeid.endswith("test_here"):
        outcome.force_result({**outcome.get_result(), "mood": "there"})
"""
MOOD_HERE = """
import pytest

@pytest.hookimpl(hookwrapper=True)
def pytest_report_from_serializable(data):
    outcome = yield
    report = outcome.get_result()
    if report is not None and report.when == "call":
        report.mood = data.get("mood", "none") + " and here"

def pytest_runtest_logreport(report):
    if report.when == "call":
        print("MOOD", report.mood)
"""


def test_plugins_that_make_reports_travel_are_asked_on_both_sides(pair: Callable[[str], Pair]) -> None:
    both = pair("basic")
    folder = both.local / "tests" / "moody"
    folder.mkdir()
    (folder / "conftest.py").write_text(MOOD_THERE)
    (folder / "test_moods.py").write_text("def test_here(): pass")
    plugins = both.local.parent / "plugins"
    plugins.mkdir()
    (plugins / "mood_here.py").write_text(MOOD_HERE)
    more = {"PYTHONPATH": str(plugins), "PYTEST_PLUGINS": "mood_here"}
    done = both.developer.pytest("--remote-ci", "tests/moody", "-s", cwd=both.local, env=more)
    assert done.code == 0, done.text
    assert "MOOD there and here" in done.out
