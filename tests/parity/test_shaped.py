"""Reports that the project's own hooks shape: written to any place, and whole after a test took pytest down."""

from __future__ import annotations

import html
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from developers import run

from .both_ways import Pair
from .equipped import Equipped
from .test_plugins import compare, html_text, json_lines

QUIET = ("-p", "no:sugar", "-p", "no:randomly")


@pytest.fixture
def both(equipped: Equipped, full: Path, tmp_path: Path) -> Pair:
    return equipped.pair("shaped", "reporters", full, tmp_path)


# -- outside of the project


def spelled(form: str, place: Path) -> tuple[str, dict[str, str]]:
    """The folder "out" beside the project `place`, as somebody may write it, and what the environment must have."""
    beside = place.parent / "out"
    return {
        "absolute": (str(beside), {}),
        "above": ("../out", {}),
        "home": ("~/out", {"HOME": str(place.parent)}),
        "variable": ("$SOMEWHERE/out", {"SOMEWHERE": str(place.parent)}),
    }[form]


def options(folder: str, place: Path) -> tuple[str, ...]:
    """pytest-json-report takes paths as they are."""
    elsewhere = place.parent / "out" if folder.startswith(("~", "$")) else folder
    return (*QUIET, f"--html={folder}/r.html", "--json-report", f"--json-report-file={elsewhere}/r.json")


def around(both: Pair) -> Pair:
    """The folders that the two projects lie in."""
    return replace(both, direct=both.direct.parent, local=both.local.parent)


@pytest.mark.parametrize("form", ["absolute", "above", "home", "variable"])
def test_a_shaped_report_outside_of_the_project_is_that_of_a_direct_run(both: Pair, form: str) -> None:
    folder, env = spelled(form, both.direct)
    directly = [str(both.python), "-m", "pytest", *options(folder, both.direct)]
    env = {**both.developer.environ(), "COLUMNS": "100", **env}
    direct = run(directly, cwd=both.direct, env={name: env[name] for name in env if "REMOTE_CI" not in name})
    folder, env = spelled(form, both.local)
    remote = both.developer.pytest(*options(folder, both.local), cwd=both.local, COLUMNS="100", **env)
    both = around(both)
    difference = both.difference(direct, remote)
    assert not difference, difference
    compare(both, "out/r.html", html_text)
    compare(both, "out/r.json", json_lines)
    assert "Shaped by the project" in (both.local / "out" / "r.html").read_text()
    assert files(both.local / "out") == files(both.direct / "out")
    assert "brought home" in remote.err
    assert not list(both.local.rglob(".remote-ci-report*")), "nothing of it is left in the project"
    for name in ("r.html", "r.json"):  # of the place of the run nothing is left
        assert str(both.developer.runner.data_dir) not in (both.local / "out" / name).read_text()


def test_a_report_outside_of_a_reporter_that_is_only_there_comes_home(
    equipped: Equipped, bare: Path, tmp_path: Path
) -> None:
    both = equipped.pair("shaped", "reporters", bare, tmp_path)
    more = ("--report-log", "../log/r.jsonl")
    remote = both.remotely(*options("../out", both.local), *more)
    direct = both.directly(*options("../out", both.direct), *more)
    assert remote.code == direct.code == 1, remote.text
    both = around(both)
    compare(both, "out/r.html", html_text)
    compare(both, "out/r.json", json_lines)
    compare(both, "log/r.jsonl", json_lines)
    assert files(both.local / "out") == files(both.direct / "out")
    assert "written on the runner" not in remote.err


@pytest.mark.parametrize("is_here", [False, True], ids=["only there", "in both places"])
def test_a_place_outside_that_the_project_itself_names_gets_nothing_from_a_job(
    equipped: Equipped, bare: Path, full: Path, tmp_path: Path, is_here: bool
) -> None:
    both = equipped.pair("shaped", "reporters", full if is_here else bare, tmp_path)
    (both.local / "pytest.ini").write_text("[pytest]\naddopts = --html=../mine.html --self-contained-html\n")
    remote = both.remotely(*QUIET, "--json-report")
    assert remote.code == 1, remote.text
    mine = both.local.parent / "mine.html"
    assert mine.exists() is is_here
    assert not is_here or "Shaped by the project" not in mine.read_text()
    assert ("--html: written on the runner, not brought back here" in remote.err) is not is_here


