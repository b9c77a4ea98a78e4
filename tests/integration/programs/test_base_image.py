"""Base images: CPython installations are found and copied, a recipe is carried out once, failures are one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci_runner.base_image import build, pythons
from ci_runner.base_image.build import Recipe
from ci_runner.errors import EngineUnavailable, SettingsError

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def tag() -> Iterator[str]:
    """A name for an image of this test alone, which is removed afterwards."""
    name = f"ci-runner-test-{uuid.uuid4().hex[:8]}:x"
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)


def test_an_installation_is_found_by_its_path_and_knows_its_version() -> None:
    found = pythons.find(sys.base_prefix)
    assert found.version == HERE
    assert found.full_version == ".".join(map(str, sys.version_info[:3]))
    assert found.target == f"/opt/python/{HERE}"


def test_the_newest_patch_level_of_a_version_is_found_among_pyenv_s(tmp_path: Path) -> None:
    for patch in ("9", "10"):
        folder = tmp_path / "versions" / f"{HERE}.{patch}" / "bin"
        folder.mkdir(parents=True)
        script = folder / "python3"
        script.write_text(f"#!/bin/sh\necho {HERE}.{patch} True {folder.parent}\n")
        script.chmod(0o755)
    found = pythons.find(HERE, {"PYENV_ROOT": str(tmp_path), "HOME": str(tmp_path)})
    assert found.full_version == f"{HERE}.10"


def pretend(folder: Path, version: str, *, whole: bool = True) -> None:
    """A folder that looks like an installation; not `whole`: it lacks modules that test suites need."""
    (folder / "bin").mkdir(parents=True)
    minor = version.rpartition(".")[0]
    for name in ("python3", f"python{minor}"):
        script = folder / "bin" / name
        modules = f'case "$3" in "import ssl,"*) exit {0 if whole else 1};; esac\n'
        script.write_text(f"#!/bin/sh\n{modules}echo {version} True {folder}\n")
        script.chmod(0o755)


def test_all_versions_of_a_machine_are_found_once_each_if_they_work(tmp_path: Path) -> None:
    places = {"PYENV_ROOT": str(tmp_path), "UV_PYTHON_INSTALL_DIR": str(tmp_path / "uv")}
    pretend(tmp_path / "versions/3.98.1", "3.98.1")
    pretend(tmp_path / "versions/3.98.10", "3.98.10")
    pretend(tmp_path / "uv/cpython-3.97.2-linux-x86_64-gnu", "3.97.2")
    pretend(tmp_path / "versions/3.96.0", "3.96.0", whole=False)
    pretend(tmp_path / "versions/3.95.0rc1", "3.95.0rc1")
    (tmp_path / "versions/3.94.0/bin").mkdir(parents=True)  # without an interpreter
    found = {one.version: one.full_version for one in pythons.installed(places)}
    invented = {
        version: full for version, full in found.items() if version.startswith("3.9") and len(version) > 3
    }
    assert invented == {"3.97": "3.97.2", "3.98": "3.98.10"}


def test_a_virtual_environment_is_refused_and_its_base_named() -> None:
    if sys.prefix == sys.base_prefix:
        pytest.skip("these tests do not run in a virtual environment")
    with pytest.raises(
        SettingsError, match=f"a virtual environment; give its base installation, {sys.base_prefix}"
    ):
        pythons.find(sys.prefix)


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("banana", "give a version such as 3.12"),
        ("3.99", "no such CPython found"),
        ("/none/such", "no CPython installation"),
    ],
)
def test_what_is_no_installation_is_refused(tmp_path: Path, wanted: str, text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        pythons.find(wanted, {"HOME": str(tmp_path)})


def test_a_copy_leaves_behind_what_test_containers_never_use(tmp_path: Path) -> None:
    found = pythons.find(sys.base_prefix)
    pythons.copy(found, tmp_path)
    library = tmp_path / "opt/python" / HERE / "lib" / f"python{HERE}"
    assert (library / "json" / "__init__.py").is_file()
    assert list((library / "site-packages").iterdir()) == []
    assert not (library / "test").exists()
    assert list(library.rglob("*.pyc")) == []
    command = tmp_path / "usr/local/bin" / f"python{HERE}"
    assert command.read_text() == f'#!/bin/sh\nexec /opt/python/{HERE}/bin/python{HERE} "$@"\n'


def test_a_copy_describes_its_place_in_the_image(tmp_path: Path) -> None:
    """Builds of extension modules look for headers and libraries where the installation says that it is."""
    found = pythons.find(sys.base_prefix)
    pythons.copy(found, tmp_path)
    target = tmp_path / "opt/python" / HERE
    [data] = (target / "lib" / f"python{HERE}").glob("_sysconfigdata*.py")
    described: dict[str, dict[str, object]] = {}
    exec(data.read_text(), described)
    values = described["build_time_vars"]
    assert values["prefix"] == f"/opt/python/{HERE}"
    assert values["LIBDIR"] == f"/opt/python/{HERE}/lib"
    assert values["INCLUDEPY"] == f"/opt/python/{HERE}/include/python{HERE}"
    texts = [data, *target.glob("lib/pkgconfig/*.pc"), *target.glob(f"lib/python{HERE}/config-*/Makefile")]
    assert [path for path in texts if f"{found.prefix}/" in path.read_text()] == []
    assert data.read_text() != (found.prefix / data.relative_to(target)).read_text(), (
        "the original is as it was"
    )


def test_the_recipe_s_digest_names_contents_and_not_the_tag() -> None:
    packages = ("python3",)
    first = Recipe(tag="a").digest(packages)
    assert Recipe(tag="b").digest(packages) == first
    assert Recipe(suite="trixie").digest(packages) != first
    assert Recipe().digest(("python3", "git")) != first
    assert Recipe(pythons=(pythons.find(sys.base_prefix),)).digest(packages) != first


@pytest.mark.docker
def test_an_image_of_the_same_recipe_is_not_made_again(tmp_path: Path, tag: str) -> None:
    (tmp_path / "file").write_text("x")
    recipe = Recipe(tag=tag, compiler=False)
    digest = recipe.digest(recipe.packages)
    image = build._import(tag, tmp_path, {build.LABEL_RECIPE: digest, build.LABEL_PYTHONS: "3.11,3.12"})
    lines: list[str] = []
    assert build.build(recipe, lines.append) == image
    assert lines == [f"{tag} is up to date ({image[:19]})"]
    assert (tag, "3.11,3.12") in build.built()


@pytest.mark.every(3)
@pytest.mark.docker
def test_a_base_image_is_built_and_its_pythons_work(tmp_path: Path, tag: str) -> None:
    """About a minute: Debian's packages are fetched, unpacked and imported."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    found = pythons.find(sys.base_prefix)
    build.build(Recipe(tag=tag, compiler=False, pythons=(found,)), lambda line: None, scratch=tmp_path)
    assert list(tmp_path.iterdir()) == [], "the file tree is gone"
    code = "import ssl, sqlite3, json.__init__, sys, os; print(sys.version_info[1], os.path.exists(json.__cached__))"
    code += "; import pwd; print(pwd.getpwuid(os.getuid()).pw_dir)"
    for python, minor in (
        ("python3", "11"),
        (f"/opt/python/{HERE}/bin/python{HERE}", str(sys.version_info[1])),
    ):
        done = subprocess.run(
            [
                "docker",
                "run",
                "--rm",
                "--read-only",
                "--network=none",
                "--user=65532",
                tag,
                python,
                "-c",
                code,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.split() == [minor, "True", "/ci/home"]


def test_without_a_docker_command_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnavailable, match="the docker command is missing"):
        build.build(Recipe(), lambda line: None)
    assert build.built() == []


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
def test_without_an_engine_the_reason_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    with pytest.raises(EngineUnavailable, match=r"Docker does not answer: .*Is the docker daemon running"):
        build.build(Recipe(), lambda line: None)


@pytest.mark.docker
def test_a_mirror_that_does_not_answer_is_said_in_one_line(tmp_path: Path, tag: str) -> None:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    recipe = Recipe(tag=tag, mirror="http://127.0.0.1:9/debian", compiler=False)
    with pytest.raises(build.BuildFailed, match=r"\Adebootstrap failed: E: .*") as caught:
        build.build(recipe, lambda line: None, scratch=tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
