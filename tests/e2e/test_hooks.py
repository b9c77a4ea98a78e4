"""Plugins of both sides, installed as anybody would and used by real programs: examples, webhooks, tokens."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from support.developer import Developer
from support.runner import Runner
from support.validating_proxy import start_proxy
from support.waiting import wait_until
from support.webhook_receiver import Receiver

from ci_runner.plugins.webhooks import verify

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
WEBHOOK_SECRET = "a secret of the webhook"
JWT_SECRET = "a secret of the identity provider, long enough"
AUDIENCE, ISSUER = "ci-runner", "https://id.example.org"


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a virtual environment with both example plugins, which sees the packages of this one."""
    folder = tmp_path_factory.mktemp("plugged")
    uv = str(Path(sys.executable).with_name("uv"))
    if not Path(uv).exists():
        uv = shutil.which("uv") or pytest.fail("uv comes with the extra `runner`")
    python = folder / "venv" / "bin" / "python"
    call(uv, "venv", "--quiet", "--python", sys.executable, str(python.parents[1]))
    [packages] = python.parents[1].glob("lib/python*/site-packages")
    lines = [f"import site; site.addsitedir({path!r})" for path in own_packages()]
    (packages / "beside.pth").write_text("\n".join(lines) + "\n")
    sources = [shutil.copytree(EXAMPLES / name, folder / name) for name in ("runner-plugin", "client-plugin")]
    install = ["pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--python", str(python)]
    call(uv, *install, *map(str, sources))
    return str(python)


def own_packages() -> list[str]:
    """Where the packages of this interpreter lie."""
    return sorted({*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})


def call(*command: str) -> None:
    """Run what must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def make(folder: Path, test: str, **files: str) -> Path:
    """A project with one test file."""
    folder.mkdir()
    (folder / "test_it.py").write_text(test)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """A web server for webhooks."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(scope="module")
def runner(
    plugged: str, receiver: Receiver, tmp_path_factory: pytest.TempPathFactory, docker_engine: str
) -> Iterator[Runner]:
    """A runner with the example plugin, webhooks and tokens."""
    folder = tmp_path_factory.mktemp("runner") / "data"
    folder.mkdir(mode=0o700)
    env = {
        "CI_RUNNER_PLUGIN_OFFLINE": "nightly-*, weekly",
        "CI_RUNNER_PLUGIN_JOURNAL": str(folder.parent / "journal"),
        "CI_RUNNER_WEBHOOK_URL": receiver.url,
        "CI_RUNNER_WEBHOOK_SECRET": WEBHOOK_SECRET,
        "CI_RUNNER_JWT_SECRET": JWT_SECRET,
        "CI_RUNNER_JWT_AUDIENCE": AUDIENCE,
        "CI_RUNNER_JWT_ISSUER": ISSUER,
    }
    started = Runner(folder, "docker", docker_engine, env=env, python=plugged)
    proxy = start_proxy(started)
    try:
        yield started.start()
    finally:
        try:
            started.close()
        finally:
            proxy.close()


@pytest.fixture
def journal(runner: Runner) -> Callable[[], list[str]]:
    """Reads what the example plugin wrote."""
    path = runner.data_dir.parent / "journal"
    return lambda: path.read_text().splitlines() if path.exists() else []


# -- the runner's hooks
INTERFACES = (
    "import os\ndef test_network():\n    assert (sorted(os.listdir('/sys/class/net')) == ['lo']) is {}\n"
)


@pytest.mark.sampled(1)
@pytest.mark.docker
@pytest.mark.parametrize(("name", "offline"), [("nightly-7", True), ("weekly", True), ("other", False)])
def test_container_options_narrow_a_jobs_container(
    developer: Developer, tmp_path: Path, name: str, offline: bool
) -> None:
    folder = make(tmp_path / "p", INTERFACES.format(offline))
    done = developer.pytest(f"--remote-ci-name={name}", cwd=folder)
    assert done.code == 0, done.text


@pytest.mark.docker
def test_submitted_and_finished_jobs_are_told(
    developer: Developer, tmp_path: Path, journal: Callable[[], list[str]]
) -> None:
    done = developer.pytest("--remote-ci-name=told", cwd=make(tmp_path / "p", "def test(): assert 0\n"))
    assert done.code == 1, done.text
    job_id = developer.jobs()[0]["job_id"]

    def lines() -> list[str]:
        return [line.removeprefix(job_id).strip() for line in journal() if line.startswith(job_id)]

    wait_until(lambda: len(lines()) == 2, 10, what="both lines")
    assert lines() == ["submitted told", "completed 1"]


def test_an_engine_of_a_plugins_own_runs_jobs(
    plugged: str, start_runner: Callable[..., Runner], tmp_path: Path
) -> None:
    runner = start_runner(engine="patient", python=plugged)
    developer = Developer(runner, tmp_path, runner.key)  # plain processes serve one user only
    folder = make(tmp_path / "p", "import os\ndef test_patience():\n    assert os.nice(0) == 19\n")
    done = developer.pytest(cwd=folder)
    assert done.code == 0, done.text + runner.log("reconcile")


