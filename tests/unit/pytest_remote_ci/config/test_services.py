"""Services of a plain job are those of a pipeline's job: the same keys, values, defaults and mistakes."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from ci_runner.pipelines.check import check, choose
from ci_runner.pipelines.planning import make_plan
from ci_runner.pipelines.run import service_dict
from pytest_remote_ci.config import config
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session.submission import CommandSubmission
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.terminal.status_line import StatusLine

PIPELINE = """
[tool.remote-ci.pipelines.ci]
stages = ["s"]
[tool.remote-ci.pipelines.ci.jobs.a]
stage = "s"
"""
PREFIX = "tool.remote-ci.pipelines.ci.jobs.a.services"


def in_pipeline(text: str) -> str:
    return PIPELINE + text.replace("[tool.remote-ci.services", f"[{PREFIX}").replace(
        "[tool.remote-ci]\nservices", "services"
    )


def load(folder: Path, text: str) -> config.Config:
    (folder / "pyproject.toml").write_text(text)
    return config.load(folder, environ={}, home=folder / "home")


@pytest.mark.parametrize(
    "text",
    [
        (
            '[tool.remote-ci.services.db]\nimage = "postgres:17"\n'
            'env = { POSTGRES_PASSWORD = "test", PORT = 5432, ON = true, V = 1.10 }\n'
            'health = "pg_isready -U postgres"\nports = [5432, 5433]\ncommand = ["postgres", "-c", 1, 2.50]\n'
        ),
        '[tool.remote-ci.services.db]\nimage = "postgres"\nshm-size = "1.5g"\n',
        '[tool.remote-ci.services.db]\nimage = "postgres"\nshm_size = 2097152\n',
        '[tool.remote-ci.services]\ncache = "redis:7"\nqueue = { image = "rabbitmq" }\n',
        '[tool.remote-ci.services.db]\nname = "other"\nimage = "postgres"\n',
        '[tool.remote-ci]\nservices = ["docker.io/library/redis:7@sha256:0", { name = "db", image = "x/Y:1" }]\n',
        '[tool.remote-ci]\nservices = [{ image = "quay.io/x/minio:1" }]\n',
        "[tool.remote-ci]\nservices = []\n",
    ],
)
def test_they_mean_the_same_as_in_a_pipeline(text: str, tmp_path: Path) -> None:
    checked = check([("pyproject.toml", in_pipeline(text))])
    assert checked.is_valid, checked.problems
    (job,) = make_plan(choose(checked, "ci")).jobs
    loaded = load(tmp_path, text)
    assert list(loaded.services) == [service_dict(service) for service in job.services]
    options = loaded.submit_options(root=tmp_path, cwd=tmp_path, environ={})
    assert options.services == loaded.services


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[tool.remote-ci]\nservices = 7\n",
            "services must be a table of services by name, or a list of them",
        ),
        ("[tool.remote-ci.services]\ndb = 7\n", "services.db: must be an object"),
        ("[tool.remote-ci.services.db]\nports = [1]\n", "services.db.image: must name an image"),
        (
            '[tool.remote-ci.services."My DB"]\nimage = "x"\n',
            "services.My DB.name: 'My DB' cannot be a host name",
        ),
        ('[tool.remote-ci.services]\nlocalhost = "x"\n', "services.localhost.name: 'localhost' cannot be"),
        (
            '[tool.remote-ci.services.db]\nimagee = "x"\n',
            "services.db: unknown key 'imagee'; valid keys are name, image, env, health, ports, command, shm-size",
        ),
        (
            '[tool.remote-ci.services.db]\nimage = "x"\nshm-size = "10k"\n',
            'services.db.shm-size: must be a size of at least 1 MiB, such as "2g"',
        ),
        (
            '[tool.remote-ci.services.db]\nimage = "x"\nports = [70000]\n',
            "services.db.ports: must be a list of numbers from 1 to 65535",
        ),
        (
            '[tool.remote-ci.services.db]\nimage = "x"\nenv = { "a b" = "1" }\n',
            "services.db.env: 'a b' is not a valid name of an environment variable",
        ),
        ('[tool.remote-ci]\nservices = ["redis:7", "x/redis"]\n', "services: two services are named 'redis'"),
        (
            "[tool.remote-ci]\nservices = [" + ", ".join(f'"image{n}"' for n in range(9)) + "]\n",
            "services: must be a list of at most 8 services",
        ),
    ],
)
def test_mistakes_are_mistakes_in_both(text: str, words: str, tmp_path: Path) -> None:
    assert not check([("pyproject.toml", in_pipeline(text))]).is_valid
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'pyproject.toml'} [tool.remote-ci]: {words}")
    assert "\n" not in str(caught.value)


def test_jobs_of_a_pipeline_name_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(tmp_path, '[tool.remote-ci]\nservices = ["redis:7"]\n')
    with ExitStack() as resources:
        parts = CommandSubmission(settings, Display(StatusLine(sys.stderr)), resources)
        assert [service["name"] for service in parts.job_options().services] == ["redis"]
        assert parts.run_options().services == ()
