"""The repository that a job gets: git answers there as it does here, and knows nothing that was not sent."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.workspace import collect, git_repository
from pytest_remote_ci.workspace.collect import Workspace
from pytest_remote_ci.workspace.path_sources import Outside

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

#: What programs and tests ask git.
QUESTIONS = (
    "status --porcelain=v2 --branch",
    "rev-parse HEAD",
    "rev-parse --short HEAD",
    "rev-parse --show-prefix",
    "symbolic-ref -q HEAD",
    "branch --show-current",
    "ls-files -s",
    "ls-files --others --exclude-standard",
    "diff",
    "diff --cached",
    "diff HEAD --stat",
    "describe --always --dirty",
    "describe --tags --long --always",
    "describe --exact-match --tags",
    "log -1 --format=%H%n%an%n%s",
    "show HEAD:a.py",
    "ls-tree -r HEAD",
)

STATES = ("clean", "detached", "unborn", "empty", "amended", "sha256", "work tree", "conflict")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True)
    return f"{done.returncode} {done.stdout}"


def must(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def make(folder: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def commit(folder: Path, message: str = "first") -> None:
    must(folder, "add", "-A")
    must(folder, "commit", "-q", "--allow-empty", "-m", message)


def gather(
    root: Path, folder: Path, exclude: tuple[str, ...] = (), include: tuple[str, ...] = ()
) -> Workspace:
    """Return what is sent of the project in `root`."""
    top = git_repository.work_tree(root, folder.parent)
    assert top is not None
    outside = Outside(root).around(top)
    found = collect.collect(root, exclude=exclude, include=include)
    found = replace(found, beside=replace(found.beside, project_folder=outside.project_folder))
    folder.mkdir()
    found, notes = collect.with_repository(found, top, folder, exclude)
    return replace(found, warnings=(*found.warnings, *notes))


def arrive(workspace: Workspace, target: Path) -> Path:
    """Write what was sent to `target`, as a runner does; return the project's folder."""
    manifest = workspace.manifest()
    for name in manifest.folders:
        (target / name).mkdir(parents=True, exist_ok=True)
    for file in workspace.sent:
        (target / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.source, target / file.path)
        (target / file.path).chmod(file.mode)
    for name, text in manifest.links.items():
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).symlink_to(text)
    return target / workspace.beside.project_folder


@pytest.fixture
def project(repository: Path) -> Path:
    make(repository, "a.py", "sub/b.py", "gone.py", "moved.py")
    make(repository, "run.sh")
    (repository / "run.sh").chmod(0o755)
    (repository / "link.py").symlink_to("a.py")
    commit(repository)
    return repository


def differences(root: Path, there: Path) -> dict[str, tuple[str, str]]:
    answers = {
        question: (git(root, *question.split()), git(there, *question.split())) for question in QUESTIONS
    }
    return {question: pair for question, pair in answers.items() if pair[0] != pair[1]}


def test_git_answers_as_here(project: Path, tmp_path: Path) -> None:
    """With staged, changed, deleted and new files."""
    make(project, "staged.py", "a.py", text="staged\n")
    must(project, "add", "staged.py", "a.py")
    make(project, "a.py", "sub/b.py", text="changed\n")
    make(project, "new.py")
    (project / "gone.py").unlink()
    must(project, "mv", "moved.py", "elsewhere.py")
    sent = gather(project, tmp_path / "made")
    assert sent.warnings == ()
    there = arrive(sent, tmp_path / "there")
    assert differences(project, there) == {}
    assert "D gone.py" in git(there, "status", "--short")


