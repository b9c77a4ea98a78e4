"""The files that travel: git's view, the disk's view, links, secrets, odd names."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_remote_ci import workspace
from pytest_remote_ci.errors import WorkspaceError

PEM = "-----BEGIN " + "PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7VJTUt9Us8cKj\n"

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture(autouse=True)
def _own_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "a")
        monkeypatch.setenv(f"{name}_EMAIL", "a@example.com")


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A folder without git."""
    folder = tmp_path / "plain"
    folder.mkdir()
    return folder


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder without git, and during the test a user who may not read everything."""
    with tempfile.TemporaryDirectory(prefix="remote-ci-test-") as name:
        folder = Path(name)
        is_root = os.geteuid() == 0
        if is_root:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)
            for path in folder.iterdir():
                path.chmod(0o700)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments], cwd=folder, check=True, capture_output=True
    )


def make(folder: Path, *names: str, text: str = "x\n") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def paths(root: Path, **options: object) -> list[str]:
    return [file.path for file in workspace.collect(root, **options).files]  # type: ignore[arg-type]


@needs_git
class TestInGit:
    """In a git work tree: what git does not ignore, as it is on disk now."""

    def test_tracked_and_untracked_files_travel_and_ignored_ones_do_not(self, repository: Path) -> None:
        make(repository, "a.py", "gone.py", ".coveragerc", "ignored.log", "sub/b.py")
        make(repository, ".gitignore", text="*.log\n")
        git(repository, "add", "-A")
        make(repository, "new.py", "a.py", text="changed")
        (repository / "gone.py").unlink()
        assert paths(repository) == [".coveragerc", ".gitignore", "a.py", "new.py", "sub/b.py"]
        found = {file.path: file for file in workspace.collect(repository).files}
        assert found["a.py"].size == len("changed")

    def test_a_tracked_file_travels_although_a_pattern_ignores_it(self, repository: Path) -> None:
        make(repository, "kept.log")
        git(repository, "add", "-A")
        make(repository, ".gitignore", text="*.log\n")
        make(repository, "other.log")
        assert paths(repository) == [".gitignore", "kept.log"]

    def test_ignores_of_the_repository_alone_count(self, repository: Path) -> None:
        make(repository, "a.py", "private.txt")
        make(repository, ".git/info/exclude", text="private.txt\n")
        assert paths(repository) == ["a.py"]

    def test_a_folder_below_the_top_level_is_a_project_of_its_own(self, repository: Path) -> None:
        make(repository, "other/a.py", "mine/b.py", "mine/c.tmp")
        make(repository, ".gitignore", text="*.tmp\n")
        git(repository, "add", "-A")
        assert paths(repository / "mine") == ["b.py"]

    def test_odd_names_are_kept(self, repository: Path) -> None:
        names = [
            "a b.py",
            "new\nline.py",
            "quote'\".py",
            "tab\t.py",
            "ünï.py",
            "-dash.py",
            "tracked\nline.py",
        ]
        make(repository, names[-1])
        git(repository, "add", "-A")
        make(repository, *names)
        assert paths(repository) == sorted(names)

    def test_unmerged_files_travel_once(self, repository: Path) -> None:
        make(repository, "a.py", text="base")
        git(repository, "add", "-A")
        git(repository, "commit", "-qm", "base")
        git(repository, "checkout", "-qb", "other")
        make(repository, "a.py", text="other")
        git(repository, "commit", "-qam", "other")
        git(repository, "checkout", "-q", "-")
        make(repository, "a.py", text="mine")
        git(repository, "commit", "-qam", "mine")
        subprocess.run(["git", "merge", "-q", "other"], cwd=repository, check=False, capture_output=True)
        assert paths(repository) == ["a.py"]

    def test_submodules_travel_with_their_own_ignores(self, repository: Path, tmp_path: Path) -> None:
        module = tmp_path / "module"
        module.mkdir()
        git(module, "init", "-q")
        make(module, "m.py", "deep/n.py")
        make(module, ".gitignore", text="*.log\n")
        git(module, "add", "-A")
        git(module, "commit", "-qm", "m")
        git(repository, "submodule", "add", "-q", str(module), "vendor/module")
        make(repository, "vendor/module/new.py", "vendor/module/x.log", "a.log")
        assert paths(repository) == [
            ".gitmodules",
            "a.log",
            "vendor/module/.gitignore",
            "vendor/module/deep/n.py",
            "vendor/module/m.py",
            "vendor/module/new.py",
        ]

    def test_a_submodule_that_is_not_checked_out_is_said(self, repository: Path, tmp_path: Path) -> None:
        self.test_submodules_travel_with_their_own_ignores(repository, tmp_path)
        git(repository, "commit", "-qam", "module")
        git(tmp_path, "clone", "-q", str(repository), "clone")
        found = workspace.collect(tmp_path / "clone")
        assert [file.path for file in found.files] == [".gitmodules"]
        assert found.warnings == (
            "submodule vendor/module is empty here; git submodule update --init fetches it",
        )

    def test_untracked_repositories_inside_travel(self, repository: Path) -> None:
        make(repository, "a.py", "nested/b.py", "nested/c.tmp")
        git(repository / "nested", "init", "-q")
        make(repository, "nested/.gitignore", text="*.tmp\n")
        assert paths(repository) == ["a.py", "nested/.gitignore", "nested/b.py"]

    def test_untracked_environments_and_caches_stay_here(self, repository: Path) -> None:
        make(
            repository,
            "a.py",
            "venv/pyvenv.cfg",
            "venv/lib/x.py",
            "pkg/__pycache__/a.pyc",
            ".mypy_cache/x.json",
        )
        make(repository, "tests/corpus/pyvenv.cfg", "tests/corpus/.tox/x")
        git(repository, "add", "a.py", "tests")
        assert paths(repository) == ["a.py", "tests/corpus/.tox/x", "tests/corpus/pyvenv.cfg"]

    def test_exclude_counts_and_include_brings_back(self, repository: Path) -> None:
        make(repository, "a.py", "docs/big.bin", "docs/keep.md", "build/lib.so", "data/x/y.dat", "data/z.tmp")
        make(repository, ".gitignore", text="build/\ndata/\n")
        git(repository, "add", "-A")
        assert paths(repository, exclude=["docs/"]) == [".gitignore", "a.py"]
        assert paths(repository, exclude=["docs/", "!docs/"]) == [
            ".gitignore",
            "a.py",
            "docs/big.bin",
            "docs/keep.md",
        ]
        assert paths(repository, exclude=["docs/*"], include=["docs/keep.md", "*.so", "/data/x/"]) == [
            ".gitignore",
            "a.py",
            "build/lib.so",
            "data/x/y.dat",
            "docs/keep.md",
        ]

    def test_include_does_not_search_environments_it_does_not_name(self, repository: Path) -> None:
        make(repository, ".gitignore", text="*\n")
        make(repository, "x.so", ".venv/pyvenv.cfg", ".venv/y.so", ".git/z.so", "pkg/__pycache__/w.so")
        assert paths(repository, include=["*.so"]) == ["x.so"]
        assert paths(repository, include=[".venv/y.so"]) == [".venv/y.so"]

    def test_a_project_that_a_work_tree_around_it_ignores_is_read_from_disk(self, repository: Path) -> None:
        make(repository, ".gitignore", text="*\n")
        make(repository, "scratch/a.py", "scratch/.pytest_cache/x")
        assert paths(repository / "scratch") == ["a.py"]

    def test_a_folder_that_became_a_link_is_followed_once(self, repository: Path) -> None:
        make(repository, "data/x.txt", "real/x.txt")
        git(repository, "add", "-A")
        shutil.rmtree(repository / "data")
        (repository / "data").symlink_to("real")
        assert paths(repository) == ["data/x.txt", "real/x.txt"]

    def test_a_hook_of_git_does_not_mislead(
        self, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(repository, "a.py")
        monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
        monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
        assert paths(repository) == ["a.py"]

    def test_without_a_git_program_the_ignore_files_count_and_it_is_said(
        self, repository: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        make(repository, "sub/a.py", "sub/a.log", "sub/only.txt")
        make(repository, ".gitignore", text="*.log\n/sub/only.txt\n")
        monkeypatch.setenv("PATH", "")
        found = workspace.collect(repository / "sub")
        assert [file.path for file in found.files] == ["a.py"]
        assert found.warnings == (
            "git is not installed: everything but caches and what .gitignore names is sent",
        )

    def test_a_work_tree_that_git_refuses_is_read_from_disk_and_it_is_said(self, repository: Path) -> None:
        make(repository, "a.py")
        (repository / ".git" / "HEAD").write_text("broken")
        found = workspace.collect(repository)
        assert [file.path for file in found.files] == ["a.py"]
        assert "not a git repository" in found.warnings[0]


class TestOutsideGit:
    """Without git: everything but what tools write and what ignore files and `exclude` name."""

    @pytest.mark.case(61, 62, 63, 64, 65)
    def test_everything_travels_but_caches_environments_and_outputs(self, plain: Path) -> None:
        """Files that begin with a dot travel, unlike in earlier clients: suites need .coveragerc and .env.test."""
        make(
            plain,
            "a.py",
            ".coveragerc",
            ".env.test",
            ".github/x.yml",
            "deep/er/and/deeper/b.py",
            "pkg/build/c.py",
        )
        make(
            plain,
            "__pycache__/a.pyc",
            "pkg/__pycache__/b.pyc",
            ".pytest_cache/x",
            ".mypy_cache/x",
            ".ruff_cache/x",
        )
        make(
            plain,
            ".tox/x",
            ".nox/x",
            "node_modules/x",
            "build/x",
            "dist/x",
            "src/p.egg-info/PKG-INFO",
            ".hg/x",
        )
        make(
            plain,
            ".venv/pyvenv.cfg",
            ".venv/x.py",
            "deep/env/pyvenv.cfg",
            "deep/env/x.py",
            ".svn/x",
            ".DS_Store",
        )
        assert paths(plain) == [
            ".coveragerc",
            ".env.test",
            ".github/x.yml",
            "a.py",
            "deep/er/and/deeper/b.py",
            "pkg/build/c.py",
        ]

    def test_a_root_folder_build_that_is_a_package_travels(self, plain: Path) -> None:
        make(plain, "build/__init__.py", "build/x.py")
        assert paths(plain) == ["build/__init__.py", "build/x.py"]

    def test_ignore_files_count_at_every_level(self, plain: Path) -> None:
        make(plain, "a.log", "keep.log", "sub/b.log", "sub/c.txt", "sub/d.txt", "out/x", "sub/out/y")
        make(plain, ".gitignore", text="*.log\n!keep.log\n/out/\n")
        make(plain, "sub/.gitignore", text="!b.log\nc.txt\n")
        assert paths(plain) == [
            ".gitignore",
            "keep.log",
            "sub/.gitignore",
            "sub/b.log",
            "sub/d.txt",
            "sub/out/y",
        ]

    def test_exclude_counts_and_include_brings_back(self, plain: Path) -> None:
        make(plain, "a.py", "big/x.bin", "big/y.bin", "build/z.so", "node_modules/m/index.js")
        make(plain, ".gitignore", text="a.py\n")
        assert paths(plain, exclude=["big/", ".gitignore"]) == []
        assert paths(
            plain, exclude=["big/"], include=["/big/y.bin", "build/*.so", "a.py", "node_modules/m/"]
        ) == [".gitignore", "a.py", "big/y.bin", "build/z.so", "node_modules/m/index.js"]

    def test_a_hidden_folder_above_the_project_does_not_matter(self, tmp_path: Path) -> None:
        root = tmp_path / ".hidden" / "__pycache__" / "build"
        make(root, "a.py", "sub/b.py")
        assert paths(root) == ["a.py", "sub/b.py"]

    @pytest.mark.case(67)
    def test_an_empty_project_gives_an_empty_workspace(self, plain: Path) -> None:
        found = workspace.collect(plain)
        assert (found.files, found.size, list(found.listing())) == ((), 0, ["       0 B  in 0 files"])

    def test_sockets_and_pipes_stay_here(self, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(plain, "a.py")
        os.mkfifo(plain / "pipe")
        monkeypatch.chdir(plain)  # the address of a socket must be short
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("socket")
            assert paths(plain) == ["a.py"]

    def test_a_missing_folder_is_an_error(self, plain: Path) -> None:
        with pytest.raises(WorkspaceError, match="no such folder"):
            workspace.collect(plain / "missing")

    def test_what_cannot_be_read_is_named_and_can_be_left_out(self, unprivileged: Path) -> None:
        make(unprivileged, "a.py", "locked.txt", "closed/b.py")
        (unprivileged / "locked.txt").chmod(0)
        with pytest.raises(
            WorkspaceError, match=r'locked.txt: cannot be read .* exclude = \["/locked.txt"\]'
        ):
            workspace.collect(unprivileged)
        (unprivileged / "closed").chmod(0)
        with pytest.raises(WorkspaceError, match=r'closed: cannot be read .* exclude = \["closed/"\]'):
            workspace.collect(unprivileged)
        assert paths(unprivileged, exclude=["closed/", "/locked.txt"]) == ["a.py"]

    @pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
    def test_a_name_that_is_no_utf_8_is_refused_by_name(self, plain: Path) -> None:
        make(plain, "a.py")
        with Path(os.fsdecode(os.fsencode(plain) + b"/bad-\xff.txt")).open("w"):
            pass
        with pytest.raises(WorkspaceError, match=r"not UTF-8 .*: bad-\\xff.txt; .*exclude = \[\"/bad-\*\"\]"):
            workspace.collect(plain)
        assert paths(plain, exclude=["/bad-*"]) == ["a.py"]


class TestModes:
    """Only the executable bit travels."""

    def test_executable_bits_are_kept(self, plain: Path) -> None:
        make(plain, "script", "data", "group")
        (plain / "script").chmod(0o700)
        (plain / "data").chmod(0o600)
        (plain / "group").chmod(0o654)
        modes = {file.path: file.mode for file in workspace.collect(plain).files}
        assert modes == {"script": 0o755, "data": 0o644, "group": 0o644}


@pytest.fixture(params=["git", "disk"])
def either(request: pytest.FixtureRequest, repository: Path, plain: Path) -> Path:
    """A project in git and one outside."""
    return repository if request.param == "git" else plain


class TestLinks:
    """Links travel as what they point to."""

    def test_links_to_files_and_folders_travel_as_their_contents(self, either: Path) -> None:
        make(either, "real/a.txt", "real/sub/b.txt", text="content")
        (either / "real" / "a.txt").chmod(0o755)
        (either / "file").symlink_to("real/a.txt")
        (either / "absolute").symlink_to(either / "real" / "a.txt")
        (either / "folder").symlink_to("real")
        found = {file.path: file for file in workspace.collect(either).files}
        assert sorted(found) == [
            *("absolute", "file", "folder/a.txt", "folder/sub/b.txt", "real/a.txt", "real/sub/b.txt")
        ]
        assert found["file"].sha256 == found["real/a.txt"].sha256 == found["folder/a.txt"].sha256
        assert found["file"].mode == 0o755

    def test_links_through_links_are_followed(self, either: Path) -> None:
        make(either, "a/x.txt", "b/y.txt")
        (either / "b" / "to_a").symlink_to("../a")
        (either / "c").symlink_to("b")
        (either / "one").symlink_to("two")
        (either / "two").symlink_to("a/x.txt")
        assert paths(either) == [
            "a/x.txt",
            "b/to_a/x.txt",
            "b/y.txt",
            "c/to_a/x.txt",
            "c/y.txt",
            "one",
            "two",
        ]

    def test_a_cycle_ends(self, either: Path) -> None:
        make(either, "a/x.txt", "b/y.txt")
        (either / "a" / "up").symlink_to("..")
        (either / "a" / "self").symlink_to(".")
        (either / "a" / "to_b").symlink_to("../b")
        (either / "b" / "to_a").symlink_to("../a")
        (either / "loop").symlink_to("loop")
        found = workspace.collect(either)
        assert [file.path for file in found.files] == ["a/to_b/y.txt", "a/x.txt", "b/to_a/x.txt", "b/y.txt"]
        assert "a/up: left out, because the link points to a folder that it lies in" in found.warnings
        assert "loop: left out, because the link points to nothing" in found.warnings

    def test_a_link_that_points_to_nothing_is_left_out_and_said(self, either: Path) -> None:
        make(either, "a.txt")
        (either / "dangling").symlink_to("missing")
        found = workspace.collect(either)
        assert [file.path for file in found.files] == ["a.txt"]
        assert found.warnings == ("dangling: left out, because the link points to nothing",)

    def test_links_that_leave_the_project_are_refused_by_name(self, either: Path, tmp_path: Path) -> None:
        make(either, "a.txt", "sub/b.txt")
        make(tmp_path, "outside/secret.txt")
        (either / "one").symlink_to("/etc/passwd")
        (either / "sub" / "two").symlink_to(tmp_path / "outside")
        (either / "three").symlink_to("../outside/secret.txt")
        with pytest.raises(WorkspaceError) as caught:
            workspace.collect(either)
        assert str(caught.value) == (
            "links lead out of the project and cannot be sent: one, sub/two, three; "
            'leave them out with exclude = ["/one", "/sub/two", "/three"]'
        )
        assert paths(either, exclude=["/one", "/sub/two", "/three"]) == ["a.txt", "sub/b.txt"]

    def test_a_link_into_version_control_is_refused(self, either: Path) -> None:
        make(either, ".git/config.secret")
        (either / "config").symlink_to(".git/config.secret")
        with pytest.raises(
            WorkspaceError, match="a link leads out of the project and cannot be sent: config"
        ):
            workspace.collect(either)

    def test_a_link_to_an_environment_elsewhere_is_left_out(self, either: Path, tmp_path: Path) -> None:
        make(either, "a.txt")
        make(tmp_path, "venvs/x/pyvenv.cfg")
        (either / ".venv").symlink_to(tmp_path / "venvs" / "x")
        found = workspace.collect(either)
        assert [file.path for file in found.files] == ["a.txt"]
        assert found.warnings == (".venv: left out, because the link points to a virtual environment",)

    def test_a_link_to_a_folder_of_which_nothing_travels_is_said(self, either: Path) -> None:
        make(either, "hidden/x.txt")
        make(either, ".gitignore", text="hidden/\n")
        (either / "link").symlink_to("hidden")
        assert workspace.collect(either).warnings == (
            "link: left out, because the link points to hidden, where nothing is sent",
        )
        assert paths(either, include=["hidden/"]) == [".gitignore", "hidden/x.txt", "link/x.txt"]

    def test_exclude_counts_below_a_link(self, either: Path) -> None:
        make(either, "real/a.txt", "real/b.txt")
        (either / "link").symlink_to("real")
        assert paths(either, exclude=["/link/a.txt"]) == ["link/b.txt", "real/a.txt", "real/b.txt"]

    def test_folders_that_multiply_by_links_are_refused(
        self, plain: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_remote_ci.links._MOST_FILES", 100)
        make(plain, "f0/x.txt")
        for number in range(1, 12):
            (plain / f"f{number}").mkdir()
            for name in "ab":
                (plain / f"f{number}" / name).symlink_to(f"../f{number - 1}")
        with pytest.raises(WorkspaceError, match="more than 100 files would be sent"):
            workspace.collect(plain)

    def test_the_project_may_itself_be_reached_through_a_link(self, either: Path, tmp_path: Path) -> None:
        make(either, "a/x.txt")
        (either / "inside").symlink_to(either / "a" / "x.txt")
        (tmp_path / "alias").symlink_to(either)
        found = workspace.collect(tmp_path / "alias")
        assert [file.path for file in found.files] == ["a/x.txt", "inside"]
        assert found.root == tmp_path / "alias"


class TestSecrets:
    """What looks like a secret travels only when `include` names it."""

    def test_all_of_them_are_named_with_the_line_that_allows_them(self, either: Path) -> None:
        make(either, "a.py", "id_rsa")
        make(either, "tests/certs/server.key", "tests/certs/we[i]rd.pem", text=PEM)
        with pytest.raises(WorkspaceError) as caught:
            workspace.collect(either)
        text = str(caught.value)
        assert text.splitlines() == [
            "3 files look like secrets and nothing was sent:",
            "  id_rsa looks like an SSH private key",
            "  tests/certs/server.key looks like a private key",
            "  tests/certs/we[i]rd.pem looks like a private key",
            (
                "Leave them out with `exclude`, or, when they are meant for tests, "
                "send them with this in [tool.remote-ci]:"
            ),
            '  include = ["/id_rsa", "/tests/certs/server.key", "/tests/certs/we\\\\[i]rd.pem"]',
        ]
        allowed = _pasted(text)
        assert len(paths(either, include=allowed)) == 4
        assert paths(either, exclude=allowed) == ["a.py"]
        assert paths(either, allow_secrets=True) == paths(either, include=allowed)

    def test_many_of_one_kind_are_allowed_by_one_pattern(self, either: Path) -> None:
        make(either, *(f"tests/keys/{number}.pem" for number in range(20)), text=PEM)
        make(either, *(f"tests/keys/{number}.crt" for number in range(20)))
        with pytest.raises(WorkspaceError) as caught:
            workspace.collect(either)
        assert _pasted(str(caught.value)) == ["/tests/keys/*.pem"]
        assert len(paths(either, include=["/tests/keys/*.pem"])) == 40

    def test_many_of_one_kind_in_several_folders_are_allowed_by_one_pattern(self, either: Path) -> None:
        make(
            either, *(f"tests/{number}/a.key" for number in range(4)), "tests/b.key", "tests/id_rsa", text=PEM
        )
        with pytest.raises(WorkspaceError) as caught:
            workspace.collect(either)
        assert _pasted(str(caught.value)) == ["/tests/**/*.key", "/tests/id_rsa"]
        assert len(paths(either, include=_pasted(str(caught.value)))) == 6

    def test_many_of_one_kind_without_a_common_folder_are_named_each(self, either: Path) -> None:
        make(either, *(f"{number}/a.key" for number in range(4)), text=PEM)
        with pytest.raises(WorkspaceError) as caught:
            workspace.collect(either)
        assert len(_pasted(str(caught.value))) == 4

    @pytest.mark.parametrize("pattern", ["keys/", "*", "keys/**", "keys/*", "/keys/"])
    def test_a_pattern_that_names_no_files_allows_no_secret(self, either: Path, pattern: str) -> None:
        make(either, "keys/a.pem", text=PEM)
        with pytest.raises(WorkspaceError, match="a file looks like secrets"):
            workspace.collect(either, include=[pattern])

    def test_a_link_to_a_secret_is_a_secret(self, either: Path) -> None:
        make(either, ".gitignore", text="private/\n")
        make(either, "private/key", text=PEM)
        (either / "innocent.txt").symlink_to("private/key")
        with pytest.raises(WorkspaceError, match=r"innocent\.txt looks like a private key"):
            workspace.collect(either)

    def test_ignored_secrets_do_not_matter(self, either: Path) -> None:
        make(either, ".gitignore", text="id_rsa\n")
        make(either, "id_rsa")
        assert paths(either) == [".gitignore"]


def _pasted(text: str) -> list[str]:
    from pytest_remote_ci.userfile import read_toml

    file = Path(os.environ["XDG_CACHE_HOME"]).with_name("pasted.toml")
    file.write_text(text.splitlines()[-1].strip())
    include: list[str] = read_toml(file)["include"]
    return include


class TestChoosing:
    """Plugins change which files travel."""

    def test_files_are_removed_and_added(self, repository: Path) -> None:
        make(repository, "a.py", "b.py", "ignored.log")
        make(repository, ".gitignore", text="*.log\n")
        chosen = workspace.collect(repository).choose(["a.py", "ignored.log"])
        assert [file.path for file in chosen.files] == ["a.py", "ignored.log"]
        assert [entry.path for entry in chosen.manifest().files] == ["a.py", "ignored.log"]

    @pytest.mark.parametrize(
        "path", ["missing", "folder", "../outside", "/etc/hostname", "folder/../a.py", ""]
    )
    def test_what_is_no_file_of_the_project_cannot_be_added(self, plain: Path, path: str) -> None:
        make(plain, "a.py", "folder/x", "../outside")
        with pytest.raises(WorkspaceError, match="cannot be added"):
            workspace.collect(plain).choose(["a.py", path])

    def test_a_secret_cannot_be_added(self, repository: Path) -> None:
        make(repository, "id_rsa")
        make(repository, ".gitignore", text="id_rsa\n")
        with pytest.raises(WorkspaceError, match="id_rsa looks like"):
            workspace.collect(repository).choose(["id_rsa"])
        allowed = workspace.collect(repository, include=["/id_rsa"])
        assert [file.path for file in allowed.choose(["id_rsa"]).files] == ["id_rsa"]


def test_the_listing_is_largest_first_with_the_sum(plain: Path) -> None:
    make(plain, "small", text="x")
    make(plain, "also small", text="x")
    make(plain, "large", text="x" * 1_234_567)
    assert list(workspace.collect(plain).listing()) == [
        "    1.2 MB  large",
        "       1 B  also small",
        "       1 B  small",
        "    1.2 MB  in 3 files",
    ]


def test_modes_of_files_on_disk_are_not_changed(plain: Path) -> None:
    make(plain, "a.py")
    (plain / "a.py").chmod(0o600)
    workspace.collect(plain)
    assert stat.S_IMODE((plain / "a.py").stat().st_mode) == 0o600


def test_a_file_that_goes_away_while_it_is_read_is_left_out(
    plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(plain, "a.py", "gone.py")
    original: Callable[..., object] = workspace.find

    def vanish(*arguments: object) -> object:
        found = original(*arguments)
        (plain / "gone.py").unlink()
        return found

    monkeypatch.setattr(workspace, "find", vanish)
    assert paths(plain) == ["a.py"]
