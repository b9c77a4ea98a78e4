"""The data directory is private, and its install id is made once."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from ci_runner.errors import SettingsError
from ci_runner.storage import data_dir


def test_a_missing_folder_is_made_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    data_dir.prepare(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_read_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    data_dir.prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o702, 0o777], ids=oct)
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    with pytest.raises(SettingsError, match=r"others may write to it .*: chmod 700"):
        data_dir.prepare(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == mode


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(SettingsError, match="not a folder"):
        data_dir.prepare(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(SettingsError, match="belongs to user 12345"):
        data_dir.prepare(folder)


def test_the_install_id_stays(tmp_path: Path) -> None:
    first = data_dir.install_id(tmp_path)
    assert data_dir.install_id(tmp_path) == first
    assert len(first) == 12
    assert [path.name for path in tmp_path.iterdir()] == ["install-id"]
    assert (tmp_path / "install-id").stat().st_mode & 0o777 == 0o600


def test_processes_that_start_together_agree_on_the_install_id(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert len(set(pool.map(data_dir.install_id, [tmp_path] * 16))) == 1
        pool.close()
        pool.join()


def test_a_damaged_install_id_is_refused(tmp_path: Path) -> None:
    (tmp_path / "install-id").write_text("what?\n")
    with pytest.raises(SettingsError, match="damaged"):
        data_dir.install_id(tmp_path)


def test_a_lock_is_held_once_and_free_again_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with (
        data_dir.locked(path, "a runner"),
        pytest.raises(data_dir.Busy, match=rf"a runner \(process {os.getpid()}\) already uses"),
        data_dir.locked(path, "a runner"),
    ):
        pass
    with data_dir.locked(path, "a runner"):
        pass
