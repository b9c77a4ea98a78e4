"""The same preparation where nothing can be mounted: jobs as processes of this machine; and trees by themselves."""

from __future__ import annotations

import errno
import os
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from support.preparer import CA_BUNDLE, Bench, folder_files

from ci_runner.controller.cleanup.cache_eviction import _Sizes
from ci_runner.controller.engines.process.engine import ProcessEngine
from ci_runner.controller.environments.workspaces import Workspaces
from ci_runner.errors import PermanentError, StorageFull
from ci_runner.settings.groups import EnvironmentSettings
from ci_runner.storage.blobs import BlobStore, job_owner
from pytest_remote_ci.wire.protocol import Manifest, ManifestEntry

FIXTURES = Path(__file__).parents[2] / "fixtures"
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


def test_the_next_job_has_what_the_last_one_left(bench: Bench) -> None:
    test = (
        "from pathlib import Path\n"
        "def test_a():\n"
        "    for folder in (Path('.hypothesis'), Path.home() / '.cache' / 'tool'):\n"
        "        folder.mkdir(parents=True, exist_ok=True)\n"
        "        names = sorted(path.name for path in folder.iterdir())\n"
        "        assert names == [str(number) for number in range(len(names))]\n"
        "        (folder / str(len(names))).touch()\n"
        "        print(folder.name, len(names))\n"
    )
    files = {"test_a.py": test, ".hypothesis/0": "the client's"}
    for count in range(3):
        job = bench.submit(
            files, root="/home/dev/kept", keep=[".hypothesis", "~/.cache/tool"], args=["-sq", "test_a.py"]
        )
        ran = bench.run(job)
        assert ran.code == 0, ran.stdout + ran.stderr
        assert f".hypothesis {count + 1}\n" in ran.stdout
        assert f"tool {count}\n" in ran.stdout
        bench.preparer.store_kept(replace(job, status="completed", exit_code=0))
        bench.preparer.remove_work(job.id)


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path, job_owner())


def manifest(blobs: BlobStore, files: Mapping[str, bytes], executable: frozenset[str] = frozenset()) -> str:
    with blobs.batch() as batch:
        entries = [
            ManifestEntry(path, 0o755 if path in executable else 0o644, len(data), batch.put([data])[0])
            for path, data in files.items()
        ]
        batch.commit()
    return blobs.put_manifest(Manifest(tuple(entries)))


def plain_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_files_of_a_tree_are_hard_links_to_their_contents(blobs: BlobStore, tmp_path: Path) -> None:
    digest = manifest(blobs, {f"d{n % 50}/e{n % 7}/f{n}.py": f"content {n}".encode() for n in range(500)})
    files = plain_files(Workspaces(tmp_path, blobs, job_owner()).tree(digest))
    assert len(files) == 500
    assert {path.stat().st_nlink for path in files} == {2}


@pytest.mark.parametrize(
    "content", [b"", b"def test_x(): pass\n", os.urandom(3 << 20)], ids=["empty", "small", "large"]
)
def test_each_path_is_an_inode_of_its_own(blobs: BlobStore, tmp_path: Path, content: bytes) -> None:
    files = dict.fromkeys(["a/test_x.py", "b/test_x.py", "c/run.sh", "d/run.sh"], content)
    digest = manifest(blobs, files, frozenset({"c/run.sh", "d/run.sh"}))
    folder = Workspaces(tmp_path, blobs, job_owner()).tree(digest)
    found = {path.relative_to(folder).as_posix(): path for path in plain_files(folder)}
    assert found.keys() == files.keys()
    assert {path.read_bytes() for path in found.values()} == {content}
    states = {path: found[path].stat() for path in files}
    assert len({state.st_ino for state in states.values()}) == 4
    for first, second, mode in (("a/test_x.py", "b/test_x.py", 0o644), ("c/run.sh", "d/run.sh", 0o755)):
        one, other = states[first], states[second]
        assert (one.st_nlink, other.st_nlink) == (2, 1)
        assert one.st_mode & 0o7777 == other.st_mode & 0o7777 == mode
        assert (one.st_mtime_ns, one.st_uid, one.st_gid) == (other.st_mtime_ns, other.st_uid, other.st_gid)
    if os.geteuid() == 0:
        assert {path.stat().st_uid for path in (folder, folder / "a", *found.values())} == {job_owner()}


def test_a_tree_on_a_file_system_without_hard_links(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise OSError(errno.EMLINK, "Too many links")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "copy_file_range", Mock(side_effect=OSError(errno.EOPNOTSUPP, "not supported")))
    files = {"a.py": b"x" * 100_000, "b.py": b""}
    folder = Workspaces(tmp_path, blobs, job_owner()).tree(manifest(blobs, files))
    assert {path.name: path.read_bytes() for path in plain_files(folder)} == files


def test_contents_that_are_sent_again_do_not_touch_the_files_of_a_tree(
    blobs: BlobStore, tmp_path: Path
) -> None:
    digest = manifest(blobs, {"a.py": b"x", "b.py": b"x"})
    folder = Workspaces(tmp_path, blobs, job_owner()).tree(digest)
    for path in plain_files(folder):
        os.utime(path, (1_000_000, 1_000_000))
    assert blobs.renew(blobs.put_bytes(b"x"))
    assert [path.stat().st_mtime for path in plain_files(folder)] == [1_000_000, 1_000_000]


