"""Environments from a private index over TLS: who may share what, what is built where, what is evicted."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.package_index import PASSWORD, USER, host_address, sdist, serve, wheel
from support.preparer import Bench, disposable_engine, environment

from ci_runner.controller.engines.docker import allowed_hosts
from ci_runner.controller.engines.docker.engine import DockerEngine
from ci_runner.controller.engines.process.engine import ProcessEngine
from ci_runner.controller.environments.container_specs import Prepared
from ci_runner.errors import EnvironmentFailed
from ci_runner.model.job import Job
from ci_runner.model.job_options import JobOptions
from ci_runner.settings.groups import EnvironmentSettings

pytestmark = pytest.mark.docker

#: Runs whenever an interpreter starts that sees it.
HOSTILE_PTH = (
    "import os; [open(d + '/POISON-' + str(os.getpid()), 'w') "
    "for d in ('/ci/store', '/ci/store/cache', '/ci/store/new', '/ci/spool') if os.access(d, os.W_OK)]\n"
)
HOSTILE_SETUP = (
    "import glob\n"
    "open('/ci/store/cache/POISON-setup', 'w').write('x')\n"
    "from setuptools import setup\nsetup(name='sneaky', version='1.0', py_modules=[])\n"
)


@pytest.fixture(scope="module")
def index(docker_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvironmentSettings]:
    """A private index on this machine, the only one that is configured."""
    folder = tmp_path_factory.mktemp("index") / "root"
    wheel(folder, "pytest", "99.0", {"pytest.py": "marker = 'private'\n"})
    wheel(folder, "evil", "1.0", {"evil.py": "", "evil.pth": HOSTILE_PTH})
    wheel(folder, "skippy", "1.0", {"skippy.py": "old = True\n"})
    sdist(
        folder,
        "skippy",
        "2.0",
        {"setup.py": "from setuptools import setup\nsetup(name='skippy', version='2.0')\n"},
    )
    sdist(folder, "sneaky", "1.0", {"setup.py": HOSTILE_SETUP})
    backend = (
        "import zipfile\n"
        "def build_wheel(folder, config_settings=None, metadata_directory=None):\n"
        "    open('/ci/store/cache/POISON-backend', 'w').write('x')\n"
        "    name = 'inline-1.0-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(folder + '/' + name, 'w') as z:\n"
        "        z.writestr('inline.py', 'x = 1')\n"
        "        meta = 'Metadata-Version: 2.1\\nName: inline\\nVersion: 1.0\\n'\n"
        "        z.writestr('inline-1.0.dist-info/METADATA', meta)\n"
        "        z.writestr('inline-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nTag: py3-none-any\\n')\n"
        "        z.writestr('inline-1.0.dist-info/RECORD', '')\n"
        "    return name\n"
    )
    toml = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    sdist(folder, "inline", "1.0", {"pyproject.toml": toml, "backend.py": backend})
    wheel(folder / "private", "hidden", "1.0", {"hidden.py": ""})
    with serve(folder, host_address()) as (url, authority):
        yield EnvironmentSettings(index_url=url, ca_bundle=authority)


@pytest.fixture(scope="module")
def engine(index: EnvironmentSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerEngine]:
    with disposable_engine(tmp_path_factory.mktemp("scratch"), allowed_hosts.named(index)) as found:
        yield found


@pytest.fixture
def bench(engine: DockerEngine, index: EnvironmentSettings, docker_engine: str, tmp_path: Path) -> Bench:
    return Bench(tmp_path / "data", engine, docker_engine, index, install_id=engine.install)


def prepare(bench: Bench, requirements: str, **options: Any) -> Prepared:
    return bench.prepare(bench.submit({"requirements.txt": requirements}, **options))[0]


def scope(prepared: Prepared) -> str:
    return environment(prepared).parent.parent.name


def poison(bench: Bench, scope: str) -> list[Path]:
    return sorted((bench.data / "environments" / scope).rglob("POISON*"))


def test_everything_comes_from_the_private_index(bench: Bench) -> None:
    prepared = prepare(bench, "pytest")
    module = next(environment(prepared).glob("lib/python3.*/site-packages/pytest.py"))
    assert "private" in module.read_text()
    assert prepared.env["SSL_CERT_FILE"] == "/ci/ca.pem"


def test_another_port_of_the_runners_own_machine_stays_closed(
    bench: Bench, engine: DockerEngine, tmp_path: Path
) -> None:
    if engine.network.firewall.problem() is not None:
        pytest.skip("nothing is closed here")
    (tmp_path / "root").mkdir()
    with serve(tmp_path / "root", host_address()) as (url, authority):
        other = Bench(
            bench.data, engine, bench.base_image, EnvironmentSettings(index_url=url, ca_bundle=authority)
        )
        with pytest.raises(
            EnvironmentFailed, match=r"(?i)could not install dependencies.*(connect|request|fetch)"
        ):
            prepare(other, "pytest")


def test_an_index_whose_authority_is_unknown_is_refused(bench: Bench, index: EnvironmentSettings) -> None:
    bare = Bench(bench.data, bench.engine, bench.base_image, EnvironmentSettings(index_url=index.index_url))
    with pytest.raises(
        EnvironmentFailed, match=r"(?i)could not install dependencies.*(certificate|request|fetch)"
    ):
        prepare(bare, "pytest")


def test_what_needs_no_foreign_code_is_shared_between_users(bench: Bench) -> None:
    first = prepare(bench, "pytest", user="alice")
    second = prepare(bench, "pytest\n# other text, same lock", user="bob")
    assert scope(first) == scope(second) == "shared"
    assert first.key == second.key


def test_a_named_image_is_foreign_and_shares_nothing(bench: Bench) -> None:
    assert bench.base_image is not None
    other = Bench(bench.data, bench.engine, "some-other-default:1", bench.environments)
    assert scope(prepare(other, "pytest", user="alice", image=bench.base_image)) == "alice"


def test_code_that_runs_at_interpreter_start_never_runs_in_the_shared_scope(bench: Bench) -> None:
    prepared = prepare(bench, "evil\npytest", user="mallory")
    assert scope(prepared) == "shared"
    assert list(environment(prepared).glob("lib/*/site-packages/evil.pth"))
    assert scope(prepare(bench, "evil\npytest\nskippy==1.0", user="bob")) == "shared"
    assert poison(bench, "shared") == []


@pytest.mark.parametrize("name", ["sneaky", "inline"])
def test_a_build_runs_in_the_users_own_scope_only(bench: Bench, name: str) -> None:
    try:
        prepared = prepare(bench, f"{name}\npytest", user="mallory")
    except EnvironmentFailed:
        assert name == "sneaky"  # its build needs setuptools, which this index does not have
    else:
        assert scope(prepared) == "mallory"
        assert poison(bench, "mallory") != []
    assert poison(bench, "shared") == []
    assert list((bench.data / "environments").glob("mallory/POISON*")) == []


def test_a_newer_version_without_a_wheel_is_not_passed_over(bench: Bench) -> None:
    with pytest.raises(EnvironmentFailed, match=r"skippy|setuptools"):
        prepare(bench, "skippy\npytest")


def test_a_users_own_index_shares_nothing(bench: Bench, index: EnvironmentSettings) -> None:
    assert scope(prepare(bench, f"--index-url {index.index_url}\npytest", user="alice")) == "alice"


def test_eviction_keeps_what_open_jobs_use_and_what_was_just_used(
    engine: DockerEngine, index: EnvironmentSettings, docker_engine: str, tmp_path: Path
) -> None:
    tight = EnvironmentSettings(index_url=index.index_url, ca_bundle=index.ca_bundle, cache_size=1)
    bench = Bench(tmp_path / "data", engine, docker_engine, tight, install_id=engine.install)
    jobs = [
        bench.submit({"requirements.txt": text}) for text in ("pytest", "pytest\nevil", "pytest\nskippy==1.0")
    ]
    one, two, three = [bench.prepare(job)[0] for job in jobs]
    old = time.time() - 86400
    for prepared in (one, two):
        mark = environment(prepared).with_name(f"{prepared.key}.ok")
        os.utime(mark, (old, old))
    tree = bench.data / "trees" / f"{jobs[1].workspace}.ok"
    os.utime(tree, (old, old))
    bench.preparer.evict(frozenset({one.key}))
    assert environment(one).exists()
    assert environment(three).exists()
    assert not environment(two).exists()
    assert not tree.exists()
    again, built = bench.prepare(jobs[1])
    assert built
    assert environment(again).exists()


def credentials_of(kind: str, url: str) -> dict[str, str]:
    """What opens the private part of the index, in one of the ways of installers."""
    host = url.split("/")[2]
    if kind == "uv":
        return {"UV_INDEX_ACME_USERNAME": USER, "UV_INDEX_ACME_PASSWORD": PASSWORD}
    if kind == "pip":
        own = url.replace("://", f"://{USER}:{quote(PASSWORD)}@").replace("/simple", "/private/simple")
        return {"PIP_EXTRA_INDEX_URL": own}
    return {"NETRC": f"machine {host.partition(':')[0]}\nlogin {USER}\npassword {PASSWORD}\n"}


def with_secrets(job: Job, values: dict[str, str]) -> Job:
    options = JobOptions.from_dict({**job.options.stored, "secrets": sorted(values)})
    return replace(job, options=options.with_env(values))


@pytest.mark.parametrize("kind", ["uv", "pip", "netrc"])
def test_credentials_open_an_index_for_builds_of_their_user_only(bench: Bench, kind: str) -> None:
    """Nobody else gets what was built with them, and they stay in no file and no line."""
    url = bench.environments.index_url
    assert url is not None
    index = f'[[tool.uv.index]]\nname = "acme"\nurl = "{url.replace("/simple", "/private/simple")}"\n'
    pyproject = '[project]\nname = "p"\nversion = "1"\ndependencies = ["hidden", "pytest"]\n'
    files = {"pyproject.toml": pyproject + (index if kind != "pip" else "")}
    values = credentials_of(kind, url)
    log: list[str] = []
    job = with_secrets(bench.submit(files, user="alice"), values)
    prepared, _ = bench.prepare(job, log)
    assert scope(prepared) != "shared"
    assert list(environment(prepared).glob("lib/python3.*/site-packages/hidden.py"))
    spec = bench.preparer.container_spec(job, prepared, 1)
    assert not any(name in str(spec) for name in values)
    assert not bench.prepare(with_secrets(bench.submit(files, user="alice"), values))[1], (
        "nothing is built twice"
    )

    wrong = {name: value.replace("s3cret", "wr0ng-") for name, value in values.items()}
    for other in (with_secrets(bench.submit(files, user="bob"), wrong), bench.submit(files, user="carol")):
        with pytest.raises(EnvironmentFailed) as caught:
            bench.prepare(other, log)
        assert "wr0ng-" not in str(caught.value)
    assert not any(word in line for line in log for word in ("s3cret", "wr0ng-"))
    files_there = [path for path in bench.data.rglob("*") if path.is_file() and not path.is_symlink()]
    contents = {path: path.read_bytes() for path in files_there}
    assert [path for path, text in contents.items() if b"s3cret" in text or b"wr0ng-" in text] == []


@pytest.mark.skipif(os.geteuid() != 0, reason="otherwise both engines run everything as the same user")
def test_a_runner_that_ran_without_containers_goes_on_with_them(bench: Bench, tmp_path: Path) -> None:
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    without = ProcessEngine(bench.install_id, folder=bench.data / "process")
    if python not in without.image("python").pythons:
        pytest.skip(f"there is no Python {python} on the path")
    rounds = ("skippy==1.0", "evil", "skippy==1.0\nevil", "evil\nskippy<2")
    for engine, requirements in zip((without, bench.engine) * 2, rounds, strict=True):
        image = None if engine is without else bench.base_image
        settings = {"default_python": python if engine is without else "3.11"}
        now = Bench(bench.data, engine, image, bench.environments, settings, install_id=bench.install_id)
        prepared, built = now.prepare(
            now.submit({"requirements.txt": requirements}, root="/home/dev/project")
        )
        assert built
        assert environment(prepared).is_dir()
    without.close()
