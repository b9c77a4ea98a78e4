"""What a job did to files of the project, read from real overlays and from copies."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
from support import needs

from ci_runner.controller.artifacts.changes import Candidate, Original, Sent, Written, find, prepared_files
from ci_runner.controller.artifacts.collect import ArtifactCollector, CollectedArtifacts, JobOutput, Limits
from ci_runner.controller.artifacts.quota import Quota
from ci_runner.controller.engine import Overlay
from ci_runner.controller.engines.process.paths import materialise
from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.model.verdict import ran
from ci_runner.storage.blobs import BlobStore

FILES = {
    "a.txt": b"a",
    "b.txt": b"b",
    "run.sh": b"#!/bin/sh\n",
    "tests/test_a.py": b"def test(): pass\n",
    "tests/__snapshots__/test_a.ambr": b"one\n",
    "tests/__snapshots__/test_b.ambr": b"two\n",
    "tests/data/deep/er/x.json": b"{}",
    "tests/data/deep/y.json": b"[]",
}


@dataclass
class Project:
    """A submitted project, the folder in which a job changes it, and what the runner reads afterwards."""

    #: The submitted tree; never changed.
    tree: Path
    #: The project as the job sees it.
    seen: Path
    #: What `find` reads.
    folder: Path
    original: Original
    blobs: BlobStore

    def changes(self) -> list[tuple[str, str]]:
        """Return what really changed, by the contents that are stored: kind and path."""
        return [(item.change or "", item.path) for item in self.collect().artifacts]

    def collect(
        self, limits: Limits | None = None, quota: Quota | None = None, **options: object
    ) -> CollectedArtifacts:
        keeper = ArtifactCollector(self.blobs, limits or Limits(), quota=quota or Quota())
        job = Job("job", user_id="ann", options=JobOptions.from_dict({"root": "/p", **options}))
        sent = {path: item.sha256 for path, item in self.original.files.items()}
        written = JobOutput(self.folder, "/workspace", lambda: sent, lambda: self.original)
        return keeper.keep(job, ran(0), written, lambda: None)

    def expected(self) -> list[tuple[str, str]]:
        """Return what changed, by comparing the job's view with the tree."""
        before, after = contents(self.tree), contents(self.seen)
        kinds = []
        for path in sorted(before.keys() | after.keys()):
            if path not in after:
                kinds.append(("deleted", path))
            elif path not in before:
                kinds.append(("created", path))
            elif before[path] != after[path]:
                kinds.append(("changed", path))
        return kinds


def contents(folder: Path) -> dict[str, tuple[bytes, bool]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), bool(path.stat().st_mode & 0o100))
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


