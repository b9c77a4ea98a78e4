"""What the caches count, and what goes when they are too large."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ci_runner.controller.cleanup.cache_eviction import Evictor
from ci_runner.controller.engine import Limits
from ci_runner.controller.engines.memory import MemoryEngine
from ci_runner.controller.environments.builds import Builds
from ci_runner.controller.environments.cells import Cells
from ci_runner.controller.environments.system_packages import SystemPackages
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.settings.groups import EnvironmentSettings
from ci_runner.storage.blobs import BlobStore
from ci_runner.storage.kept_folders import KeptFolders, Project, describe
from ci_runner.storage.safe_fs import Trash

FILES = 500


@pytest.fixture
def evict(tmp_path: Path) -> Callable[[int], None]:
    """Evict with a cache size."""
    trash, engine = Trash(tmp_path / "trash"), MemoryEngine()
    cells = Cells(tmp_path, trash)
    builds = Builds(engine, cells, prefix="x-", install_id="0" * 12, owner=None, limits=Limits(), places=1)
    packages = SystemPackages(tmp_path, engine, builds, EnvironmentSettings(), (), Limits())
    workspaces = Workspaces(tmp_path, BlobStore(tmp_path, None), None)

    def run(size: int) -> None:
        Evictor(tmp_path, workspaces, cells, packages, trash, size, fresh=60.0).evict(frozenset())

    return run


@pytest.mark.parametrize(
    "make", [Path.touch, lambda path: path.symlink_to("nowhere")], ids=["files", "links"]
)
def test_what_is_empty_counts_for_its_inode(
    tmp_path: Path, evict: Callable[[int], None], make: Callable[[Path], None]
) -> None:
    """Otherwise one user could use up all inodes, folder by folder, without the caches ever being too large."""
    kept, project = KeptFolders(tmp_path), Project("mallory", "/p")
    with kept.making(project) as made:
        for number in range(FILES):
            make(made / "tree" / str(number))
        kept.publish(project, made, describe(project, "*", FILES, 0), "")
    [info] = tmp_path.glob("environments/*/kept/*/*/info.json")
    os.utime(info, (time.time() - 3600,) * 2)
    evict((FILES + 10) * 4096)
    assert kept.of(project) != []
    evict((FILES - 10) * 4096)
    assert kept.of(project) == []