@pytest.mark.parametrize("state", STATES)
def test_every_state_of_a_repository_travels(state: str, project: Path, plain: Path, tmp_path: Path) -> None:
    root = project
    if state == "detached":
        must(project, "checkout", "-q", "--detach")
    elif state in ("unborn", "empty", "sha256"):
        must(plain, "init", "-q", *(["--object-format=sha256"] if state == "sha256" else []))
        root = plain
        make(plain, "a.py")
        if state == "sha256":
            commit(plain)
        elif state == "unborn":
            must(plain, "add", "a.py")
    elif state == "amended":
        commit(project, "second")
        must(project, "commit", "-q", "--amend", "--allow-empty", "-m", "other")
    elif state == "work tree":
        root = tmp_path / "other"
        must(project, "worktree", "add", "-q", "-b", "feature/x", str(root))
        make(root, "a.py", text="changed\n")
    elif state == "conflict":
        must(project, "checkout", "-q", "-b", "other")
        make(project, "a.py", text="theirs\n")
        commit(project)
        must(project, "checkout", "-q", "-")
        make(project, "a.py", text="ours\n")
        commit(project)
        assert git(project, "merge", "other").startswith("1 ")
    there = arrive(gather(root, tmp_path / "made"), tmp_path / "there")
    assert differences(root, there) == {}


def test_versions_since_a_tag_are_as_here(project: Path, tmp_path: Path) -> None:
    """Branches that were forked before the tag, and merged after it, count."""
    commit(project, "before")
    must(project, "checkout", "-q", "-b", "early")
    commit(project, "early")
    must(project, "checkout", "-q", "-")
    commit(project, "tagged")
    must(project, "tag", "-a", "v1.2", "-m", "a release")
    must(project, "tag", "nightly")
    commit(project, "after")
    must(project, "merge", "-q", "--no-ff", "-m", "merge", "early")
    commit(project, "last")
    there = arrive(gather(project, tmp_path / "made"), tmp_path / "there")
    assert differences(project, there) == {}
    assert git(there, "describe").startswith("0 v1.2-4-g")
    assert "first" not in git(there, "log", "--format=%s")
    assert git(there, "rev-parse", "HEAD~1^{tree}") != ""
    assert git(there, "cat-file", "-e", f"{must(project, 'rev-parse', 'v1.2^{tree}').strip()}").startswith(
        "0"
    )


def test_a_tag_that_is_too_far_away_is_left_out(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_repository, "MAX_COMMITS", 2)
    must(project, "tag", "v1")
    for number in range(3):
        commit(project, f"{number}")
    there = arrive(gather(project, tmp_path / "made"), tmp_path / "there")
    assert git(there, "rev-parse", "HEAD") == git(project, "rev-parse", "HEAD")
    assert git(there, "tag") == "0 "
    assert git(there, "rev-list", "--count", "HEAD") == "0 1\n"


def test_a_project_below_the_top_has_the_repository_above_it(project: Path, tmp_path: Path) -> None:
    """Files of the other folders are not sent; git takes them as unchanged."""
    make(project, "service/a.py", "service/b.py")
    make(project, "private/data.txt", text="private\n")
    commit(project, "second")
    make(project, "service/a.py", "private/data.txt", text="changed\n")
    sent = gather(project / "service", tmp_path / "made")
    there = arrive(sent, tmp_path / "there")
    assert there == tmp_path / "there/service"
    assert sorted(path.name for path in there.parent.iterdir()) == [".git", "service"]
    assert git(there, "status", "--short") == "0  M a.py\n"
    for question in ("diff -- .", "ls-files -s", "rev-parse HEAD", "rev-parse --show-prefix"):
        assert git(there, *question.split()) == git(project / "service", *question.split())
    assert git(there, "show", "HEAD:private/data.txt").startswith("128")
    commit(there, "of a job")
    assert must(there, "ls-tree", "-r", "--full-tree", "HEAD:private") == must(
        project, "ls-tree", "-r", "--full-tree", "HEAD:private"
    )


