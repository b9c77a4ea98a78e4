"""One vocabulary for all commands: ``--json``, ``-d/--dir``, ``JOB`` and ``RUN``, one form of errors, short ids."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_runner import KEY, FakeRunner, complete, fake_runner, log

from ci_runner.cli import make_parser as make_runner_parser
from pytest_remote_ci.cli import main
from pytest_remote_ci.client.client import Client
from pytest_remote_ci.client.ids import PAGE, whole_id
from pytest_remote_ci.errors import AmbiguousId, JobNotFound

PAGE_OF_COMMANDS = Path(__file__).parents[4] / "docs" / "reference" / "commands.md"

#: Commands that print no data: one stores the key, the other is a session of pytest.
NO_DATA = {"remote-ci login", "remote-ci pytest"}

#: Programs that run until they are stopped, or for minutes: their output is a log.
RUNNER_LOGS = {"ci-runner serve", "ci-runner reconcile", "ci-runner image build"}


def walk(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yield all commands without sub-commands."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for word, child in action.choices.items():
            yield from walk(f"{name} {word}", child)
    if not below:
        yield name, parser


COMMANDS = dict(walk("remote-ci", main.make_parser()))
RUNNER_COMMANDS = dict(walk("ci-runner", make_runner_parser()))


def spellings(parser: argparse.ArgumentParser) -> set[str]:
    return {text for action in parser._actions for text in action.option_strings}


def test_the_walk_finds_the_commands() -> None:
    assert {"remote-ci list", "remote-ci pipeline artifacts", "remote-ci pipeline run"} <= COMMANDS.keys()
    assert RUNNER_COMMANDS.keys() >= RUNNER_LOGS | {"ci-runner doctor", "ci-runner admin key revoke"}


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NO_DATA))
def test_each_command_with_data_has_json(name: str) -> None:
    assert "--json" in spellings(COMMANDS[name])


@pytest.mark.parametrize("name", sorted(RUNNER_COMMANDS.keys() - RUNNER_LOGS))
def test_each_result_of_the_runner_has_json(name: str) -> None:
    assert "--json" in spellings(RUNNER_COMMANDS[name])
    assert f"`{name}`" in PAGE_OF_COMMANDS.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_names_of_arguments_are_the_same_everywhere(name: str) -> None:
    for action in COMMANDS[name]._actions:
        if action.metavar == "DIR":
            assert {"-d", "--dir"} <= set(action.option_strings)
        if action.dest == "id":
            assert action.metavar == ("RUN" if " pipeline " in name else "JOB")
        for option, metavar in (("--job", "JOB"), ("--stage", "STAGE"), ("--api-key", "KEY")):
            if option in action.option_strings:
                assert action.metavar == metavar
        assert action.help, f"{action.dest} needs a help text"


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() - NO_DATA))
def test_the_page_of_commands_has_each_of_them(name: str) -> None:
    assert f"`{name}" in PAGE_OF_COMMANDS.read_text()


@pytest.fixture
def runner() -> Iterator[FakeRunner]:
    with fake_runner() as runner:
        yield runner


@pytest.fixture
def project(runner: FakeRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("")
    (folder / "test_it.py").write_text("def test_it(): pass\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("REMOTE_CI_URL", runner.url)
    monkeypatch.setenv("REMOTE_CI_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ["submit"],
        ["submit", "--async"],
        ["submit", "--dry-run"],
        ["wait", "--all", "5eed"],
        ["list"],
        ["show", "5eed"],
        ["artifacts", "5eed"],
    ],
)
def test_stdout_is_one_json_document(
    runner: FakeRunner, project: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    runner.script = [log("output of the tests\n"), complete()]
    job = runner.add_job(*runner.script, job_id="5eed0000-0000-4000-8000-000000000000")
    runner.intercept = lambda request: (200, [], {}) if request.path.endswith("/artifacts") else None
    assert main.main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    if words[0] == "wait":
        assert found["job_id"] == job.id
    if "--dry-run" in words:
        assert {file["path"] for file in found["files"]} == {"pyproject.toml", "test_it.py"}


def test_cancel_prints_the_job(runner: FakeRunner, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = runner.add_job(log("x"))
    assert main.main(["cancel", job.id[:13], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["job_id"] == job.id
    assert job.cancelled


@pytest.mark.parametrize("command", [["wait", "--all"], ["show"], ["cancel"], ["artifacts"]], ids=" ".join)
def test_a_job_is_named_by_the_beginning_of_its_id(
    runner: FakeRunner, project: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    ids = [f"ab{number}00000-0000-4000-8000-000000000000" for number in range(2)]
    for job_id in ids:
        runner.add_job(log("x"), complete(), job_id=job_id)
    assert main.main([*command, "ab"]) == 4
    assert capsys.readouterr().err == (
        f"Error: Several jobs begin with ab: {ids[1]}, {ids[0]}; give more of the id\n"
    )
    assert main.main([*command, "ac"]) == 4
    assert capsys.readouterr().err == "Error: Job not found: ac\n"
    assert main.main([*command, ids[0][:3] + "9"]) == 4
    capsys.readouterr()
    runner.intercept = lambda request: (200, [], {}) if request.path.endswith("/artifacts") else None
    main.main([*command, "ab1"])
    assert f"/jobs/{ids[1]}" in runner.requests[-1].path


def test_candidates_are_looked_for_on_all_pages_and_a_few_are_listed() -> None:
    ids = [f"{number:08x}-0000" for number in range(2 * PAGE)]

    def pages(before: str | None) -> list[str]:
        start = 0 if before is None else ids.index(before) + 1
        return ids[start : start + PAGE]

    assert whole_id("run", "000007cf", pages) == "000007cf-0000", "on the second page"
    assert whole_id("run", ids[3], pages) == ids[3]
    with pytest.raises(
        AmbiguousId, match=r"^Several runs begin with 0000000: .{13}(, .{13}){4} and more; give"
    ):
        whole_id("run", "0000000", pages)
    for word in ("", "f"):
        with pytest.raises(JobNotFound, match=f"Run not found: {word}$"):
            whole_id("run", word, pages)


def test_odd_ids_are_no_candidates() -> None:
    with pytest.raises(JobNotFound):
        whole_id("job", "a", lambda before: ["a" * 5000])


@pytest.mark.parametrize(
    "words",
    [
        ["show", "nine"],
        ["list", "--limit", "0"],
        ["nonsense"],
        ["submit", "--", "--nothing", "-x"],
        ["pipeline", "report", "--job", "x"],
        ["pipeline", "check", "none.txt"],
        ["pipeline", "check", "none.yaml"],
        ["pipeline", "status", "nine"],
    ],
)
def test_an_error_has_one_prefix(
    runner: FakeRunner, project: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    answers: dict[str, tuple[int, Any, dict[str, str]]] = {
        "/submit-async": (422, {"detail": "no"}, {}),
        "/runs": (200, [], {}),
    }
    runner.intercept = lambda request: answers.get(request.path)
    try:
        code: object = main.main(words)
    except SystemExit as error:
        code = error.code
    assert code in (1, 4, 70), "as in the table of exit codes"
    found = capsys.readouterr()
    errors = [line for line in found.err.splitlines() if "rror" in line.partition(":")[0]]
    assert len(errors) == 1
    assert errors[0].startswith("Error: ")
    assert not errors[0].startswith("Error: Error")


def test_the_client_finds_jobs_by_the_beginning(runner: FakeRunner) -> None:
    job = runner.add_job()
    with Client(runner.url, KEY) as client:
        assert client.job_id(job.id[:8]) == job.id
        requests = len(runner.requests)
        assert client.job_id(job.id) == job.id
        assert len(runner.requests) == requests, "a whole id is not looked up"
