"""How long the phases of a job took: measured on both sides, stored with the job, shown where something was cold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.developer import Developer

from pytest_remote_ci.client import delta

pytestmark = pytest.mark.parametrize("runner", ["process"], indirect=True)

#: What is measured in each session that ran tests.
ALWAYS = {
    *("start", "collect", "pack", "upload", "queue", "workspace", "environment"),
    *("container", "pytest", "tests", "end"),
}


def own(text: str) -> str:
    """The last line of the client's own."""
    return [line for line in text.splitlines() if line.startswith("remote-ci: ")][-1]


def test_cold_sessions_say_why_and_all_are_measured(
    developer: Developer, project: Callable[[str], Path]
) -> None:
    folder = project("dummy_project")
    for number in range(delta.SMALL_FILES + 1):
        (folder / f"data{number}.txt").write_text(str(number))
    first = developer.pytest(cwd=folder)
    assert first.code == 0, first
    assert "project sent whole (" in own(first.err)
    assert ": the runner had none of it; environment built in " in own(first.err)
    assert own(first.err).endswith(": the first time for this project")

    again = developer.pytest("-v", cwd=folder)
    assert " in all: start " in own(again.err)
    assert "built" not in own(again.err)

    with (folder / "requirements.txt").open("a") as file:
        file.write("\niniconfig\n")
    changed = developer.pytest(cwd=folder)
    assert own(changed.err).endswith(" s: requirements.txt changed")

    job = str(developer.jobs()[0]["job_id"])
    timing = json.loads(developer.remote_ci("show", job, "--timing", "--json").out)
    assert timing["phases"].keys() == ALWAYS
    assert timing["cold"][-1] in changed.err
    shown = developer.remote_ci("show", job, "--timing").out.splitlines()
    assert [line.split()[0] for line in shown[: len(ALWAYS)]] == list(timing["phases"])
    assert shown[-1] == timing["cold"][-1]
    assert "timing" not in developer.remote_ci("show", job).out
