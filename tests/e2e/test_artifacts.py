"""Files that a run leaves behind come home: coverage and reports to their places, artifacts to a folder."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support.developer import Developer

pytestmark = pytest.mark.docker

TEST = """
import os, pathlib, signal
from half import half

def test_half():
    assert half(4) == 2

def test_leaves_files():
    out = pathlib.Path("out")
    (out / "deep").mkdir(parents=True)
    (out / "deep" / "log.txt").write_text("left behind")
    (out / "tool").write_text("#!/bin/sh")
    (out / "tool").chmod(0o755)
    pathlib.Path("data.txt").write_text("changed")

def test_hostile():
    hostile = pathlib.Path("hostile")
    hostile.mkdir()
    (hostile / "link").symlink_to("/etc/passwd")
    (hostile / "folder").symlink_to("/etc")
    os.mkfifo(hostile / "pipe")
    (hostile / "two\\nlines").write_text("x")
    os.truncate(os.open(hostile / "sparse", os.O_CREAT | os.O_RDWR), 1 << 26)
    (hostile / "fine").write_text("fine")
    (hostile / "fine").chmod(0)
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A project whose tests leave files."""
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "requirements.txt").write_text("pytest\npytest-cov\n")
    (folder / "half.py").write_text(
        "def half(number):\n    if number < 0:\n        return 0\n    return number // 2\n"
    )
    (folder / "test_half.py").write_text(TEST)
    (folder / "data.txt").write_text("as it was")
    (folder / "same.txt").write_text("never touched")
    return folder


@pytest.mark.sampled(1)
@pytest.mark.parametrize("mode", [[], ["--remote-ci-text"]], ids=["native", "text"])
def test_coverage_and_reports_come_home(developer: Developer, suite: Path, mode: list[str]) -> None:
    done = developer.pytest(
        *mode,
        "--cov=half",
        "--cov-report=xml:out/cov.xml",
        "--cov-report=html",
        "--junitxml=out/junit.xml",
        "-p",
        "no:cacheprovider",
        "test_half.py::test_half",
        cwd=suite,
    )
    assert done.code == 0, done.text
    assert "remote-ci: fetched: .coverage, htmlcov/ (" in done.err, done.text
    assert "out/cov.xml" in done.err
    assert not (suite / ".remote-ci-artifacts").exists()
    with sqlite3.connect(suite / ".coverage") as connection:
        assert connection.execute("SELECT path FROM file").fetchall() == [(str(suite / "half.py"),)]
    connection.close()
    report = subprocess.run(
        [sys.executable, "-m", "coverage", "report", "-m"],
        cwd=suite,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "half.py" in report.stdout, report
    assert "75%" in report.stdout
    assert ElementTree.parse(suite / "out/cov.xml").findtext("sources/source") == str(suite)
    assert ElementTree.parse(suite / "out/junit.xml").find(".//testcase") is not None
    assert (suite / "htmlcov/index.html").is_file()


def test_artifacts_come_into_a_folder(developer: Developer, suite: Path) -> None:
    done = developer.pytest(
        "--remote-ci-artifact=out",
        "--remote-ci-artifact",
        "*.txt",
        "--remote-ci-artifact=dist/*.whl",
        "-k",
        "leaves",
        cwd=suite,
    )
    assert done.code == 0, done.text
    [job] = developer.jobs()
    folder = suite / ".remote-ci-artifacts" / job["job_id"]
    assert f"3 artifacts (27 B) in .remote-ci-artifacts/{job['job_id']}" in done.err
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {"out/deep/log.txt", "out/tool", "data.txt"}, "what was sent and is as it was is none"
    assert (folder / "data.txt").read_text() == "changed"
    assert (folder / "out/tool").stat().st_mode & 0o100
    assert (suite / "data.txt").read_text() == "as it was"
    # The next submission does not send them.
    listing = developer.pytest("--remote-ci-dry-run", cwd=suite)
    assert ".remote-ci-artifacts" not in listing.out
    events = developer.runner.get(f"/jobs/{job['job_id']}/events?view=report", developer.key)
    assert "nothing matches 'dist/*.whl'" in "".join(event.get("data", "") for event in events)


def test_hostile_files_stay_where_they_are(developer: Developer, suite: Path) -> None:
    done = developer.remote_ci(
        "submit", "--artifact", "hostile", "--artifacts-dir", "kept", "--", "-k", "hostile", cwd=suite
    )
    assert done.code == 0, done.text
    kept = suite / "kept/hostile"
    assert {path.name for path in kept.iterdir()} == {"fine", "sparse"}
    assert (kept / "fine").read_text() == "fine"
    for words in (
        "'hostile/folder' is a link (1 more like it)",
        "'hostile/pipe' is not a regular file",
        "has a control character",
    ):
        assert words in done.text
    assert "root:" not in done.text
    [job] = developer.jobs()
    listed = developer.remote_ci("artifacts", job["job_id"], "--list", cwd=suite)
    assert listed.out == "           4  hostile/fine\n    67108864  hostile/sparse\n"
    fetched = developer.remote_ci("artifacts", job["job_id"], "-d", "again", cwd=suite)
    assert fetched.code == 0, fetched.text
    assert (suite / "again/hostile/fine").read_text() == "fine"
    described = json.loads(developer.remote_ci("artifacts", job["job_id"], "--json", cwd=suite).out)
    assert [item["path"] for item in described] == ["hostile/fine", "hostile/sparse"]


EVIL = """
import pathlib

