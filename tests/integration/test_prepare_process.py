"""The same preparation where nothing can be mounted: jobs as processes of this machine; and trees by themselves."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from preparing import CA_BUNDLE, Bench, folder_files

from ci_runner.blobs import BlobStore, job_owner
from ci_runner.config import EnvironmentSettings
from ci_runner.controller.engines.process import ProcessEngine
from ci_runner.controller.workspaces import Workspaces
from ci_runner.errors import PermanentError
from pytest_remote_ci.wire import Manifest, ManifestEntry

FIXTURES = Path(__file__).parents[1] / "fixtures"
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    data = tmp_path_factory.mktemp("data")
    install = uuid.uuid4().hex[:12]
    engine = ProcessEngine(install, folder=data / "process")
    if PYTHON not in engine.image("python").pythons:
        pytest.skip(f"there is no Python {PYTHON} on the path")
    settings = EnvironmentSettings(ca_bundle=Path(CA_BUNDLE) if CA_BUNDLE else None)
    yield Bench(data, engine, None, settings, {"default_python": PYTHON}, install_id=install)
    assert engine.list() == []
    engine.close()


@pytest.mark.parametrize(("name", "code"), [("dummy", 0), ("failing", 1)])
def test_the_reference_projects_without_containers(bench: Bench, name: str, code: int) -> None:
    job = bench.submit(folder_files(FIXTURES / f"{name}_project"), root="/home/dev/project", args=["-v"])
    ran = bench.run(job)
    assert ran.code == code, ran.stderr
    bench.preparer.remove_work(job.id)
    assert not list((bench.data / "work").glob(f"{job.id}-*"))


def test_a_package_is_installed_where_its_job_runs(bench: Bench) -> None:
    files = {
        "pyproject.toml": '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "demo-pkg"\nversion = "1"\ndependencies = ["six"]\n'
        '[project.scripts]\ndemo-x = "demo:main"\n',
        "src/demo/__init__.py": "import six\ndef main(): print('ran')\n",
        "tests/test_a.py": "import demo, os, subprocess\ndef test_a():\n"
        "    assert demo.__file__ == os.path.join(os.getcwd(), 'src', 'demo', '__init__.py')\n"
        "    assert subprocess.check_output(['demo-x']) == b'ran\\n'\n",
    }
    ran = bench.run(bench.submit(files, root="/home/dev/project"))
    assert ran.code == 0, ran.stdout + ran.stderr


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path, job_owner())


def manifest(blobs: BlobStore, count: int) -> str:
    digests = [blobs.put_bytes(f"content {number}".encode()) for number in range(20)]
    entries = [
        ManifestEntry(
            f"d{number % 50}/e{number % 7}/f{number}.py",
            0o644 if number % 100 else 0o755,
            9,
            digests[number % 20],
        )
        for number in range(count)
    ]
    return blobs.put_manifest(Manifest(tuple(entries)))


def test_ten_thousand_files_are_assembled_in_a_moment(blobs: BlobStore, tmp_path: Path) -> None:
    digest = manifest(blobs, 10_000)
    workspaces = Workspaces(tmp_path, blobs, job_owner())
    began = time.monotonic()
    folder = workspaces.tree(digest)
    assert time.monotonic() - began < 5  # about 0.4 on an idle machine
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert len(found) == 10_000
    plain, executable = folder / "d1/e1/f1.py", folder / "d0/e0/f0.py"
    assert plain.stat().st_nlink > 100
    assert (plain.stat().st_mode & 0o777, executable.stat().st_mode & 0o777) == (0o644, 0o755)
    if os.geteuid() == 0:
        assert {path.stat().st_uid for path in (folder, folder / "d1", plain)} == {job_owner()}


def test_a_tree_is_assembled_once_and_completed_after_a_crash(blobs: BlobStore, tmp_path: Path) -> None:
    digest = manifest(blobs, 200)
    workspaces = Workspaces(tmp_path, blobs, job_owner())
    half = tmp_path / "trees" / digest
    half.mkdir()
    (half / "left-over").touch()
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(workspaces.tree(digest))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(folders) == {half}
    assert not (half / "left-over").exists()
    assert {path.name for path in half.parent.iterdir()} == {digest, f"{digest}.ok"}


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "a//b", "./a", ""])
def test_an_unsafe_path_in_a_manifest_is_refused(blobs: BlobStore, tmp_path: Path, path: str) -> None:
    digest = blobs.put_manifest(Manifest((ManifestEntry(path, 0o644, 1, blobs.put_bytes(b"x")),)))
    with pytest.raises(PermanentError, match="unsafe path"):
        Workspaces(tmp_path, blobs, job_owner()).tree(digest)
    assert not [entry for entry in (tmp_path / "trees").iterdir() if entry.name.startswith(".tmp")]


def test_contents_that_are_gone_are_named(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put_manifest(Manifest((ManifestEntry("a.py", 0o644, 1, "0" * 64),)))
    with pytest.raises(PermanentError, match=r"a\.py"):
        Workspaces(tmp_path, blobs, job_owner()).tree(digest)
