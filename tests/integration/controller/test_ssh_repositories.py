"""A dependency that is named with ssh is built from the same repository over https, with a token of the job's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.package_index import PASSWORD, USER, host_address, serve, wheel
from support.preparer import Bench, disposable_engine, environment

from ci_runner.controller.engines.docker import allowed_hosts
from ci_runner.errors import EnvironmentFailed
from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.settings.groups import EnvironmentSettings

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root listens on the port of https"),
]

BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "secretlib-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as z:
        z.writestr("secretlib.py", "x = 1")
        meta = "Metadata-Version: 2.1\\nName: secretlib\\nVersion: 1.0\\n"
        z.writestr("secretlib-1.0.dist-info/METADATA", meta)
        z.writestr("secretlib-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        z.writestr("secretlib-1.0.dist-info/RECORD", "")
    return name
"""


def make_repository(bare: Path, scratch: Path) -> None:
    """Make a repository that any web server can serve."""
    scratch.mkdir()
    (scratch / "backend.py").write_text(BACKEND)
    toml = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (scratch / "pyproject.toml").write_text(toml)
    git = ("git", "-C", str(scratch), "-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", scratch, bare], check=True)
    subprocess.run(["git", "-C", bare, "update-server-info"], check=True)


@pytest.fixture
def bench(docker_engine: str, tmp_path: Path) -> Iterator[Bench]:
    folder = tmp_path / "index" / "root"
    wheel(folder, "pytest", "99.0", {"pytest.py": ""})
    (folder / "private").mkdir()
    make_repository(folder / "private" / "lib.git", tmp_path / "scratch")
    try:
        serving = serve(folder, host_address(), 443)
        url, authority = serving.__enter__()
    except OSError as error:
        pytest.skip(f"port 443: {error.strerror}")
    try:
        settings = EnvironmentSettings(index_url=url, ca_bundle=authority)
        with disposable_engine(tmp_path / "engine", allowed_hosts.named(settings)) as engine:
            yield Bench(tmp_path / "data", engine, docker_engine, settings)
    finally:
        serving.__exit__(None, None, None)


def with_netrc(job: Job, netrc: str) -> Job:
    options = JobOptions.from_dict({**job.options.stored, "secrets": ["NETRC"]})
    return replace(job, options=options.with_env({"NETRC": netrc}))


def test_a_token_opens_a_repository_that_is_named_with_ssh(bench: Bench) -> None:
    host = host_address()
    files = {"requirements.txt": f"secretlib @ git+ssh://git@{host}/private/lib.git\npytest\n"}
    log: list[str] = []
    netrc = f"machine {host} login {USER} password {PASSWORD}\n"
    prepared, _ = bench.prepare(with_netrc(bench.submit(files), netrc), log)
    assert list(environment(prepared).glob("lib/python3.*/site-packages/secretlib.py"))
    line = f"repositories at {host} are read over https, because builds have no ssh key"
    assert line in log
    assert not any("s3cret" in each for each in log)

    log.clear()
    with pytest.raises(EnvironmentFailed) as caught:
        bench.prepare(bench.submit(files, user="bob"), log)
    assert f"{line}; private ones need a token in the secret NETRC" in log
    assert "asks for credentials: name NETRC in `secrets`" in str(caught.value)
    assert "\n" not in str(caught.value)