# -- webhooks
@pytest.mark.docker
def test_a_webhook_is_signed_and_tried_again_until_it_is_heard(
    developer: Developer, receiver: Receiver, tmp_path: Path
) -> None:
    receiver.refuse("hooked", 500, 503)
    done = developer.pytest("--remote-ci-name=hooked", cwd=make(tmp_path / "p", "def test(): pass\n"))
    assert done.code == 0, done.text
    job = developer.jobs()[0]

    def tries() -> list[tuple[dict[str, str], bytes]]:
        return [item for item in list(receiver.received) if job["job_id"].encode() in item[1]]

    wait_until(lambda: len(tries()) == 3, 30, what="two refused tries and the third")
    for headers, body in tries():
        assert verify(WEBHOOK_SECRET, headers, body, now=time.time())
        assert not verify("another secret", headers, body, now=time.time())
        content = json.loads(body)
        assert (content["event"], content["job"]) == ("job.finished", job)
        assert headers["x-ci-runner-delivery"] == content["delivery"]
    assert len({headers["x-ci-runner-delivery"] for headers, _ in tries()}) == 1


# -- tokens
def token(developer: Developer, secret: str = JWT_SECRET, **changes: Any) -> str:
    """What an identity provider would issue; None leaves a claim out."""
    now = int(time.time())
    email = f"{developer.home.name.removeprefix('home-')}@example.org"
    claims = {"iss": ISSUER, "aud": AUDIENCE, "iat": now, "exp": now + 600, "email": email, **changes}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, secret, algorithm="HS256")


@pytest.mark.docker
def test_a_token_is_as_good_as_a_key(developer: Developer, tmp_path: Path) -> None:
    bearer = replace(developer, key=token(developer))
    done = bearer.pytest(cwd=make(tmp_path / "p", "def test(): pass\n"))
    assert done.code == 0, done.text
    assert bearer.jobs() == developer.jobs() != []
    assert bearer.remote_ci("list").code == 0


WRONG: list[Any] = [
    pytest.param({"aud": "another service"}, id="for another audience"),
    pytest.param({"exp": int(time.time()) - 3600}, id="expired"),
    pytest.param({"exp": None}, id="for ever"),
    pytest.param({"secret": "x" * 40}, id="signed by somebody else"),
    pytest.param({"email": "nobody@example.org"}, id="of a user that does not exist"),
]


@pytest.mark.sampled(2)
@pytest.mark.docker
@pytest.mark.parametrize("changes", WRONG)
def test_a_wrong_token_is_refused(developer: Developer, tmp_path: Path, changes: dict[str, Any]) -> None:
    stranger = replace(developer, key=token(developer, **changes))
    done = stranger.pytest(cwd=make(tmp_path / "p", "def test(): pass\n"))
    assert done.code == 77, done.text
    assert "Traceback" not in done.text
    done = stranger.remote_ci("list")
    assert done.code == 77
    assert "authentication" in done.err.lower()
    assert developer.jobs() == []


@pytest.mark.docker
def test_a_token_of_a_deactivated_user_is_refused(runner: Runner, developer: Developer) -> None:
    bearer = replace(developer, key=token(developer))
    assert bearer.remote_ci("list").code == 0
    name = developer.home.name.removeprefix("home-")
    [user] = [user for user in runner.admin("user", "list") if user["name"] == name]
    runner.admin("user", "deactivate", user["id"])
    assert bearer.remote_ci("list").code == 77


# -- the client's hooks
@pytest.mark.docker
def test_a_client_plugin_chooses_files_adds_options_and_sees_events(
    plugged: str, developer: Developer, tmp_path: Path
) -> None:
    person = replace(developer, python=plugged)
    folder = make(
        tmp_path / "p",
        "import os, pathlib\n"
        "def test_it():\n"
        "    assert os.environ['TRAIL_TICKET'] == 'ABC-1'\n"
        "    assert not pathlib.Path('large.bin').exists()\n"
        "    assert pathlib.Path('small.txt').exists()\n",
        large__bin="x",
        small__txt="x",
    )
    trail = tmp_path / "trail.jsonl"
    settings = {"TRAIL_LEAVE": "*.bin, other/*", "TRAIL_TICKET": "ABC-1", "TRAIL_FILE": str(trail)}
    done = person.pytest(cwd=folder, env=settings)
    assert done.code == 0, done.text
    assert developer.jobs()[0]["name"] == "ABC-1: p"
    events = [json.loads(line) for line in trail.read_text().splitlines()]
    assert events[-1]["type"] == "complete"
    assert "1 passed" in "".join(event["data"] for event in events if event["type"] == "log")


def test_a_client_plugin_changes_nothing_in_local_runs(plugged: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "p", "def test_it(): pass\n")
    trail = tmp_path / "trail.jsonl"
    done = subprocess.run(
        [plugged, "-m", "pytest", "-q"],
        cwd=folder,
        env={**os.environ, "TRAIL_FILE": str(trail)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not trail.exists()
