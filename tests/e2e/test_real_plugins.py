"""Plugins that are here and in the job, the real ones: what they write comes home once, and to its place."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import pytest
from install_wheel import built_wheel
from support import client_environments
from support.developer import Developer, make_developer
from support.runner import Runner

pytestmark = [pytest.mark.docker, pytest.mark.every(3), pytest.mark.timeout(600)]

PLUGINS = ("syrupy", "inline-snapshot", "pytest-recording", "allure-pytest", "pytest-bdd", "pytest-picked")

FILES = {
    "requirements.txt": "\n".join(PLUGINS),
    "test_syrupy.py": "def test_syrupy(snapshot):\n    assert 2 == snapshot\n",
    "__snapshots__/test_syrupy.ambr": "# serializer version: 1\n# name: test_syrupy\n  1\n# ---\n",
    "test_inline.py": "from inline_snapshot import snapshot\n\ndef test_inline():\n    assert 1 + 1 == snapshot()\n",
    "test_allure.py": "import allure\n\ndef test_allure():\n    allure.attach('text', 'name')\n",
    "a.feature": "Feature: F\n  Scenario: S\n    Given nothing\n",
    "test_bdd.py": """
from pytest_bdd import given, scenarios

scenarios("a.feature")

@given("nothing")
def nothing(): pass
""",
    "test_recording.py": """
import http.server, threading, urllib.request
import pytest

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"answer")

    def log_message(self, *args): pass

@pytest.mark.vcr
def test_recording():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/") as answer:
            assert answer.read() == b"answer"
""",
}


@pytest.fixture
def developer(runner: Runner, tmp_path: Path) -> Developer:
    """Somebody whose environment has the plugins."""
    folder = client_environments.ROOT / ".cache" / "clients" / "plugins"
    python = client_environments.environment(folder, str(built_wheel()), "pytest", *PLUGINS)
    return dataclasses.replace(make_developer(runner, tmp_path), python=str(python))


def test_plugins_in_both_places_write_what_they_write_in_a_direct_run(
    developer: Developer, tmp_path: Path
) -> None:
    project = tmp_path / "project"
    for path, text in FILES.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)
    updates = ["--snapshot-update", "--inline-snapshot=create", "--record-mode=once"]
    done = developer.pytest(
        "-q", *updates, "--alluredir=allure", "--cucumberjson=bdd.json", cwd=project, timeout=400
    )
    assert done.code == 1, done.text  # as directly: a snapshot was missing when its test ended
    assert "5 passed, 1 error" in done.out
    assert (project / "__snapshots__" / "test_syrupy.ambr").read_text().splitlines()[2] == "  2"
    assert "snapshot(2)" in (project / "test_inline.py").read_text()
    [cassette] = (project / "cassettes").rglob("*.yaml")
    assert "answer" in cassette.read_text()
    assert len(list((project / "allure").glob("*-result.json"))) == 5
    assert len(list((project / "allure").glob("*-attachment*"))) == 1
    [feature] = json.loads((project / "bdd.json").read_text())
    assert [element["name"] for element in feature["elements"]] == ["S"]

    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], cwd=project, check=True, capture_output=True)
    with (project / "test_syrupy.py").open("a") as file:
        file.write("\n")
    picked = developer.pytest("-q", "--picked", cwd=project, timeout=400)
    assert picked.code == 0, picked.text
    assert "1 passed" in picked.out
    assert "1 changed test files: test_syrupy.py" in picked.err