def test_copies_are_counted_as_what_removing_a_tree_frees(blobs: BlobStore, tmp_path: Path) -> None:
    digest = manifest(blobs, {"a.bin": bytes(1 << 20), "b.bin": bytes(1 << 20), "c.py": b"c" * 8192})
    folder = Workspaces(tmp_path, blobs, job_owner()).tree(digest)
    sizes = _Sizes()
    sizes.add(folder)
    own = (folder / "b.bin").stat().st_blocks * 512
    assert sizes.total == own
    sizes.drop(folder)
    assert sizes.total == 0


def test_a_tree_whose_copies_could_not_be_made_is_not_there(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = manifest(blobs, {"a.py": b"x", "b.py": b"x"})
    workspaces = Workspaces(tmp_path, blobs, job_owner())
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(StorageFull):
            workspaces.tree(digest)
    assert list((tmp_path / "trees").iterdir()) == []
    assert len(plain_files(workspaces.tree(digest))) == 2


def test_a_tree_is_assembled_once_and_completed_after_a_crash(blobs: BlobStore, tmp_path: Path) -> None:
    digest = manifest(blobs, {f"d{n % 5}/f{n}.py": f"content {n % 150}".encode() for n in range(200)})
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


def test_links_empty_folders_and_modes_are_those_of_the_project(blobs: BlobStore, tmp_path: Path) -> None:
    content = blobs.put_bytes(b"x")
    modes = {"one": 0o644, "two": 0o755, "read-only": 0o444, "program": 0o555, "again": 0o444}
    manifest = Manifest(
        tuple(ManifestEntry(name, mode, 1, content) for name, mode in modes.items()),
        links={"broken": "nowhere", "deep/er/up": "../../one", "folder": "deep", "loop": "loop", "root": "."},
        folders=("empty/inside",),
    )
    folder = Workspaces(tmp_path, blobs, job_owner()).tree(blobs.put_manifest(manifest))
    found = {path: str((folder / path).readlink()) for path in manifest.links}
    assert found == manifest.links
    assert list((folder / "empty" / "inside").iterdir()) == []
    assert {name: (folder / name).stat().st_mode & 0o777 for name in modes} == modes
    if os.geteuid() == 0:
        places = [folder / "broken", folder / "deep/er/up", folder / "empty", folder / "empty/inside"]
        assert {path.lstat().st_uid for path in places} == {job_owner()}
    assert Manifest.from_canonical(manifest.canonical()).canonical() == manifest.canonical()
    assert all(blobs.path(content, mode).exists() for mode in modes.values())
    blobs.remove(content)
    assert list((tmp_path / "blobs").glob(f"*/{content}*")) == []


@pytest.mark.parametrize(
    "manifest",
    [
        Manifest((), links={"a": "b", "a/b": "c"}),
        Manifest((ManifestEntry("a/x", 0o644, 1, "X"),), links={"a": "/tmp"}),
        Manifest((ManifestEntry("a/x", 0o644, 1, "X"),), links={"a": "elsewhere"}),
        Manifest((), links={"a": "elsewhere"}, folders=("a/b",)),
        Manifest((), links={"a": "../elsewhere"}),
        Manifest((), links={"../a": "b"}),
        Manifest((), folders=("../a",)),
    ],
)
def test_nothing_is_made_below_a_link(blobs: BlobStore, tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "trees" / "elsewhere").mkdir(parents=True)
    content = blobs.put_bytes(b"x")
    files = tuple(replace(entry, sha256=content) for entry in manifest.files)
    digest = blobs.put_manifest(replace(manifest, files=files))
    with pytest.raises(PermanentError):
        Workspaces(tmp_path, blobs, job_owner()).tree(digest)
    assert [path.name for path in (tmp_path / "trees").iterdir()] == ["elsewhere"]
    assert list((tmp_path / "trees" / "elsewhere").iterdir()) == []
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "trees" / "a").exists()


def test_names_that_differ_in_case_or_unicode_form_are_two_files(blobs: BlobStore, tmp_path: Path) -> None:
    names = ["README", "readme", "d/a", "D/a", "caf\u00e9", "cafe\u0301"]
    folder = Workspaces(tmp_path, blobs, job_owner()).tree(
        manifest(blobs, {name: name.encode() for name in names})
    )
    assert {name: (folder / name).read_text() for name in names} == {name: name for name in names}


def test_a_file_system_that_ignores_case_is_said(
    blobs: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: str, target: str, *, follow_symlinks: bool) -> None:
        original(source, target.lower(), follow_symlinks=follow_symlinks)

    original = os.link
    monkeypatch.setattr(os, "link", link)
    digest = manifest(blobs, {"README": b"1", "readme": b"2"})
    with pytest.raises(PermanentError, match="readme and another name of the project are one"):
        Workspaces(tmp_path, blobs, job_owner()).tree(digest)


def test_files_that_configure_an_environment_are_read_through_links(blobs: BlobStore, tmp_path: Path) -> None:
    digest = blobs.put_manifest(
        Manifest(
            (ManifestEntry("deps/test.txt", 0o644, 1, blobs.put_bytes(b"x")),),
            links={
                "requirements": "deps",
                "requirements.txt": "test.txt",
                "test.txt": "requirements/test.txt",
                "broken": "nowhere",
                "root": ".",
                "deps/up": "..",
                "loop": "loop",
            },
        )
    )
    tree = Workspaces(tmp_path, blobs, job_owner()).files(digest)
    assert sorted(tree.digests) == ["deps/test.txt", "requirements.txt", "requirements/test.txt", "test.txt"]
    assert tree.read("requirements.txt") == tree.read("requirements/test.txt") == b"x"
