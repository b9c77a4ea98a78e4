"""Why an environment had to be built: what changed since the project's last job."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ci_runner.controller.environments.inputs import BuildTrace, RememberedInputs, difference, inputs_of
from ci_runner.dependencies.install_plan import Plan

PLAN = Plan("lines", files=(("requirements.txt", "a"),))
OTHERS = {"python": "3.12", "image": "sha256:1", "indexes": [None], "place": "/p", "packages": []}
BEFORE = inputs_of(PLAN, [["setup.cfg", "1"], ["module", "package"]], OTHERS)


def changed(plan: Plan = PLAN, rows: list[list[str]] | None = None, **others: object) -> str | None:
    """What changed since `BEFORE`."""
    rows = [["setup.cfg", "1"], ["module", "package"]] if rows is None else rows
    return difference(BEFORE, inputs_of(plan, rows, {**OTHERS, **others}))


def plan(**files: str) -> Plan:
    return Plan("lines", files=tuple((name.replace("__", "."), digest) for name, digest in files.items()))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (changed(), None),
        (changed(plan(requirements__txt="b")), "requirements.txt changed"),
        (changed(plan(pylock__toml="b")), "pylock.toml is new, requirements.txt is gone"),
        (changed(rows=[["setup.cfg", "2"], ["module", "package"]]), "setup.cfg changed"),
        (
            changed(rows=[["setup.cfg", "1"], ["module", "other"]]),
            "module other is new, module package is gone",
        ),
        (
            changed(plan(a="1", b="2", c="3", requirements__txt="b")),
            "a is new, b is new, c is new and 1 more",
        ),
        (changed(python="3.13", image="sha256:2"), "another Python"),
        (changed(image="sha256:2"), "another base image"),
        (changed(packages=["git"], image="sha256:1"), "other `packages`"),
        (changed(indexes=["https://index.example"]), "the runner's package indexes changed"),
        (changed(place="/q"), "the project was moved"),
        (changed(credentials=["NETRC"]), "other credentials"),
        (changed(Plan("lines", files=PLAN.files, extras=("x",))), "other settings of its dependencies"),
        (changed(Plan("lines", files=PLAN.files, scm_version="2")), "another version of the project"),
    ],
)
def test_the_reason_is_what_differs(found: str | None, words: str | None) -> None:
    assert found == words


@pytest.mark.parametrize(
    ("done", "words"),
    [
        (set(), None),
        ({"resolved", "installed", "project"}, "environment built"),
        ({"resolved", "expired"}, "dependencies resolved"),
        ({"project"}, "project installed"),
        ({"packages"}, "system packages installed"),
        ({"waited"}, "waited for another job's environment"),
    ],
)
def test_what_took_time_is_named(done: set[str], words: str | None) -> None:
    assert BuildTrace(done).words() == words


def test_inputs_are_remembered_per_project(tmp_path: Path) -> None:
    inputs = RememberedInputs(tmp_path)
    assert inputs.read("shared", "one") is None
    inputs.write("user", "one", {"python": "3.12"})
    inputs.write("user", "one", {"python": "3.13"})
    assert inputs.read("user", "one") == {"python": "3.13"}
    assert inputs.read("user", "two") is None
    (tmp_path / "user" / "inputs" / "two.json").write_text("[1]")
    assert inputs.read("user", "two") is None


def test_the_oldest_projects_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ci_runner.controller.environments.inputs._PROJECTS", 3)
    inputs = RememberedInputs(tmp_path)
    for number in range(5):
        inputs.write("user", str(number), {})
        os.utime(tmp_path / "user" / "inputs" / f"{number}.json", (number, number))
    assert sorted(path.name for path in (tmp_path / "user" / "inputs").iterdir()) == [
        "2.json",
        "3.json",
        "4.json",
    ]
