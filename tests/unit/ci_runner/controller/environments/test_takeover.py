"""Taking over what builds made: what is refused, what is made harmless, what arrives."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ci_runner.controller.environments import takeover
from ci_runner.dependencies.project import Tree
from ci_runner.errors import EnvironmentFailed
from ci_runner.storage.safe_fs import FOLDER, opened_folder


def take_ownership(parent: Path, name: str = "environment", owner: int | None = None) -> None:
    with opened_folder(parent) as folder:
        takeover.take_ownership(folder, name, owner)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    folder = tmp_path / "store" / "environment"
    (folder / "lib" / "package").mkdir(parents=True)
    (folder / "lib" / "package" / "module.py").write_text("x = 1\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "tool").write_text("#!/bin/sh\n")
    (folder / "bin" / "tool").chmod(0o775)
    (folder / "bin" / "python").symlink_to("/usr/bin/python3")
    return folder


def test_an_environment_is_closed_to_all_but_its_readers(environment: Path) -> None:
    (environment / "lib" / "package" / "module.py").chmod(0o666)
    (environment / "lib" / "package").chmod(0o777)
    (environment / "bin" / "tool").chmod(0o4777)
    environment.chmod(0o700)
    take_ownership(environment.parent)
    modes = {
        path.relative_to(environment).as_posix(): oct(path.stat().st_mode & 0o7777)
        for path in (environment, *environment.rglob("*"))
        if not path.is_symlink()
    }
    assert modes == {
        ".": "0o755",
        "lib": "0o755",
        "lib/package": "0o755",
        "lib/package/module.py": "0o644",
        "bin": "0o755",
        "bin/tool": "0o755",
    }
    assert (environment / "bin" / "python").readlink() == Path("/usr/bin/python3")


def test_what_its_owner_closed_is_opened(environment: Path) -> None:
    (environment / "lib" / "package").chmod(0)
    (environment / "lib").chmod(0)
    take_ownership(environment.parent)
    assert (environment / "lib" / "package" / "module.py").read_text() == "x = 1\n"


def test_links_are_not_followed(environment: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").touch()
    (outside / "file").chmod(0o600)
    (environment / "link").symlink_to(outside)
    (environment / "other").symlink_to(outside / "file")
    take_ownership(environment.parent)
    assert outside.stat().st_mode & 0o777 == 0o700
    assert (outside / "file").stat().st_mode & 0o777 == 0o600


def make_link(path: Path) -> None:
    path.symlink_to("/etc")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


@pytest.mark.parametrize("make", [make_link, Path.touch, os.mkfifo], ids=["a link", "a file", "a pipe"])
def test_what_is_no_folder_is_no_environment(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "environment")
    with pytest.raises(EnvironmentFailed, match="created no environment"):
        take_ownership(tmp_path)
    with pytest.raises(EnvironmentFailed, match="created no environment"):
        take_ownership(tmp_path, "missing")


@pytest.mark.parametrize("make", [os.mkfifo, make_socket], ids=["a pipe", "a socket"])
def test_only_files_folders_and_links_are_taken(
    environment: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(environment / "lib")  # a socket's path is short
    make(Path("thing"))
    with pytest.raises(EnvironmentFailed, match="other than files, folders and links"):
        take_ownership(environment.parent)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("path", ["lib/package/module.py", "lib/package", "bin/python", "."])
def test_what_belongs_to_somebody_else_is_refused(environment: Path, path: str) -> None:
    os.chown(environment / path, 65532, 65532, follow_symlinks=False)
    with pytest.raises(EnvironmentFailed, match="of another owner"):
        take_ownership(environment.parent, owner=65533)
    take_ownership(environment.parent, owner=65532)
    assert (environment / "lib" / "package").stat().st_uid == 0, "folders become the runner's"


def test_depth_and_number_are_bounded(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "MAX_ENTRIES", 3)
    with pytest.raises(EnvironmentFailed, match="more than 3 files"):
        take_ownership(environment.parent)
    monkeypatch.undo()
    here = os.open(environment, FOLDER)
    for _ in range(takeover.MAX_DEPTH + 50):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", FOLDER, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    with pytest.raises(EnvironmentFailed, match="100 levels"):
        take_ownership(environment.parent)


# -- what an editable install leaves in the workspace
SENT = Tree({"src/app/__init__.py": "", "src/app/fast.c": "", "data.txt": ""}, lambda path: b"")


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    folder = tmp_path / "upper"
    for path in (
        "src/app.egg-info/PKG-INFO",
        "src/app/__init__.py",
        "src/app/fast.so",
        "data.txt",
        "a/b/c.txt",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    (folder / "src" / "app" / "__pycache__").mkdir()
    (folder / "src" / "app" / "__pycache__" / "x.pyc").touch()
    (folder / "empty").mkdir()
    return folder


def keep(upper: Path, target: Path) -> dict[str, int]:
    target.mkdir()
    with opened_folder(upper) as source, opened_folder(target) as goal:
        takeover.keep_products(source, goal, SENT, None)
    return {path.relative_to(target).as_posix(): path.lstat().st_mode for path in sorted(target.rglob("*"))}


def test_only_products_are_kept(upper: Path, tmp_path: Path) -> None:
    (upper / "link").symlink_to("/etc/passwd")
    os.mkfifo(upper / "src" / "pipe")
    (upper / "src" / "app" / "fast.so").chmod(0o4777)
    (upper / "a").chmod(0o700)
    found = keep(upper, tmp_path / "kept")
    assert list(found) == [
        "a",
        "a/b",
        "a/b/c.txt",
        "link",
        "src",
        "src/app",
        "src/app/fast.so",
        "src/app.egg-info",
        "src/app.egg-info/PKG-INFO",
    ]
    assert found["a"] & 0o777 == 0o755, "a job can look into it"
    assert found["src/app/fast.so"] & 0o7777 == 0o755


def test_folders_that_were_closed_or_linked_lead_nowhere(upper: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    (upper / "linked").symlink_to(outside)
    (upper / "a" / "b").chmod(0)
    found = keep(upper, tmp_path / "kept")
    assert "a/b/c.txt" in found
    assert (tmp_path / "kept" / "linked").is_symlink()
    assert "linked/file" not in found
    assert (outside / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can set what overlays note")
def test_what_an_overlay_notes_at_folders_stays_behind(upper: Path, tmp_path: Path) -> None:
    """An opaque folder would hide the developer's files below it."""
    try:
        os.setxattr(upper / "src", "trusted.overlay.opaque", b"y")
    except OSError as error:
        pytest.skip(f"no such attributes here: {error}")
    keep(upper, tmp_path / "kept")
    assert os.listxattr(tmp_path / "kept" / "src") == []
