"""Kept folders over real HTTP, and as the commands show them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.http_server import Person, Runner, running

from ci_runner.storage.kept_folders import KeptFolders, Project, describe
from pytest_remote_ci.cli import main


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with running(tmp_path_factory.mktemp("data")) as started:
        yield started


def keep(runner: Runner, person: Person, root: str, pattern: str = ".hypothesis", job: str = "") -> None:
    """Keep one file for a project of a user."""
    folders, project = KeptFolders(runner.data), Project(person.user.id, root, job)
    with folders.making(project) as made:
        (made / "tree" / "file").write_text("12345")
        folders.publish(project, made, describe(project, pattern, 1, 5), folders.token(project))


def listed(runner: Runner, person: Person, **params: Any) -> list[tuple[str, str, str]]:
    found = runner.get("/kept", person, params=params).json()
    return [(item["root"], item["job"], item["pattern"]) for item in found]


def test_people_see_and_clear_their_own(runner: Runner) -> None:
    ann, bob = runner.person(), runner.person()
    for person in (ann, bob):
        keep(runner, person, "/home/dev/a")
    keep(runner, ann, "/home/dev/a", ".benchmarks")
    keep(runner, ann, "/home/dev/b", job="tests")
    item = runner.get("/kept", bob).json()[0]
    assert item.pop("at").endswith("Z")
    assert item == {
        "root": "/home/dev/a",
        "job": "",
        "pattern": ".hypothesis",
        "files": 1,
        "bytes": 5,
        "problem": None,
    }
    ofa = [("/home/dev/a", "", ".benchmarks"), ("/home/dev/a", "", ".hypothesis")]
    assert listed(runner, ann) == [*ofa, ("/home/dev/b", "tests", ".hypothesis")]
    assert listed(runner, ann, root="/home/dev/a") == ofa
    assert listed(runner, ann, root="/home/dev") == []
    assert runner.request("DELETE", "/kept", ann, params={"root": "/home/dev/a"}).json() == {"removed": 2}
    assert listed(runner, ann) == [("/home/dev/b", "tests", ".hypothesis")]
    assert runner.request("DELETE", "/kept", ann).json() == {"removed": 1}
    assert runner.request("DELETE", "/kept", ann).json() == {"removed": 0}
    assert len(listed(runner, bob)) == 1


def test_the_commands(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    person = runner.person()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)

    def command(*args: str) -> str:
        assert main.main(["keep", *args, "--url", runner.url, "--api-key", person.key]) == 0
        return capsys.readouterr().out

    assert command("list") == "Nothing is kept.\n"
    assert command("list", "--json") == "[]\n"
    keep(runner, person, str(tmp_path))
    keep(runner, person, "/elsewhere", job="tests")
    KeptFolders(runner.data).complain(
        Project(person.user.id, str(tmp_path)), ".hypothesis", "was not kept: it is too large"
    )
    lines = command("list").splitlines()
    assert lines[0].split() == ["SIZE", "FILES", "CHANGED", "FOLDER"]
    assert lines[1].split()[:3] == ["5", "B", "1"]
    assert lines[1].endswith(" .hypothesis  (the last job's was not kept: it is too large)")
    assert len(lines) == 2
    assert command("list", "--everywhere").splitlines()[1].endswith(".hypothesis  of /elsewhere  (job tests)")
    assert len(json.loads(command("list", "--everywhere", "--json"))) == 2
    assert command("clear") == "Removed 1 kept folder.\n"
    assert command("clear", "--everywhere", "--json") == '{\n  "removed": 1\n}\n'
