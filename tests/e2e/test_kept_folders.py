"""What tools remember between runs: hypothesis, testmon and pytest-benchmark find what the last job left."""

from __future__ import annotations

import json
from pathlib import Path

from support.developer import Done, make_developer
from support.runner import Runner

PYPROJECT = """
[tool.remote-ci]
requirements = ["requirements.txt"]
keep = [".hypothesis", ".benchmarks", ".testmondata*", "~/.cache/tool"]
"""
HYPOTHESIS = """
from hypothesis import given, settings, strategies

calls = []

@settings(deadline=None)
@given(strategies.integers())
def test_numbers(number):
    calls.append(number)
    assert number < 1_000_000, f"first example: {calls[0]}"
"""
STABLE = """
def test_stable():
    pass
"""
CHANGING = """
from pathlib import Path

def test_speed(benchmark):
    benchmark.pedantic(sorted, args=([3, 2, 1],), rounds=3)

def test_home():
    tool = Path.home() / ".cache" / "tool"
    tool.mkdir(parents=True, exist_ok=True)
    runs = int((tool / "runs").read_text()) + 1 if (tool / "runs").exists() else 1
    (tool / "runs").write_text(str(runs))
    (Path.home() / ".cache" / "other").write_text("not kept")
    print(f"runs of the tool: {runs}")
"""


def test_plugins_find_what_the_last_job_left(runner: Runner, tmp_path: Path) -> None:
    developer = make_developer(runner, tmp_path)
    project = tmp_path / "project"
    project.mkdir()
    (project / "pyproject.toml").write_text(PYPROJECT)
    (project / "requirements.txt").write_text("hypothesis\npytest-testmon\npytest-benchmark\n")
    (project / "test_hypothesis.py").write_text(HYPOTHESIS)
    (project / "test_stable.py").write_text(STABLE)
    (project / "test_changing.py").write_text(CHANGING)

    def run(*args: str) -> Done:
        done = developer.remote_ci("submit", "--", "-s", "-v", *args, cwd=project, timeout=300)
        assert done.code == 1, done.text
        return done

    def keep(*args: str) -> Done:
        done = developer.remote_ci("keep", *args, cwd=project)
        assert done.code == 0, done.text
        return done

    first = run("--testmon", "--benchmark-autosave")
    assert "first example: 0" in first.text
    assert "test_stable.py::test_stable" in first.text
    assert "runs of the tool: 1" in first.text

    (project / "test_changing.py").write_text(
        CHANGING.replace("[3, 2", "[4, 2").replace("runs of", "All runs of")
    )
    second = run("--testmon", "--benchmark-compare")
    assert "first example: 1000000" in second.text
    assert "test_stable.py::test_stable" not in second.text
    assert "Comparing against benchmarks from: " in second.text
    assert "All runs of the tool: 2" in second.text

    found = json.loads(keep("list", "--json").out)
    assert [(item["root"], item["pattern"], item["problem"]) for item in found] == [
        (str(project), pattern, None)
        for pattern in (".benchmarks", ".hypothesis", ".testmondata*", "~/.cache/tool")
    ]
    assert all(item["files"] > 0 and item["bytes"] > 0 for item in found)
    assert ".hypothesis" in keep("list").out
    assert {path.name for path in project.glob(".hypothesis/*")} == {"examples"}, "of it only these come home"

    assert keep("clear").out == "Removed 4 kept folders.\n"
    assert keep("list").out == "Nothing is kept.\n"
    assert "first example: 0" in run("test_hypothesis.py").text