def test_what_is_no_file_is_not_replaced_by_a_report(both: Pair) -> None:
    device = both.local.parent / "device"
    os.mkfifo(device)
    reader = os.open(device, os.O_RDONLY | os.O_NONBLOCK)
    try:
        remote = both.remotely(*QUIET, f"--json-report-file={device}", "--json-report")
    finally:
        os.close(reader)
    assert remote.code == 1, remote.text
    assert device.is_fifo()


def test_a_link_in_the_place_of_a_report_is_written_through(both: Pair) -> None:
    kept = both.local.parent / "kept"
    kept.mkdir()
    link = both.local.parent / "latest.html"
    link.symlink_to(kept / "r.html")
    remote = both.remotely(*QUIET, "--json-report", f"--html={link}", "--self-contained-html")
    assert remote.code == 1, remote.text
    assert link.is_symlink()
    assert "Shaped by the project" in (kept / "r.html").read_text()


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# -- pytest was taken down

HOOKS = """
import pytest
from pytest_html import extras

def pytest_json_runtest_metadata(item, call):
    return {"at " + call.when: item.name}

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    report.described = item.function.__doc__
    if report.when == "call":
        report.extras = [*getattr(report, "extras", []), extras.text("of " + item.name)]

def pytest_html_results_table_row(report, cells):
    cells[1] = cells[1].replace("</td>", " (%s)</td>" % getattr(report, "described", "none"))

def pytest_html_results_table_html(report, data):
    data.append("seen: " + report.nodeid)
"""
TESTS = '''
import logging, os, warnings
import pytest

def test_before(record_property):
    """first"""
    record_property("pair", (1, 2))
    warnings.warn("before")
    logging.warning("logged before")
    print("printed before")

def test_parts(subtests):
    """parts"""
    for number in range(3):
        with subtests.test("part", number=number):
            print("part", number)
            assert number != 1

@pytest.mark.skipif("1 + 1 == 2")
def test_is_skipped():
    """skipped"""

@pytest.mark.parametrize("number", [1, 2])
def test_dies(number):
    """second"""
    print("the last words")
    DIE

@pytest.mark.xfail
def test_is_bad():
    """third"""
    assert 0

@pytest.fixture
def broken():
    raise ValueError("no fixture")

def test_is_broken(broken):
    """fourth"""
'''
AFTER = '''
def test_after():
    """last"""
    warnings.warn("after")
    assert 0
'''


def with_crashes(both: Pair, more: str, *, at_end: str = "") -> None:
    """In one place a test takes pytest down, in the other it fails."""
    for place, code in ((both.direct, 'raise RuntimeError("dies")'), (both.local, "os._exit(3)")):
        folder = place / "tests" / "more"
        folder.mkdir()
        (folder / "conftest.py").write_text(HOOKS)
        (folder / "test_more.py").write_text((TESTS + more + at_end).replace("DIE", code))


def tamed_json(path: Path) -> str:
    """Without how a test failed that died."""
    found = json.loads(path.read_text())
    for test in found.get("tests", ()):
        if "test_dies" in test["nodeid"]:
            for name in ("crash", "traceback", "longrepr"):
                test["call"].pop(name, None)
    copy = path.with_name("tamed.json")
    copy.write_text(json.dumps(found))
    return json_lines(copy)


def tamed_html(path: Path) -> str:
    def tamed(match: re.Match[str]) -> str:
        data: dict[str, Any] = json.loads(html.unescape(match[1]))
        for nodeid, results in data["tests"].items():
            for result in results if "test_dies" in nodeid else ():
                result["log"] = re.sub(r"(?s)^.*?(?=-+ Captured)", "", result["log"])
        return f'data-jsonblob="{html.escape(json.dumps(data))}"'

    copy = path.with_name("tamed.html")
    copy.write_text(re.sub(r'data-jsonblob="([^"]*)"', tamed, path.read_text()))
    return html_text(copy)