def test_what_is_not_sent_is_not_in_the_repository(project: Path, tmp_path: Path) -> None:
    """Excluded files, and contents from before a change that look like secrets."""
    keys = {
        name: f"-----BEGIN PRIVATE KEY-----\n{letter * 64}\n"
        for name, letter in (("server.pem", "S"), ("allowed.pem", "A"), ("removed.pem", "R"))
    }
    make(project, "data/large.bin", "prod.txt", text="excluded\n")
    for name, key in keys.items():
        make(project, name, text=key)
    commit(project, "second")
    make(project, "server.pem", "allowed.pem", text="none\n")
    (project / "removed.pem").unlink()
    include = ("/allowed.pem",)
    sent = gather(project, tmp_path / "made", exclude=("data/", "prod.txt"), include=include)
    there = arrive(sent, tmp_path / "there")
    assert git(there, "status", "--short") == "0  M allowed.pem\n D removed.pem\n M server.pem\n"
    for path in ("data/large.bin", "prod.txt", "server.pem", "removed.pem"):
        assert git(there, "show", f"HEAD:{path}").startswith("128"), path
    assert git(there, "show", "HEAD:allowed.pem") == f"0 {keys['allowed.pem']}"
    assert sent.warnings == (
        "git = true: an earlier content of removed.pem looks like a private key: it is not sent",
        "git = true: an earlier content of server.pem looks like a private key: it is not sent",
    )


def test_nothing_of_the_developers_configuration_travels(project: Path, tmp_path: Path) -> None:
    for name, value in {
        "remote.origin.url": "https://user:password@example.com/x.git",
        "core.fsmonitor": "touch /tmp/started",
        "core.hooksPath": "/tmp/hooks",
        "core.abbrev": "20",
        "filter.lfs.clean": "cat",
        "alias.x": "!touch /tmp/started",
        "user.email": "private@example.com",
        "core.autocrlf": "input",
    }.items():
        must(project, "config", name, value)
    make(project, ".git/hooks/pre-commit", text="#!/bin/sh\nexit 1\n")
    must(project, "stash", "list")
    sent = gather(project, tmp_path / "made")
    names = {file.path for file in sent.sent if file.path.startswith(".git/")}
    packs = {name for name in names if name.startswith(".git/objects/pack/pack-")}
    assert names - packs == {".git/HEAD", ".git/config", ".git/index", ".git/packed-refs"}
    there = arrive(sent, tmp_path / "there")
    assert (there / ".git/config").read_text() == (
        "[core]\n\trepositoryformatversion = 0\n\tbare = false\n\tlogallrefupdates = false\n\tfilemode = true\n"
        "\tautocrlf = input\n\tabbrev = 20\n[gc]\n\tauto = 0\n"
    )


def test_files_of_filters_count_as_unchanged(project: Path, tmp_path: Path) -> None:
    """A job does not have the program that made what is in the repository, such as LFS's."""
    must(project, "config", "filter.upper.clean", "tr a-z A-Z")
    make(project, ".gitattributes", text="*.big filter=upper\n")
    make(project, "one.big", "two.big", text="text\n")
    commit(project, "second")
    make(project, "two.big", text="changed\n")
    there = arrive(gather(project, tmp_path / "made"), tmp_path / "there")
    assert git(there, "status", "--short") == git(project, "status", "--short") == "0  M two.big\n"


def test_an_unchanged_repository_is_sent_once(project: Path, tmp_path: Path) -> None:
    first, second = gather(project, tmp_path / "one"), gather(project, tmp_path / "two")
    assert first.manifest().canonical() == second.manifest().canonical()


def test_large_repositories_are_refused_by_one_line(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_repository, "MAX_REPOSITORY", 100)
    with pytest.raises(
        WorkspaceError, match=r"^git = true: the files of this commit have .* `exclude`"
    ) as caught:
        gather(project, tmp_path / "made")
    assert "\n" not in str(caught.value)


def test_only_a_project_that_git_knows_has_a_work_tree(project: Path, plain: Path) -> None:
    make(project, ".gitignore", text="ignored/\n")
    make(project, "ignored/a.py", "sub/b.py")
    home = Path(os.devnull)
    assert git_repository.work_tree(project, home) == project
    assert git_repository.work_tree(project / "sub", home) == project
    assert git_repository.work_tree(project / "ignored", home) is None
    assert git_repository.work_tree(plain, home) is None
    assert git_repository.work_tree(project / "sub", project) is None
