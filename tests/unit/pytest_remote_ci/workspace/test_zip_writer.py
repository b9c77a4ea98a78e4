"""Manifests, zips and the cache of digests."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_remote_ci.errors import WorkspaceChanged
from pytest_remote_ci.wire import protocol
from pytest_remote_ci.workspace import collect, stat_cache
from pytest_remote_ci.workspace.stat_cache import StatCache


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def make(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def zipped(found: collect.Workspace) -> bytes:
    target = io.BytesIO()
    found.write_zip(target)
    return target.getvalue()


def at_rest(folder: Path) -> None:
    """Make all files look as if nobody had touched them for a while, as far as a test may: see `_REST_NS`."""
    old = time.time_ns() - 3600 * 10**9
    for file in folder.rglob("*"):
        os.utime(file, ns=(old, old), follow_symlinks=False)


class TestZip:
    """What earlier clients promised of their zips, and what ours adds."""

    @pytest.mark.case(60, 61, 65, 66)
    def test_it_is_valid_with_whole_paths_and_without_folders(self, project: Path) -> None:
        make(project, {"a.py": "print()", "deep/er/and/deeper/b.txt": "x" * 10_000, "ünï.txt": "ü"})
        (project / "empty folder").mkdir()
        (project / "a.py").chmod(0o755)
        with zipfile.ZipFile(io.BytesIO(collect.create_project_zip(project))) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["a.py", "deep/er/and/deeper/b.txt", "ünï.txt"]
            assert archive.read("ünï.txt").decode() == "ü"
            first, second, _ = archive.infolist()
            assert (first.external_attr >> 16, second.external_attr >> 16) == (0o100755, 0o100644)
            assert first.date_time == (1980, 1, 1, 0, 0, 0)
            assert second.compress_size < 1000

    @pytest.mark.case(62, 63, 64)
    def test_dotfiles_are_in_it_and_caches_are_not(self, project: Path) -> None:
        """Unlike in earlier clients, which left out whatever begins with a dot, and so what tests need."""
        make(project, {".coveragerc": "", ".config/x": "", "__pycache__/a.pyc": "", ".pytest_cache/y": ""})
        with zipfile.ZipFile(io.BytesIO(collect.create_project_zip(str(project)))) as archive:
            assert archive.namelist() == [".config/x", ".coveragerc"]

    @pytest.mark.case(67)
    def test_an_empty_project_gives_an_empty_zip(self, project: Path) -> None:
        with zipfile.ZipFile(io.BytesIO(collect.create_project_zip(project))) as archive:
            assert archive.namelist() == []

    def test_the_same_tree_gives_the_same_bytes(self, project: Path, tmp_path: Path) -> None:
        files = {"b/x.py": "x = 1\n", "a.py": "y = 2\n", "b.png": "no picture"}
        make(project, files)
        other = tmp_path / "other"
        make(other, dict(reversed(files.items())))
        at_rest(other)
        (other / "a.py").chmod(0o600)
        first, second = collect.collect(project), collect.collect(other)
        assert zipped(first) == zipped(second)
        assert first.manifest().canonical() == second.manifest().canonical()
        make(other, {"a.py": "y = 3\n"})
        assert zipped(collect.collect(other)) != zipped(first)

    def test_contents_that_do_not_shrink_are_stored_whatever_their_names(self, project: Path) -> None:
        noise = random.Random(1).randbytes(300_000)
        contents = {
            "noise.txt": noise,
            "text.png": b"text\n" * 60_000,
            "text, then noise.bin": b"text\n" * 20_000 + noise,
            "small noise.bin": noise[:1000],
            "empty": b"",
        }
        for name, content in contents.items():
            (project / name).write_bytes(content)
        with zipfile.ZipFile(io.BytesIO(collect.create_project_zip(project))) as archive:
            stored = {
                info.filename for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED
            }
            assert stored & contents.keys() == {"noise.txt"}
            assert {name: archive.read(name) for name in contents} == contents

    def test_progress_goes_up_to_the_whole_size(self, project: Path, tmp_path: Path) -> None:
        make(project, {"a": "x" * 3_000_000, "b": "x" * 500, "c": ""})
        seen: list[tuple[int, int]] = []
        found = collect.collect(project)
        found.write_zip(tmp_path / "p.zip", lambda done, total: seen.append((done, total)))
        assert {total for _, total in seen} == {3_000_500}
        assert [done for done, _ in seen] == sorted(done for done, _ in seen)
        assert (seen[0][0], seen[-1][0]) == (1 << 20, 3_000_500)
        assert zipfile.is_zipfile(tmp_path / "p.zip")

    def test_an_error_in_the_progress_callback_is_not_hidden(self, project: Path, tmp_path: Path) -> None:
        make(project, {"a": "x" * 1000})

        def interrupt(done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            collect.collect(project).write_zip(tmp_path / "p.zip", interrupt)

    def test_a_file_that_went_away_is_left_out_of_a_whole_zip(self, project: Path) -> None:
        make(project, {"a.py": "1", "gone.py": "2"})
        found = collect.collect(project)
        (project / "gone.py").unlink()
        with zipfile.ZipFile(io.BytesIO(zipped(found))) as archive:
            assert archive.namelist() == ["a.py"]

    def test_a_sparse_file_beyond_four_gigabytes_needs_zip64(self, project: Path, tmp_path: Path) -> None:
        """Only the header is looked at: the member says that it may be larger than 32 bits hold."""
        from pytest_remote_ci.workspace.zip_writer import Member, pack

        make(project, {"big": "x"})
        with (tmp_path / "big.zip").open("w+b") as target:
            pack([Member("big", str(project / "big"), 0o644, 5 << 30)], target)
        with zipfile.ZipFile(tmp_path / "big.zip") as archive:
            assert archive.infolist()[0].extract_version == 45
            assert archive.read("big") == b"x"


class TestBlobs:
    """A zip of some contents, for what the runner lacks."""

    def test_members_are_named_by_digest_once_each(self, project: Path, tmp_path: Path) -> None:
        make(project, {"a.py": "same", "b.py": "same", "c.py": "other", "d.py": "not asked for"})
        found = collect.collect(project)
        wanted = [hashlib.sha256(text).hexdigest() for text in (b"same", b"other")]
        found.write_blobs(wanted, tmp_path / "blobs.zip")
        with zipfile.ZipFile(tmp_path / "blobs.zip") as archive:
            assert archive.namelist() == sorted(wanted)
            assert archive.read(wanted[0]) == b"same"
        assert found.digests()[wanted[1]] == len("other")

    @pytest.mark.parametrize("change", ["changed", "removed"])
    def test_a_file_that_changed_meanwhile_is_an_error(self, project: Path, change: str) -> None:
        make(project, {"a.py": "before"})
        found = collect.collect(project)
        if change == "changed":
            make(project, {"a.py": "after!"})
        else:
            (project / "a.py").unlink()
        with pytest.raises(WorkspaceChanged, match="run again"):
            found.write_blobs(found.digests(), io.BytesIO())


class TestManifest:
    """What the runner needs to know of the files."""

    def test_it_holds_path_mode_size_and_digest(self, project: Path) -> None:
        make(project, {"b.py": "x", "a/c.py": "y"})
        (project / "b.py").chmod(0o755)
        manifest = collect.collect(project).manifest()
        assert manifest.root == str(project)
        assert manifest.files == (
            protocol.ManifestEntry("a/c.py", 0o644, 1, hashlib.sha256(b"y").hexdigest()),
            protocol.ManifestEntry("b.py", 0o755, 1, hashlib.sha256(b"x").hexdigest()),
        )
        assert protocol.Manifest.from_dict(json.loads(json.dumps(manifest.to_dict()))) == manifest

    def test_modification_times_travel_only_when_asked_for(self, project: Path) -> None:
        make(project, {"a.py": "x"})
        os.utime(project / "a.py", ns=(1, 1_234_567_890_000_000_001))
        found = collect.collect(project)
        assert found.manifest().mtimes == {}
        assert replace(found, mtimes=True).manifest().mtimes == {"a.py": 1_234_567_890_000_000_001}
        assert replace(found, mtimes=True).manifest().canonical() == found.manifest().canonical()


class TestStatCache:
    """Digests are remembered only where that is safe."""

    @pytest.fixture(autouse=True)
    def _rest_is_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A change time cannot be set, so files count as being at rest sooner here."""
        monkeypatch.setattr(stat_cache, "_REST_NS", 0)

    @staticmethod
    def misses(project: Path, folder: Path) -> int:
        cache = StatCache(folder, project)
        for file in sorted(project.iterdir()):
            cache.facts(file.name, str(file), file.stat())
        cache.save()
        return cache.misses

    def test_files_at_rest_are_read_once(self, project: Path, tmp_path: Path) -> None:
        make(project, {"a": "1", "b": "2"})
        assert [self.misses(project, tmp_path / "c") for _ in range(3)] == [2, 0, 0]

    def test_changed_files_are_read_again(self, project: Path, tmp_path: Path) -> None:
        make(project, {"a": "1", "b": "2"})
        self.misses(project, tmp_path / "c")
        before = (project / "a").stat()
        make(project, {"a": "3"})
        os.utime(
            project / "a", ns=(before.st_atime_ns, before.st_mtime_ns)
        )  # same size, same modification time
        assert self.misses(project, tmp_path / "c") == 1
        replacement = project / "new"
        replacement.write_text("4")
        replacement.replace(project / "b")
        assert self.misses(project, tmp_path / "c") == 1

    def test_files_that_were_just_written_are_not_remembered(
        self, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stat_cache, "_REST_NS", 3_600_000_000_000)
        make(project, {"a": "1"})
        assert [self.misses(project, tmp_path / "c") for _ in range(2)] == [1, 1]

    def test_secrets_are_remembered_as_such(self, project: Path, tmp_path: Path) -> None:
        make(project, {"id_rsa": "x"})
        found = []
        for _ in range(2):
            cache = StatCache(tmp_path / "c", project)
            found.append(cache.facts("id_rsa", str(project / "id_rsa"), (project / "id_rsa").stat()))
            cache.save()
        assert cache.misses == 0
        assert found[0] == found[1]
        assert found[0].secret == "an SSH private key"

    @pytest.mark.parametrize(
        "content", ["", "[]", "{", '{"format": [0, 0], "files": {}}', '{"format": null}']
    )
    def test_a_broken_cache_is_no_cache(self, project: Path, tmp_path: Path, content: str) -> None:
        make(project, {"a": "1"})
        self.misses(project, tmp_path / "c")
        (file,) = (tmp_path / "c" / "stat").iterdir()
        file.write_text(content)
        assert [self.misses(project, tmp_path / "c") for _ in range(2)] == [1, 0]

    def test_a_cache_that_cannot_be_written_does_not_matter(self, project: Path, tmp_path: Path) -> None:
        make(project, {"a": "1"})
        (tmp_path / "c").write_text("a file where a folder should be")
        assert self.misses(project, tmp_path / "c") == 1

    def test_projects_that_nobody_opens_are_forgotten(self, project: Path, tmp_path: Path) -> None:
        make(project, {"a": "1"})
        self.misses(project, tmp_path / "c")
        old = tmp_path / "c" / "stat" / "old.json"
        old.touch()
        os.utime(old, (0, 0))
        make(project, {"b": "1"})
        self.misses(project, tmp_path / "c")
        assert not old.exists()

    def test_collecting_uses_the_cache_and_can_do_without(self, project: Path, tmp_path: Path) -> None:
        make(project, {"a.py": "1"})
        first = collect.collect(project)
        assert len(list((tmp_path / "cache" / "pytest-remote-ci" / "stat").iterdir())) == 1
        assert collect.collect(project).files == first.files
        assert collect.collect(project, use_cache=False).files == first.files
        assert collect.collect(project, cache_folder=tmp_path / "mine").files == first.files
        assert (tmp_path / "mine" / "stat").is_dir()
