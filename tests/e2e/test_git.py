"""Tests that ask git get a repository where `git = true`, and nothing of it comes home."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.developer import Developer

pytestmark = pytest.mark.parametrize("runner", ["docker", "process"], indirect=True)

TEST = """
import pathlib, subprocess

HERE = pathlib.Path(__file__).parent

def git(*arguments):
    return subprocess.run(("git", *arguments), cwd=HERE, check=True, capture_output=True, text=True).stdout

def test_git_answers():
    for question in pathlib.Path(HERE, "questions.txt").read_text().splitlines():
        print(f"ANSWER {question}: {git(*question.split()).strip()!r}")

def test_the_repository_can_be_used():
    (HERE / "made.txt").write_text("made")
    (HERE / "changed.txt").write_text("after")
    git("add", "-A")
    git("-c", "user.name=x", "-c", "user.email=x@example.com", "commit", "-q", "-m", "of a job")
    hooks = pathlib.Path(git("rev-parse", "--absolute-git-dir").strip(), "hooks")
    hooks.mkdir()
    (hooks / "post-checkout").write_text("#!/bin/sh")
    (hooks / "../pipe.txt").resolve().symlink_to("/etc/passwd")
    (HERE / "inner/.git").mkdir(parents=True)
    (HERE / "inner/.git/config").write_text("[core]")
"""
QUESTIONS = (
    "rev-parse HEAD",
    "rev-parse --show-toplevel",
    "branch --show-current",
    "status --porcelain",
    "describe --tags --always",
    "ls-files",
    "diff-index --name-only HEAD",
    "diff-files --name-only",
    "diff",
)
#: Patterns of artifacts that git's files have, too.
ASKED = ("--remote-ci-artifact=**/config", "--remote-ci-artifact=.git/**")


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def make_repository(top: Path, project: Path) -> None:
    project.mkdir(parents=True, exist_ok=True)
    (project / "test_it.py").write_text(TEST)
    (project / "questions.txt").write_text("\n".join(QUESTIONS))
    (project / "changed.txt").write_text("before")
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "pyproject.toml").write_text("[tool.remote-ci]\ngit = true\n")
    (top / "beside.txt").write_text("not sent")
    git(top, "init", "-q", "-b", "feature/x")
    for name, value in (("name", "a"), ("email", "a@example.com")):
        git(top, "config", f"user.{name}", value)
    git(top, "remote", "add", "origin", "https://user:password@example.com/x.git")
    git(top, "add", "-A")
    git(top, "commit", "-q", "-m", "first")
    git(top, "tag", "v1.0")
    git(top, "commit", "-q", "--allow-empty", "-m", "second")
    (project / "test_it.py").write_text(f"{TEST}# changed\n")


def answers(project: Path, *, process: bool) -> list[str]:
    """Return what the tests print; without isolation the project is in another folder."""
    left_out = ("rev-parse --show-toplevel",) if process else ()
    return [
        f"ANSWER {question}: {git(project, *question.split()).strip()!r}"
        for question in QUESTIONS
        if question not in left_out
    ]


def test_git_answers_in_a_job_as_it_does_here(developer: Developer, tmp_path: Path) -> None:
    """Also for a project below the top of its work tree; git's files never come home."""
    inner = "services/web" if developer.runner.engine == "docker" else ""
    top = tmp_path / "top"
    project = top / inner
    make_repository(top, project)
    here = answers(project, process=developer.runner.engine == "process")
    state = (top / ".git/index").read_bytes()
    done = developer.pytest("-rP", "-p", "no:cacheprovider", *ASKED, cwd=project)
    assert done.code == 0, done.text
    for answer in here:
        assert answer in done.out
    assert "password" not in done.text
    assert "2 files of the project were changed by the tests: changed.txt, made.txt;" in done.text
    assert "beside the project" not in done.text
    assert not [path for path in (project / ".remote-ci-artifacts").rglob("*") if ".git" in path.parts]
    assert (top / ".git/index").read_bytes() == state
    assert not (top / ".git/hooks/post-checkout").exists()
    assert git(top, "log", "-1", "--format=%s") == "second\n"


def test_jobs_of_a_pipeline_have_the_repository(developer: Developer, tmp_path: Path) -> None:
    """And a project that git does not know has none, which is said."""
    project = tmp_path / "top"
    make_repository(project, project)
    setting = "[tool.remote-ci]\ngit = true\n"
    if developer.runner.engine == "docker":
        head = git(project, "rev-parse", "HEAD").strip()
        script = f"test $(git rev-parse HEAD) = {head}", "! git diff --quiet -- test_it.py"
        (project / "pyproject.toml").write_text(
            f'{setting}[tool.remote-ci.pipelines.ci]\nstages = ["s"]\n'
            f'[tool.remote-ci.pipelines.ci.jobs.look]\nstage = "s"\nscript = {list(script)}\n'
        )
        done = developer.remote_ci("pipeline", "run", "ci", cwd=project)
        assert done.code == 0, done.text
        return
    (tmp_path / "other").mkdir()
    (tmp_path / "other/pyproject.toml").write_text(setting)
    done = developer.pytest("--remote-ci-dry-run", cwd=tmp_path / "other")
    assert done.code == 0, done.text
    assert f"git = true: {tmp_path / 'other'} is in no git work tree: a job gets no repository" in done.text