def compare_all(both: Pair, args: tuple[str, ...]) -> None:
    direct, remote = both.run(
        *QUIET, "--html=out/r.html", "--json-report", "--json-report-file=out/r.json", *args
    )
    assert (remote.code, direct.code) == (1, 1), remote.text
    assert "Shaped by the project" in (both.local / "out" / "r.html").read_text()
    compare(both, "out/r.json", tamed_json)
    compare(both, "out/r.html", tamed_html)
    assert files(both.local / "out") == files(both.direct / "out")


END = {
    "in the middle": (AFTER, ""),
    "at the end, too": (
        AFTER,
        'def test_dies_last():\n    """end"""\n    print("the last words")\n    DIE\n',
    ),
}


@pytest.mark.parametrize("end", END)
def test_a_shaped_report_has_all_tests_after_pytest_was_taken_down(both: Pair, end: str) -> None:
    more, at_end = END[end]
    with_crashes(both, more, at_end=at_end)
    compare_all(both, ("tests/test_owned.py", "tests/more"))


#: The first failure is a crash.
STOPPING = ("-x", "-k", "not parts")


def test_a_shaped_report_is_whole_where_a_crash_is_enough(both: Pair) -> None:
    with_crashes(both, AFTER)
    compare_all(both, (*STOPPING, "tests/more"))


def test_a_shaped_report_has_what_ran_where_restarts_are_used_up(both: Pair) -> None:
    with_crashes(both, AFTER)
    (both.local / "pyproject.toml").write_text("[tool.remote-ci]\nrestarts = 0\n")
    remote = both.remotely(*QUIET, "--json-report", "--json-report-file=r.json", "tests/more")
    assert remote.code == 1, remote.text
    assert "4 test(s) were not run" in remote.out
    found = json.loads((both.local / "r.json").read_text())
    assert found["shaped"] is True
    assert [test["outcome"] for test in found["tests"]] == ["passed", "failed", "skipped", "failed"]
    assert (found["exitcode"], found["summary"]["collected"]) == (1, 8)


def test_nothing_else_is_written_where_only_a_report_is_made(both: Pair) -> None:
    with_crashes(both, AFTER)
    args = (
        *STOPPING,
        "--cov=tests",
        "--cov-report=xml",
        "--log-file=out/x.log",
        "--log-file-level=INFO",
        "tests/more",
    )
    remote = both.remotely(*QUIET, "--json-report", "--json-report-file=out/r.json", *args)
    assert remote.code == 1, remote.text
    assert json.loads((both.local / "out" / "r.json").read_text())["shaped"] is True
    assert "logged before" in (both.local / "out" / "x.log").read_text()
    assert not (both.local / ".coverage").exists()
    assert not (both.local / "coverage.xml").exists()


@pytest.mark.parametrize("more", [(), STOPPING], ids=["and goes on", "and that is all"])
def test_a_hook_that_cannot_be_called_for_earlier_tests_costs_what_hooks_do(
    both: Pair, more: tuple[str, ...]
) -> None:
    with_crashes(both, AFTER)
    conftest = both.local / "tests" / "more" / "conftest.py"
    conftest.write_text(
        HOOKS + "\nSEEN = []\ndef pytest_runtest_setup(item): SEEN.append(item.nodeid)\n"
        "def pytest_html_results_table_row(report, cells):\n"
        "    if 'before' in report.nodeid: SEEN.index(report.nodeid)\n"
    )
    remote = both.remotely(
        *QUIET, "--json-report", "--html=r.html", "--self-contained-html", "tests/more", *more
    )
    assert remote.code == 1, remote.text
    assert "is without what the project's hooks do" in remote.out
    text = (both.local / "r.html").read_text()
    assert "Shaped by the project" not in text
    for name in ("test_before", "test_dies", *(() if more else ("test_after",))):
        assert name in text


def test_the_text_command_brings_a_report_outside_home_too(both: Pair) -> None:
    done = both.developer.remote_ci(
        "pytest", *QUIET, "--json-report", "--html=../out/r.html", "--junitxml=../out/j.xml", cwd=both.local
    )
    assert done.code == 1, done.text
    assert files(both.local.parent / "out") == ["assets/style.css", "j.xml", "r.html"]
