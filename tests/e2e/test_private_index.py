"""Where PyPI is out of reach: an operator's own index, certificate authority and proxy, given by settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from support.developer import Developer, make_developer
from support.package_index import PASSWORD, USER, host_address, proxy, rewheel, serve, wheel
from support.runner import Runner

pytestmark = pytest.mark.docker

StartRunner = Callable[..., Runner]

#: Would give a way out to packages that the settings under test do not name.
HIDDEN = (
    "CI_RUNNER_INDEX_URL",
    "CI_RUNNER_CA_BUNDLE",
    "SSL_CERT_FILE",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "PIP_INDEX_URL",
    "HTTPS_PROXY",
    "https_proxy",
    "HTTP_PROXY",
    "http_proxy",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the index serves: pytest, and a package that nobody else has."""
    folder = tmp_path_factory.mktemp("packages") / "root"
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        rewheel(folder, name)
    wheel(folder, "oursonly", "1.0", {"oursonly.py": "answer = 42\n"})
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "requirements.txt").write_text("oursonly\npytest\n")
    (folder / "test_it.py").write_text("import oursonly\ndef test_it():\n    assert oursonly.answer == 42\n")
    return folder


@pytest.fixture
def start(
    start_runner: StartRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Developer]:
    """Start a runner with these options, and nothing of this machine's ways to packages; a developer of it."""
    for name in HIDDEN:
        monkeypatch.delenv(name, raising=False)

    def go(*options: str) -> Developer:
        return make_developer(start_runner(options=options), tmp_path)

    return go


def test_dependencies_come_from_an_index_on_the_runners_own_machine(
    start: Callable[..., Developer], packages: Path, project: Path
) -> None:
    """Its address and port are let through the firewall by themselves."""
    with serve(packages, host_address()) as (url, authority):
        developer = start("--index-url", url.replace("://", "://ann:s3cret@"), "--ca-bundle", str(authority))
        done = developer.pytest(cwd=project)
        assert done.code == 0, done.text
        assert "1 passed" in done.out
        assert "s3cret" not in developer.runner.log("reconcile") + developer.runner.log("serve")


def test_an_index_on_loopback_is_reached_through_a_proxy(
    start: Callable[..., Developer], packages: Path, project: Path
) -> None:
    with serve(packages, "127.0.0.1") as (url, authority), proxy(host_address()) as (way, asked):
        developer = start("--index-url", url, "--ca-bundle", str(authority), "--https-proxy", way)
        done = developer.pytest(cwd=project)
        assert done.code == 0, done.text
        assert "1 passed" in done.out
        assert set(asked) == {url.split("/")[2]}


def test_a_developers_own_credentials_open_an_index(
    start: Callable[..., Developer], packages: Path, project: Path
) -> None:
    """They are secrets of the job, for its build: its tests do not see them."""
    wheel(packages / "private", "hidden", "1.0", {"hidden.py": ""})
    with serve(packages, host_address()) as (url, authority):
        developer = start("--index-url", url, "--ca-bundle", str(authority))
        (project / "pyproject.toml").write_text('[tool.remote-ci]\nsecrets = ["PIP_EXTRA_INDEX_URL"]\n')
        (project / "requirements.txt").write_text("hidden\npytest\n")
        (project / "test_it.py").write_text(
            "import hidden, os\ndef test_it():\n    assert 'PIP_EXTRA_INDEX_URL' not in os.environ\n"
        )
        own = url.replace("://", f"://{USER}:{quote(PASSWORD)}@").replace("/simple", "/private/simple")
        done = developer.pytest(cwd=project, PIP_EXTRA_INDEX_URL=own)
        assert done.code == 0, done.text
        assert "1 passed" in done.out
        assert "s3cret" not in done.text + developer.runner.log("reconcile") + developer.runner.log("serve")
