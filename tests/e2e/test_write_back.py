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
