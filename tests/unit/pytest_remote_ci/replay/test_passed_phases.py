"""Reports of phases that only passed: what pytest makes of the long form, made from the short one."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_remote_ci.replay.decode import Reports, _with_plain_extras
from pytest_remote_ci.replay.paths import PathMapper
from pytest_remote_ci.wire import records as wire

LOCATION = ("test_x.py", 3, "test_y")
PHASES = ("setup", "call", "teardown")
KEYWORDS = {"test_y": 1, "test_x.py": 1, "there": 1}


def short(when: str, **more: Any) -> wire.Passed:
    known: dict[str, Any] = {"keywords": list(KEYWORDS)} if when == "setup" else {}
    return wire.Passed(
        id="test_x.py::test_y", when=when, duration=0.25, start=1.5, stop=1.75, **{**known, **more}
    )


def long(when: str) -> wire.Report:
    data: dict[str, object] = {
        "nodeid": "test_x.py::test_y",
        "location": list(LOCATION),
        "keywords": KEYWORDS,
        "outcome": "passed",
        "longrepr": None,
        "when": when,
        "user_properties": [],
        "sections": [],
        "duration": 0.25,
        "start": 1.5,
        "stop": 1.75,
        "$report_type": "TestReport",
    }
    return wire.Report(d=data)


@pytest.fixture
def config(pytester: pytest.Pytester) -> pytest.Config:
    return pytester.parseconfigure("-p", "no:remote_ci")


def made(config: pytest.Config) -> Reports:
    places = PathMapper(config.rootpath)
    places.learn("/somewhere/there")
    return Reports(config, places, lambda line: None)


def said(report: Any) -> dict[str, Any]:
    values = {**vars(report), "nodeid": report.nodeid}
    # A node id taken apart is compared as text; what kind of report it was is left over from pytest's own decoding.
    return {name: value for name, value in values.items() if name not in ("_id", "$report_type")}


def test_a_short_report_is_the_long_one(config: pytest.Config) -> None:
    shorts, longs = made(config), made(config)
    for when in PHASES:
        found, expected = shorts.passes.report(short(when), LOCATION), longs.report(long(when))
        assert type(found) is type(expected) is pytest.TestReport
        assert said(found) == said(expected)
        assert config.rootpath.name in found.keywords


def test_what_follows_knows_what_was_said(config: pytest.Config) -> None:
    reports = made(config)
    reports.passes.report(short("setup", location=("test_z.py", 1, "other")), LOCATION)
    data = {
        "nodeid": "test_x.py::test_y",
        "outcome": "failed",
        "longrepr": "no",
        "when": "call",
        "duration": 1.0,
    }
    later = reports.report(wire.Report(d={**data, "$report_type": "TestReport", "sections": [["a", "b"]]}))
    assert later.location == ("test_z.py", 1, "other")
    assert later.keywords.keys() == {"test_y", "test_x.py", config.rootpath.name}
    assert later.sections == [("a", "b")]
    assert reports.passes.report(short("teardown"), LOCATION).location == later.location


def test_what_came_before_at_length_is_known(config: pytest.Config) -> None:
    reports = made(config)
    first = long("setup")
    more = {"user_properties": [["a", 1]], "sections": [["b", "c"]]}
    reports.report(first.replace(d={**first.d, **more}))
    found, expected = reports.passes.report(short("call"), LOCATION), made(config).report(long("call"))
    assert said(found) == said(expected)
    assert type(found.location) is tuple


class Decides:
    """A plugin here that says what a test is."""

    def pytest_report_teststatus(self, report: Any) -> Any:
        return "fine", "f", "FINE"


def test_its_status_goes_without_saying_unless_a_plugin_here_decides(config: pytest.Config) -> None:
    reports = made(config)
    statuses = []
    for when in PHASES:
        report = reports.passes.report(short(when), LOCATION)
        statuses.append(reports.status(report))
        assert statuses[-1] == config.hook.pytest_report_teststatus(report=report, config=config)
        assert reports.status(longest := reports.report(long(when))) is None, longest
    assert statuses == [("", "", ""), ("passed", ".", "PASSED"), ("", "", "")]
    config.pluginmanager.register(Decides())
    assert reports.status(reports.passes.report(short("call"), LOCATION)) is None


def test_a_phase_that_pytest_does_not_have_is_no_report(config: pytest.Config) -> None:
    with pytest.raises(KeyError):
        made(config).passes.report(short("later"), LOCATION)


@pytest.mark.parametrize("key", ["extras", "extra"])
@pytest.mark.parametrize(
    ("extension", "content", "named"),
    [
        ("png", "iVBORw0KGgo=", "png"),
        ("txt", "as it was", "txt"),
        ("txt", "x\n>>> import os\n", "log"),
        ("py", "import os", "bin"),
        ("/" * 250 + "tmp/conftest.py", "import os", "bin"),
        ("../../conftest.py", "import os", "bin"),
        (["py"], "import os", "bin"),
        (None, "<p>", None),
    ],
)
def test_extras_name_files_by_known_ends_only(
    key: str, extension: Any, content: str, named: str | None
) -> None:
    """pytest-html makes the end a part of a path, of which it takes the last 255 characters: that was any file."""
    data: dict[str, Any] = {
        key: [{"name": "n", "format_type": "text", "content": content, "extension": extension}, "no extra"]
    }
    _with_plain_extras(data)
    assert [extra["extension"] for extra in data[key]] == [named]
