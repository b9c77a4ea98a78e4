"""What tests do to files of the project comes home where an option asks for it, and is said else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.developer import Developer
from support.runner import Runner

CONFTEST = """
def pytest_addoption(parser):
    parser.addoption("--snapshot-update", action="store_true")
"""

TEST = """
import pathlib, shutil

def test_writes(request):
    if request.config.getoption("--snapshot-update"):
        folder = pathlib.Path("__snapshots__")
        (folder / "a.ambr").write_text("new")
        (folder / "b.ambr").write_text("created")
        (folder / "old.ambr").unlink()
        (folder / "evil.py").write_text("raise SystemExit")
        (folder / "mine.ambr").write_text("theirs")
    pathlib.Path("notes").mkdir()
    pathlib.Path("notes/data.csv").write_text("1,2")
    pathlib.Path("notes/link").symlink_to("/etc/passwd")
    pathlib.Path("ignored.log").write_text("x")
    pathlib.Path("readme").write_text("changed")
    pathlib.Path("fixtures").rename("moved")
    with open("conftest.py", "a") as file:
        file.write("# more")
    with open("test_it.py", "a") as file:
        file.write("# more")
    shutil.rmtree("gone")
"""


@pytest.fixture
def developer(runner: Runner, tmp_path: Path) -> Developer:
    """The one user of this runner."""
    home = tmp_path / "home"
    home.mkdir()
    return Developer(runner, home, runner.key)


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A project whose tests change it."""
    folder = tmp_path / "suite"
    for path, text in {
        "conftest.py": CONFTEST,
        "test_it.py": TEST,
        ".gitignore": "*.log\n",
        "__snapshots__/a.ambr": "old",
        "__snapshots__/old.ambr": "old",
        "__snapshots__/mine.ambr": "old",
        "__snapshots__/same.ambr": "old",
        "readme": "as it was",
        "fixtures/deep/x.json": "{}",
        "gone/y.json": "[]",
    }.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def texts(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and not {"__pycache__", ".pytest_cache"} & set(path.parts)
    }


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "runner", [pytest.param("docker", marks=pytest.mark.docker), "process"], indirect=True
)
def test_updates_come_home_and_the_rest_is_pulled(developer: Developer, suite: Path) -> None:
    before = texts(suite)
    done = developer.pytest("-q", cwd=suite)
    assert done.code == 0, done.text
    said = re.search(
        r"remote-ci: 7 files of the project were changed by the tests: conftest.py, fixtures/deep/x.json, gone/y.json, "
        r"…; bring them here with: remote-ci pull (\S+)",
        done.err,
    )
    assert said is not None, done.err
    assert texts(suite) == before

    job = said[1]
    listed = developer.remote_ci("pull", job, "--dry-run", cwd=suite)
    assert listed.code == 0
    assert listed.out.splitlines() == [
        "M conftest.py  (not taken: would be executed or obeyed here)",
        "D fixtures/deep/x.json",
        "D gone/y.json",
        "A moved/deep/x.json",
        "A notes/data.csv",
        "M readme",
        "M test_it.py  (not taken: would be executed or obeyed here)",
    ]
    assert f"remote-ci pull {job} conftest.py" in listed.err
    assert texts(suite) == before

    (suite / "readme").write_text("changed here")
    pulled = developer.remote_ci("pull", job, cwd=suite)
    assert pulled.code == 1
    assert "M readme  (not taken: changed here since it was sent)" in pulled.out
    assert f"remote-ci pull {job} --force readme" in pulled.err
    after = texts(suite)
    assert after["readme"] == "changed here"
    assert {"fixtures/deep/x.json", "gone/y.json", "notes/link"}.isdisjoint(after)
    assert (after["moved/deep/x.json"], after["notes/data.csv"]) == ("{}", "1,2")
    assert after["conftest.py"] == CONFTEST
    named = developer.remote_ci("pull", job, "--force", "readme", "test_*.py", cwd=suite)
    assert named.code == 0, named.text
    after = texts(suite)
    assert (after["readme"], after["test_it.py"]) == ("changed", TEST + "# more")
    again = developer.remote_ci("pull", job, "readme", cwd=suite)
    assert (again.code, again.out) == (0, "M readme  (already here)\n")


@pytest.mark.parametrize("runner", ["process"], indirect=True)
def test_an_option_that_asks_for_updates_gets_them(developer: Developer, suite: Path) -> None:
    done = developer.pytest("-q", "--snapshot-update", cwd=suite)
    assert done.code == 0, done.text
    after = texts(suite)
    assert (
        "remote-ci: updated here: __snapshots__/a.ambr, __snapshots__/b.ambr, __snapshots__/mine.ambr"
        in done.err
    )
    assert "remote-ci: not updated here: __snapshots__/evil.py would be executed or obeyed here" in done.err
    assert (after["__snapshots__/a.ambr"], after["__snapshots__/b.ambr"]) == ("new", "created")
    assert {"__snapshots__/old.ambr", "__snapshots__/evil.py"}.isdisjoint(after)
    assert "remote-ci: 7 files of the project were changed by the tests" in done.err


