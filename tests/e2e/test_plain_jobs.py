"""A plain job has what jobs of pipelines have."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.developer import Developer
from support.runner import Runner

pytestmark = pytest.mark.docker

VALUE = "s3cr3t-value-of-a-job"
SECRETS = r"""
import os
def test_gets_it():
    assert len(os.environ["TOKEN"]) == 21
def test_prints_it(capsys):
    with capsys.disabled():
        print("\nit is", os.environ["TOKEN"])
    assert "x" == os.environ["TOKEN"]
"""


def test_secrets_of_a_project(runner: Runner, developer: Developer, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.remote-ci]\nsecrets = ["TOKEN"]\nenv = ["TOKEN"]\n')
    (tmp_path / "test_it.py").write_text(SECRETS)
    done = developer.pytest(cwd=tmp_path, TOKEN=VALUE)
    assert "1 failed, 1 passed" in done.out, done.text
    assert VALUE not in done.text
    assert "it is ***" in done.out
    assert "'x' == '***'" in done.out
    with closing(sqlite3.connect(runner.data_dir / "runner.db")) as database:
        assert database.execute("SELECT count(*) FROM job_secrets").fetchone() == (0,)
        [(options,)] = database.execute("SELECT options FROM jobs").fetchall()
    assert '"secrets":["TOKEN"]' in options
    assert VALUE not in options
    done = developer.pytest(cwd=tmp_path)
    assert done.code == 4
    assert "[tool.remote-ci]: secrets: not set in the environment: TOKEN" in done.err
    assert len(developer.jobs()) == 1


SERVICES = """
[tool.remote-ci.services.web]
image = "{image}"
command = ["sh", "-c", "sleep 1; exec python3 -m http.server 8123"]
ports = [8123]
"""
ASKS = """
import urllib.request
def test_it_is_there():
    assert urllib.request.urlopen("http://web:8123/").status == 200
"""


def test_services_of_a_project(developer: Developer, docker_engine: str, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(SERVICES.format(image=docker_engine))
    (tmp_path / "test_it.py").write_text(ASKS)
    done = developer.pytest(cwd=tmp_path)
    assert done.code == 0, done.text