@pytest.fixture(params=["overlay", "copy"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    tree, seen, upper, work = (tmp_path / name for name in ("tree", "seen", "upper", "work"))
    blobs = BlobStore(tmp_path / "data", None)
    for path, content in FILES.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o755 if path.endswith(".sh") else 0o644)
        os.utime(file, (1_600_000_000, 1_600_000_000))
        blobs.put_bytes(content)
    sent = {path: Sent(sha256(content).hexdigest(), path.endswith(".sh")) for path, content in FILES.items()}
    if request.param == "copy":
        materialise(Overlay((tree,), seen, work, "/workspace"))
        (seen / "pkg.egg-info").mkdir()
        (seen / "pkg.egg-info" / "PKG-INFO").write_text("made by the build")
        (seen / "_version.py").write_text("made by the build")
        prepared = prepared_files(seen, sent)
        assert sorted(prepared) == ["_version.py", "pkg.egg-info/PKG-INFO"]
        yield Project(tree, seen, seen, Original(sent, tree, prepared), blobs)
        return
    for folder in (seen, upper, work):
        folder.mkdir()
    options = f"lowerdir={tree},upperdir={upper},workdir={work},redirect_dir=on"
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(seen)], capture_output=True, check=False
    )
    if mounted.returncode:
        needs.skip(f"overlays cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield Project(tree, seen, upper, Original(sent), blobs)
    finally:
        subprocess.run(["umount", str(seen)], check=True)


def test_files_of_git_are_neither_changes_nor_artifacts(project: Project) -> None:
    for path in (".git/config", ".git/hooks/post-checkout", "tests/sub/.git", "new.txt"):
        file = project.seen / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("made by the tests")
    assert project.changes() == [("created", "new.txt")]
    found = project.collect(artifacts=["**", ".git/**", "tests/sub/.git"])
    assert "new.txt" in {item.path for item in found.artifacts}
    assert not [item.path for item in found.artifacts if ".git" in item.path.split("/")]


def test_an_untouched_project_has_no_changes(project: Project) -> None:
    found = find(project.folder, project.original)
    assert (found.candidates, found.omissions.lines()) == ([], [])
    assert project.changes() == []


def test_each_kind_of_change_is_found(project: Project) -> None:
    seen = project.seen
    (seen / "a.txt").write_text("other")
    (seen / "b.txt").unlink()
    (seen / "tests/__snapshots__/test_c.ambr").write_text("three\n")
    (seen / "new/folder").mkdir(parents=True)
    (seen / "new/folder/x").write_text("x")
    found = project.collect()
    assert [(item.change, item.path, item.size) for item in found.artifacts] == [
        ("changed", "a.txt", 5),
        ("deleted", "b.txt", 0),
        ("created", "new/folder/x", 1),
        ("created", "tests/__snapshots__/test_c.ambr", 6),
    ]
    assert found.fields() == {"changes": {"created": 2, "changed": 1, "deleted": 1}}
    assert [item.before for item in found.artifacts] == [
        sha256(b"a").hexdigest(),
        sha256(b"b").hexdigest(),
        None,
        None,
    ]
    with project.blobs.open(found.artifacts[0].sha256) as file:
        assert file.read() == b"other"


def test_what_was_only_touched_or_written_again_is_no_change(project: Project) -> None:
    (project.seen / "a.txt").write_bytes(b"a")
    os.utime(project.seen / "b.txt")
    (project.seen / "run.sh").chmod(0o700)
    assert project.changes() == []


def test_an_executable_bit_is_a_change(project: Project) -> None:
    (project.seen / "a.txt").chmod(0o755)
    [item] = project.collect().artifacts
    assert (item.change, item.path, item.mode, item.sha256) == ("changed", "a.txt", 0o755, item.before)


def test_what_tools_leave_is_not_the_projects(project: Project) -> None:
    for path in (
        "__pycache__/a.pyc",
        ".pytest_cache/v/x",
        "tests/.coverage.host.1",
        "x.egg-info/PKG-INFO",
        ".coverage",
    ):
        file = project.seen / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
    assert project.changes() == []


def test_a_removed_and_remade_folder(project: Project) -> None:
    shutil.rmtree(project.seen / "tests/__snapshots__")
    (project.seen / "tests/__snapshots__").mkdir()
    (project.seen / "tests/__snapshots__/test_b.ambr").write_bytes(b"two\n")
    assert project.changes() == [("deleted", "tests/__snapshots__/test_a.ambr")]


def test_a_renamed_folder_is_deleted_and_created(project: Project) -> None:
    (project.seen / "tests/data").rename(project.seen / "moved")
    (project.seen / "moved/deep/er").rename(project.seen / "tests/er")
    (project.seen / "moved/deep/y.json").write_text("changed")
    found = project.collect()
    assert [(item.change, item.path, item.size) for item in found.artifacts] == [
        ("created", "moved/deep/y.json", 7),
        ("deleted", "tests/data/deep/er/x.json", 0),
        ("deleted", "tests/data/deep/y.json", 0),
        ("created", "tests/er/x.json", 2),
    ]
    with project.blobs.open(found.artifacts[-1].sha256) as file:
        assert file.read() == b"{}"


def test_files_and_folders_change_places(project: Project) -> None:
    (project.seen / "a.txt").unlink()
    (project.seen / "a.txt").mkdir()
    (project.seen / "a.txt/inner").write_text("x")
    shutil.rmtree(project.seen / "tests/data")
    (project.seen / "tests/data").write_text("x")
    assert project.changes() == [
        ("deleted", "a.txt"),
        ("created", "a.txt/inner"),
        ("created", "tests/data"),
        ("deleted", "tests/data/deep/er/x.json"),
        ("deleted", "tests/data/deep/y.json"),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_any_history_is_found_as_a_comparison_finds_it(project: Project, seed: int) -> None:
    chance = random.Random(seed)
    shutil.rmtree(
        project.seen / "pkg.egg-info", ignore_errors=True
    )  # made by the build: nothing is said about it
    (project.seen / "_version.py").unlink(missing_ok=True)
    names = ("a.txt", "b.txt", "tests", "data", "deep", "er", "new", "x.json")
    for _ in range(chance.randrange(5, 30)):
        folders = [project.seen, *(path for path in project.seen.rglob("*") if path.is_dir())]
        entries = list(project.seen.rglob("*"))
        target = chance.choice(folders) / chance.choice(names)
        match chance.randrange(6):
            case 0 | 1 if not target.is_dir():
                target.write_bytes(chance.choice(list(FILES.values())))
            case 2 if entries:
                doomed = chance.choice(entries)
                shutil.rmtree(doomed) if doomed.is_dir() else doomed.unlink()
            case 3 if not target.exists():
                target.mkdir()
            case 4 if entries:
                source = chance.choice(entries)
                if not target.exists() and not target.is_relative_to(source):
                    source.rename(target)
            case 5 if target.is_file():
                target.chmod(chance.choice((0o644, 0o755)))
            case _:
                pass
    assert project.changes() == project.expected()


def test_links_and_other_things_are_named_and_no_changes(project: Project, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("never to be read")
    (project.seen / "a.txt").unlink()
    (project.seen / "a.txt").symlink_to(tmp_path / "secret")
    (project.seen / "link").symlink_to(tmp_path)
    os.mkfifo(project.seen / "tests/pipe")
    (project.seen / "b\x1b[31m.txt").write_text("x")
    found = project.collect()
    assert found.artifacts == ()
    text = "".join(event.data or "" for event in found.events())
    assert "changes: not stored: 'a.txt' is a link (1 more like it)" in text
    assert "changes: not stored: 'tests/pipe' is not a regular file" in text
    assert "\x1b" not in text


def test_a_deep_folder_ends_the_search_and_deletions_are_unknown(project: Project) -> None:
    (project.seen / "a.txt").unlink()
    deep = project.seen / "/".join(["d"] * 80)
    deep.mkdir(parents=True)
    (deep / "x").write_text("x")
    found = project.collect()
    assert found.artifacts == ()
    assert "levels of folders are looked at, so nothing is known about deleted files" in found.change_notes[0]


def test_contents_beyond_the_limits_are_listed_without_a_digest(project: Project) -> None:
    (project.seen / "a.txt").write_bytes(b"x" * 50)
    (project.seen / "new.bin").write_bytes(b"x" * 51)
    (project.seen / "b.txt").unlink()
    found = project.collect(Limits(change_bytes=60))
    assert [(item.path, item.size, item.is_stored) for item in found.artifacts] == [
        ("a.txt", 50, True),
        ("b.txt", 0, False),
        ("new.bin", 51, False),
    ]
    assert found.change_notes == (
        "not stored: 'new.bin' exceeds the limit of 60 B for changed files of a job",
    )
    few = project.collect(Limits(changes=1))
    assert [item.path for item in few.artifacts] == ["b.txt"]
    assert few.change_notes == (
        "not stored: 'a.txt' is not listed: a job's list has 1 changed files (1 more like it)",
    )


def test_half_of_the_quota_is_left_for_artifacts(project: Project) -> None:
    (project.seen / "a.txt").write_bytes(b"x" * 60)
    (project.seen / "report.bin").write_bytes(b"y" * 60)
    found = project.collect(quota=Quota(100), artifacts=["report.bin"])
    assert [(item.path, item.requested, item.change, item.is_stored) for item in found.artifacts] == [
        ("a.txt", False, "changed", False),
        ("report.bin", True, "created", True),
    ]


def test_a_folder_that_is_gone_says_nothing(project: Project, tmp_path: Path) -> None:
    assert find(tmp_path / "nowhere", project.original).candidates == []


def test_without_root_a_renamed_folder_is_named_and_nothing_is_deleted(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    if project.original.tree is not None:
        pytest.skip("a copy has no marks")
    (project.seen / "tests/data").rename(project.seen / "moved")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = find(project.folder, project.original)
    assert found.candidates == []
    assert "does not run as root" in found.omissions.lines()[0]


def test_marks_that_a_job_can_write_are_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Original({"many/a.txt": Sent(sha256(b"a").hexdigest(), False)})
    (tmp_path / "copy").mkdir()
    for name, value in (("redirect", b"/many"), ("opaque", b"y")):
        os.setxattr(tmp_path / "copy", f"user.overlay.{name}", value)
    for user in (0, 1000):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        assert find(tmp_path, original).candidates == []


def test_candidates_name_what_is_to_be_read(project: Project) -> None:
    (project.seen / "a.txt").write_text("other")
    [candidate] = find(project.folder, project.original).candidates
    assert candidate == Candidate(
        "a.txt", "changed", Sent(sha256(b"a").hexdigest(), False), Written(5, False)
    )