PIPELINE = """
[tool.remote-ci.pipelines.ci]
stages = ["all"]

[tool.remote-ci.pipelines.ci.jobs.tests]
stage = "all"
matrix = { flavour = ["mint", "lime"] }
env = { FLAVOUR = "{flavour}" }
artifacts = ["kept/**"]

[tool.remote-ci.pipelines.ci.jobs.build]
stage = "all"
script = ["echo built > built.txt"]
"""

PIPELINE_TEST = """
import os, pathlib

def test_writes(request):
    flavour = os.environ["FLAVOUR"]
    pathlib.Path("notes.csv").write_text(flavour)
    pathlib.Path("kept").mkdir()
    pathlib.Path("kept/a.txt").write_text(flavour)
    if request.config.getoption("--snapshot-update"):
        pathlib.Path("__snapshots__").mkdir(exist_ok=True)
        pathlib.Path("__snapshots__/same.ambr").write_text("new")
        pathlib.Path(f"__snapshots__/{flavour}.ambr").write_text(flavour)
        pathlib.Path("__snapshots__/a.ambr").write_text(flavour)
"""


def lines_about_jobs(text: str) -> dict[str, tuple[str, str]]:
    """What is said of the changes of each job → the files, and the job's id."""
    found = re.findall(
        r"^remote-ci: (.+): 1 file of the project was changed by the (?:tests|job): (\S+); "
        r"bring it here with: remote-ci pull (\S+)$",
        text,
        re.MULTILINE,
    )
    return {job: (path, job_id) for job, path, job_id in found}


@pytest.mark.parametrize("runner", ["process"], indirect=True)
def test_changes_by_jobs_of_a_run_are_named_or_come_home(developer: Developer, suite: Path) -> None:
    (suite / "test_it.py").write_text(PIPELINE_TEST)
    for file in (suite / "__snapshots__").iterdir():
        if file.name != "a.ambr":
            file.unlink()
    (suite / "pyproject.toml").write_text(PIPELINE)
    (suite / "requirements.txt").write_text("pytest\n")
    expected = {
        "tests (flavour=mint)": "notes.csv",
        "tests (flavour=lime)": "notes.csv",
        "build": "built.txt",
    }

    updated = developer.pytest("--remote-ci-pipeline=ci", "--snapshot-update", cwd=suite)
    named = lines_about_jobs(updated.err)
    assert (updated.code, {job: path for job, (path, _) in named.items()}) == (0, expected), updated.text
    snapshots = {path.stem: path.read_text() for path in (suite / "__snapshots__").iterdir()}
    other = {"mint": "lime", "lime": "mint"}[snapshots.pop("a")]
    assert snapshots == {"same": "new", "mint": "mint", "lime": "lime"}
    assert (
        f"remote-ci: tests (flavour={other}): not updated here: __snapshots__/a.ambr changed here since it was sent; "
        "take it with: remote-ci pull "
    ) in updated.err, updated.text
    pulled = developer.remote_ci("pull", named["tests (flavour=lime)"][1], "notes.csv", cwd=suite)
    assert (pulled.code, (suite / "notes.csv").read_text()) == (0, "lime"), pulled.text
    (suite / "notes.csv").unlink()

    command = developer.remote_ci("pipeline", "run", "ci", cwd=suite)
    named = lines_about_jobs(command.err)
    assert (command.code, {job: path for job, (path, _) in named.items()}) == (0, expected), command.text
    again = developer.remote_ci("pipeline", "rerun", "ci", "--job", "build", "--json", cwd=suite)
    assert lines_about_jobs(again.err)["build"][0] == "built.txt", again.text
    for words in ((), ("--json",)):
        status = developer.remote_ci("pipeline", "status", "ci#2", *words, cwd=suite)
        named = lines_about_jobs(status.err)
        assert {job: path for job, (path, _) in named.items()} == expected, status.text


REPORTING = """
import json, pathlib

def pytest_addoption(parser):
    parser.addoption("--ctrf")
    parser.addoption("--cucumberjson", "--cucumber-json", dest="cucumber_json_path")

def pytest_sessionfinish(session):
    for path, content in (
        (session.config.option.ctrf, {"reportFormat": "CTRF", "results": {}}),
        (session.config.option.cucumber_json_path, [{"keyword": "Feature", "uri": "a.feature"}]),
    ):
        if path:
            pathlib.Path(path).parent.mkdir(exist_ok=True)
            pathlib.Path(path).write_text(json.dumps(content))
"""


@pytest.mark.parametrize("runner", ["process"], indirect=True)
def test_reports_of_plugins_that_are_only_there_come_home(
    developer: Developer, suite: Path, tmp_path: Path
) -> None:
    (suite / "conftest.py").write_text(REPORTING)
    (suite / "test_it.py").write_text("def test_it(): pass\n")
    (suite / ".gitignore").write_text("out/\n")
    outside = tmp_path / "elsewhere" / "cucumber.json"
    outside.parent.mkdir()
    done = developer.pytest("--ctrf", "out/ctrf.json", f"--cucumberjson={outside}", cwd=suite)
    assert done.code == 0, done.text
    assert '"CTRF"' in (suite / "out" / "ctrf.json").read_text()
    assert '"Feature"' in outside.read_text()
    assert "fetched: " in done.err
    assert "out/ctrf.json" in done.err
