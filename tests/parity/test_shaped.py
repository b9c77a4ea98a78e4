"""Reports that the project's own hooks change: written to any place, and complete after a crash of pytest."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from support.developer import run

from .comparison import Pair
from .environments import Equipped
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
    remote = both.developer.pytest(*options(folder, both.local), cwd=both.local, COLUMNS="100", env=env)
    both = around(both)
    difference = both.difference(direct, remote)
    assert not difference, difference
    compare(both, "out/r.html", html_text)
    compare(both, "out/r.json", json_lines)
    assert "Shaped by the project" in (both.local / "out" / "r.html").read_text()
    assert files(both.local / "out") == files(both.direct / "out")
    assert "fetched: " in remote.err
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
    assert ("--html: written on the runner, not fetched" in remote.err) is not is_here


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

TESTS = """
import os

def test_before():
    pass

def test_dies():
    os._exit(3)

def test_after():
    assert 0
"""
HERE = "pytest died in the job, so the HTML and JSON reports were written here"


def with_crash(both: Pair, *, restarts: int = 3) -> None:
    (both.local / "tests" / "test_crash.py").write_text(TESTS)
    (both.local / "pyproject.toml").write_text(f"[tool.remote-ci]\nrestarts = {restarts}\n")


@pytest.mark.parametrize(("restarts", "ran"), [(3, 3), (0, 2)])
def test_after_a_crash_the_report_has_all_results_and_a_line_says_what_is_missing(
    both: Pair, restarts: int, ran: int
) -> None:
    with_crash(both, restarts=restarts)
    files = ("--html=out/r.html", "--json-report", "--json-report-file=out/r.json")
    remote = both.remotely(*QUIET, *files, "tests/test_crash.py")
    assert remote.code == 1, remote.text
    assert HERE in remote.err
    found = json.loads((both.local / "out" / "r.json").read_text())
    assert [test["outcome"] for test in found["tests"]] == ["passed", "failed", "failed"][:ran]
    assert "shaped" not in found
    text = (both.local / "out" / "r.html").read_text()
    for name in ("test_before", "test_dies", "test_after")[:ran]:
        assert f"tests/test_crash.py::{name}" in text
    assert "Shaped by the project" not in text


def test_after_a_crash_a_line_names_reports_that_have_only_the_rest(
    equipped: Equipped, bare: Path, tmp_path: Path
) -> None:
    both = equipped.pair("shaped", "reporters", bare, tmp_path)
    with_crash(both)
    files = ("--report-log=r.jsonl", "--json-report", "--json-report-file=r.json")
    remote = both.remotely(*QUIET, *files, "tests/test_crash.py")
    assert remote.code == 1, remote.text
    assert "r.json, r.jsonl: incomplete, because pytest died in the job" in remote.err
    text = (both.local / "r.jsonl").read_text()
    assert "test_crash.py::test_after" in text
    assert "test_crash.py::test_before" not in text
    assert HERE not in remote.err


def test_the_text_command_brings_a_report_outside_home_too(both: Pair) -> None:
    done = both.developer.remote_ci(
        "pytest", *QUIET, "--json-report", "--html=../out/r.html", "--junitxml=../out/j.xml", cwd=both.local
    )
    assert done.code == 1, done.text
    assert files(both.local.parent / "out") == ["assets/style.css", "j.xml", "r.html"]
