"""What makes an environment another one: each thing that decides about its content, by itself.

Two jobs that differ in one of them never share an environment, a lock or a layer, though all the rest is the same.
"""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.package_index import host_address, serve, wheel
from support.preparer import Bench, disposable_engine, environment

from ci_runner.controller.engines.docker import allowed_hosts
from ci_runner.controller.engines.docker.engine import DockerEngine
from ci_runner.controller.environments.container_specs import Prepared
from ci_runner.settings.groups import EnvironmentSettings

pytestmark = pytest.mark.docker

ROOT = "/home/dev/project"
RESOLVING = "resolving"
#: Makes a wheel that leads to the folder that it lies in, without needing anything.
BACKEND = """\
import os, zipfile

def build_editable(folder, config_settings=None, metadata_directory=None):
    version = os.environ.get("SETUPTOOLS_SCM_PRETEND_VERSION", "1.0")
    info = f"inner-{version}.dist-info"
    name = f"inner-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.writestr("inner.pth", os.getcwd())
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: inner\\nVersion: {version}\\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(f"{info}/RECORD", "")
    return name

build_wheel = build_editable
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
PACKAGE = {"pyproject.toml": PYPROJECT, "backend.py": BACKEND, "inner.py": "x = 1\n"}
FILES = {"requirements.txt": "pytest\n"}


@pytest.fixture(scope="module")
def index(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvironmentSettings]:
    """A private index on this machine with one wheel."""
    folder = tmp_path_factory.mktemp("index") / "root"
    wheel(folder, "pytest", "99.0", {"pytest.py": "marker = 'private'\n"})
    with serve(folder, host_address()) as (url, authority):
        yield EnvironmentSettings(index_url=url, ca_bundle=authority)


@pytest.fixture(scope="module")
def engine(index: EnvironmentSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    with disposable_engine(tmp_path_factory.mktemp("scratch"), allowed_hosts.named(index)) as found:
        yield found


@pytest.fixture
def bench(engine: DockerEngine, index: EnvironmentSettings, docker_engine: str, tmp_path: Path) -> Bench:
    return Bench(tmp_path / "data", engine, docker_engine, index, install_id=engine.install)


@pytest.fixture
def another_image(docker_engine: str) -> Iterator[str]:
    """An image with the same files as the base image, and another id."""
    name = f"ci-runner-test-keys:{uuid.uuid4().hex[:12]}"
    text = f"FROM {docker_engine}\nLABEL ci-runner.test={name}\n"
    subprocess.run(["docker", "build", "-q", "-t", name, "-"], input=text.encode(), check=True, timeout=120)
    yield name
    done = subprocess.run(["docker", "image", "rm", name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def prepare(
    bench: Bench, files: Mapping[str, str] = FILES, root: str = ROOT, **options: Any
) -> tuple[Prepared, list[str]]:
    """What was prepared, and what the job's user was told; a second time everything is there."""
    log: list[str] = []
    prepared, _ = bench.prepare(bench.submit(files, root=root, **options), log)
    again, built = bench.prepare(bench.submit(files, root=root, **options))
    assert (again.key, built) == (prepared.key, False)
    return prepared, log


def resolves(log: list[str]) -> bool:
    return any(line.startswith(RESOLVING) for line in log)


def test_an_image_has_environments_of_its_own(bench: Bench, another_image: str) -> None:
    first, log = prepare(bench)
    assert resolves(log)
    other = replace(bench, base_image=another_image)
    second, log = prepare(other)
    assert second.image != first.image
    assert environment(second) != environment(first)
    assert resolves(log), "another image may lead to another lock"
    assert environment(prepare(bench)[0]) == environment(first)


def test_an_image_of_a_user_has_environments_and_layers_of_its_own(bench: Bench, another_image: str) -> None:
    files = {**PACKAGE, **FILES}
    first, _ = prepare(bench, files)
    second, _ = prepare(bench, files, image=another_image)
    assert not set(first.key.split(".")) & set(second.key.split("."))


def test_another_index_of_the_operator_is_asked_anew(bench: Bench, index: EnvironmentSettings) -> None:
    prepare(bench)
    for other in (
        replace(index, index_url=f"{index.index_url}/"),
        replace(index, extra_index_urls=(f"{index.index_url}/",)),
    ):
        _, log = prepare(replace(bench, environments=other))
        assert resolves(log)
    assert not resolves(prepare(bench)[1])


def test_options_that_choose_indexes_make_an_environment_of_their_own(
    bench: Bench, index: EnvironmentSettings
) -> None:
    """What is locked is the same; whoever chooses another index did not choose what came from the first."""
    found = [
        prepare(bench, {"requirements.txt": f"{options}\npytest\n"})
        for options in (
            f"--index-url {index.index_url}",
            f"--index-url {index.index_url}/",
            f"--index-url {index.index_url}\n--extra-index-url {index.index_url}/",
        )
    ]
    assert all(resolves(log) for _, log in found)
    assert len({environment(prepared) for prepared, _ in found}) == len(found)


def test_an_environment_without_pip_is_another(bench: Bench) -> None:
    found = {pip: environment(prepare(bench, pip=pip)[0]) for pip in (True, False)}
    assert found[True] != found[False]
    names = {
        pip: [path.name for path in folder.glob("lib/*/site-packages/pip")] for pip, folder in found.items()
    }
    assert names == {True: ["pip"], False: []}


def test_a_folder_that_is_installed_is_the_one_where_the_project_lies(bench: Bench) -> None:
    files = {"requirements.txt": "-e ./libs/inner\npytest\n"}
    files |= {f"libs/inner/{name}": text for name, text in PACKAGE.items()}
    for root in (ROOT, "/home/dev/another"):
        prepared, log = prepare(bench, files, root)
        assert resolves(log)
        assert installed(prepared) == f"{root}/libs/inner"


def test_a_package_is_installed_where_the_project_lies(bench: Bench) -> None:
    for root in (ROOT, "/home/dev/another"):
        assert installed(prepare(bench, {**PACKAGE, **FILES}, root)[0]) == root


def test_a_version_from_version_control_is_installed_anew(bench: Bench) -> None:
    files = {**PACKAGE, **FILES}
    found = {
        version: prepare(bench, files, scm_version=version)[0] for version in ("1.2.dev3", "1.2.dev4", None)
    }
    assert len({layer(prepared) for prepared in found.values()}) == 3
    assert len({environment(prepared) for prepared in found.values()}) == 1
    for version, prepared in found.items():
        [metadata] = layer(prepared).glob("lib/python*/site-packages/inner-*.dist-info")
        assert metadata.name == f"inner-{version or '1.0'}.dist-info"


def layer(prepared: Prepared) -> Path:
    """The project's own environment."""
    return next(bind.source for bind in prepared.binds if bind.target == prepared.env["VIRTUAL_ENV"])


def installed(prepared: Prepared) -> str:
    """Where the editable installation of `inner` leads to."""
    [found] = layer(prepared).glob("lib/python*/site-packages/inner.pth")
    return found.read_text()
