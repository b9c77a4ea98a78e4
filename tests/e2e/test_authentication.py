"""Keys from every place, wrong ones, and who may see what: the reference system's cases with our commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.developer import Developer

pytestmark = pytest.mark.docker

Project = Callable[[str], Path]
BAD_KEY = "ci_" + "x" * 46
UNKNOWN = "00000000-0000-0000-0000-000000000000"


@pytest.mark.case(13, 16, 18, 24)
@pytest.mark.parametrize("command", [["submit"], ["list"], ["wait", UNKNOWN]], ids=["submit", "list", "wait"])
def test_without_a_key_every_command_says_how_to_give_one(
    developer: Developer, project: Project, command: list[str]
) -> None:
    nobody = replace(developer, key=None)
    done = nobody.remote_ci(*command, cwd=project("dummy_project"))
    assert done.code == 77, done.text
    assert "authentication" in done.err.lower()
    for way in ("--api-key", "API_KEY", ".ci/config"):
        assert way in done.err
    assert "not found" not in done.err.lower()


@pytest.mark.case(14)
def test_a_wrong_key_is_refused(developer: Developer, project: Project) -> None:
    done = replace(developer, key=BAD_KEY).remote_ci("submit", cwd=project("dummy_project"))
    assert done.code == 77
    assert "authentication" in done.err.lower()


def test_pytest_exits_with_the_code_for_a_refused_key(developer: Developer, project: Project) -> None:
    done = replace(developer, key=BAD_KEY).pytest(cwd=project("dummy_project"))
    assert done.code == 77, done.text
    assert "Traceback" not in done.text


@pytest.mark.case(15, 17, 20)
def test_a_good_key_from_the_environment_submits_and_lists(developer: Developer, project: Project) -> None:
    done = developer.remote_ci("submit", "--async", cwd=project("dummy_project"))
    assert done.code == 0, done.text
    job = done.out.strip().removeprefix("Job submitted: ")
    assert [item["job_id"] for item in json.loads(developer.remote_ci("list", "--json").out)] == [job]


@pytest.mark.case(21)
def test_a_key_from_the_reference_systems_file(developer: Developer) -> None:
    (developer.home / ".ci").mkdir()
    (developer.home / ".ci" / "config").write_text(f"# comment\napi_key={developer.key}\n")
    assert replace(developer, key=None).remote_ci("list").code == 0


@pytest.mark.case(22, 23)
def test_a_key_on_the_command_line_beats_the_environment(developer: Developer) -> None:
    wrong = replace(developer, key=BAD_KEY)
    assert wrong.remote_ci("list").code == 77
    assert wrong.remote_ci("list", "--api-key", str(developer.key)).code == 0


def test_the_reference_systems_variables_are_honoured(developer: Developer) -> None:
    nobody = replace(developer, key=None)
    done = nobody.remote_ci(
        "list", REMOTE_CI_URL="", CI_SERVER_URL=developer.runner.url, CI_API_KEY=str(developer.key)
    )
    assert done.code == 0, done.text


@pytest.mark.case(19)
def test_a_revoked_key_stops_working(developer: Developer) -> None:
    assert developer.remote_ci("list").code == 0
    developer.runner.admin("key", "revoke", str(developer.key)[3:11])
    done = developer.remote_ci("list")
    assert done.code == 77
    assert "authentication" in done.err.lower()


@pytest.mark.case(25, 26)
def test_users_see_only_their_own_jobs(developer: Developer, another: Developer, project: Project) -> None:
    job = developer.remote_ci("submit", "--async", cwd=project("dummy_project")).out.split()[-1]
    assert json.loads(another.remote_ci("list", "--json").out) == []
    done = another.remote_ci("wait", job)
    assert done.code == 77
    assert "Access denied" in done.err, done.text
    for command in ("cancel", "show"):
        done = another.remote_ci(command, job)
        assert done.code == 77
        assert "Access denied" in done.err, done.text
    assert [item["job_id"] for item in developer.jobs()] == [job]
    assert developer.jobs()[0]["status"] != "cancelled"