def test_leaves_what_the_next_pytest_would_run():
    evil = f"open({str(PWNED)!r}, 'w')\\ndef test_evil(): pass\\n"
    for folder in ("htmlcov", "site", "kept/sub"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        for name in ("conftest.py", "test_evil.py", "__init__.py", "Makefile", ".envrc", ".gitattributes"):
            pathlib.Path(folder, name).write_text(evil)
        pathlib.Path(folder, "test_evil.txt").write_text(">>> " + evil)
        pathlib.Path(folder, "index.html").write_text("<!DOCTYPE html><html>coverage.py</html>")
    pathlib.Path("coverage.xml").write_text(evil)
    pathlib.Path(".coverage").write_text(evil)
"""


@pytest.mark.parametrize("mode", [[], ["--remote-ci-text"]], ids=["native", "text"])
def test_the_next_local_pytest_runs_nothing_of_a_job(
    developer: Developer, suite: Path, tmp_path: Path, mode: list[str]
) -> None:
    (suite / "test_half.py").write_text(EVIL.replace("PWNED", repr(str(tmp_path / "pwned"))))
    done = developer.pytest(
        *mode, "--cov-report=html:site", "--remote-ci-artifact=kept", "-p", "no:cacheprovider", cwd=suite
    )
    assert done.code == 0, done.text
    for folder in ("htmlcov", "site"):
        assert [path.name for path in (suite / folder).iterdir()] == ["index.html"]
    assert not (suite / "coverage.xml").exists()
    assert not (suite / ".coverage").exists()
    assert "remote-ci: left out: " in done.err
    [job] = developer.jobs()
    kept = suite / ".remote-ci-artifacts" / job["job_id"] / "kept/sub"
    assert {"conftest.py", "test_evil.py", ".envrc"} <= {path.name for path in kept.iterdir()}
    (suite / "test_half.py").write_text("def test_mine(): pass\n")
    for arguments in ([], ["-o", "norecursedirs=nothing"]):
        local = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=suite,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "1 passed" in local.stdout, local.stdout
    assert not (tmp_path / "pwned").exists()


def test_another_users_artifacts_cannot_be_had(developer: Developer, another: Developer, suite: Path) -> None:
    done = developer.remote_ci("submit", "--artifact", "out", "--", "-k", "leaves", cwd=suite)
    assert done.code == 0, done.text
    [job] = developer.jobs()
    refused = another.remote_ci("artifacts", job["job_id"])
    assert refused.code == 77
    assert "Access denied" in refused.err
    assert refused.out == ""
    waited = developer.remote_ci("wait", job["job_id"], cwd=developer.home)
    assert f"remote-ci artifacts {job['job_id']}" in waited.err
    unknown = developer.remote_ci("artifacts", "nobody")
    assert (unknown.code, unknown.err) == (4, "Error: Job not found: nobody\n")


def test_what_became_of_each_test_is_kept(developer: Developer, suite: Path) -> None:
    (suite / "test_half.py").write_text(
        "import os, pytest\n"
        "def test_good():\n    pass\n"
        "def test_wobbles():\n    assert os.environ['WOBBLE'] == 'no'\n"
        "@pytest.mark.xfail\ndef test_xfails():\n    assert 0\n"
        "@pytest.fixture\ndef broken():\n    raise OSError('no')\n"
        "def test_error(broken):\n    pass\n"
    )
    for wobble in ("no", "yes"):
        done = developer.pytest("--remote-ci-env=WOBBLE", cwd=suite, WOBBLE=wobble)
        assert done.code == 1, done.text
    [last, _] = developer.jobs()
    assert last["counts"] == {"passed": 1, "xfailed": 1, "failed": 1, "error": 1}
    shown = developer.remote_ci("show", last["job_id"], "--tests", cwd=suite)
    assert [line.split()[0] for line in shown.out.splitlines()[-4:]] == [
        "error",
        "failed",
        "xfailed",
        "passed",
    ]
    flaky = developer.remote_ci("tests", "--flaky", cwd=suite)
    assert "test_half.py::test_wobbles" in flaky.out, flaky.text
    assert len(flaky.out.splitlines()) == 3
    failing = developer.remote_ci("tests", "--failing-since", cwd=suite)
    assert last["job_id"] in failing.out
