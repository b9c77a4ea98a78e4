"""Dependencies in folders beside the project travel with it, and everything else stays as it is without them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.developer import Developer, make_developer
from support.runner import Runner

pytestmark = pytest.mark.parametrize("runner", ["docker", "process"], indirect=True)

BUILD = '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
TEST = """
import pathlib
import base, lib, proj

HERE = pathlib.Path(__file__).parent

def test_all_are_there(request):
    assert (proj.value, lib.value, base.value) == (1, 2, 3)
    assert pathlib.Path(lib.__file__) == HERE.parent / "lib/src/lib/__init__.py"
    assert str(HERE) == str(pathlib.Path.cwd()) == str(request.config.rootpath)
    assert sorted(path.name for path in HERE.parent.iterdir()) == ["deep", "lib", "proj"]
    assert not (HERE.parent / "lib/ignored.log").exists()

def test_files_are_written():
    earlier = HERE / ".hypothesis/examples"
    print("EARLIER", earlier.exists())
    earlier.mkdir(parents=True, exist_ok=True)
    (earlier / "x").write_text("x")
    (HERE / "made.txt").write_text("made")
    (HERE / "out.bin").write_text("artifact")
    (HERE / "changed.txt").write_text("after")
    (HERE.parent / "lib/made.txt").write_text("beside")
"""


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.fixture
def developer(runner: Runner, tmp_path: Path) -> Developer:
    if runner.engine == "docker":
        return make_developer(runner, tmp_path)
    (tmp_path / "home").mkdir()
    return Developer(runner, tmp_path / "home", runner.key)


@pytest.mark.sampled(1)
def test_sources_beside_the_project_travel_with_it(developer: Developer, tmp_path: Path) -> None:
    """One that a source takes from beside itself, too; nothing else in their common folder does."""
    top = tmp_path / "all"
    package = (
        '[project]\nname = "{name}"\nversion = "1"\ndependencies = {needs}\n[tool.uv.sources]\n{sources}\n'
    )
    put(
        top,
        {
            "proj/pyproject.toml": BUILD
            + package.format(
                name="proj", needs='["lib"]', sources='lib = {path = "../lib", editable = true}'
            ),
            "proj/proj/__init__.py": "value = 1\n",
            "proj/test_it.py": TEST,
            "proj/changed.txt": "before",
            "lib/pyproject.toml": BUILD
            + package.format(name="lib", needs='["base"]', sources='base = {path = "../deep/base"}'),
            "lib/src/lib/__init__.py": "value = 2\n",
            "lib/.gitignore": "*.log\n",
            "lib/ignored.log": "x",
            "deep/base/pyproject.toml": BUILD + package.format(name="base", needs="[]", sources=""),
            "deep/base/base.py": "value = 3\n",
            "private/notes.txt": "x",
            "notes.txt": "x",
        },
    )
    project = top / "proj"
    done = developer.pytest(
        "-v", "-rP", "--junitxml=report.xml", "--remote-ci-artifact=*.bin", cwd=project, timeout=300
    )
    assert done.code == 0, done.text
    assert "test_it.py::test_all_are_there PASSED" in done.out
    assert "EARLIER False" in done.out
    assert "sent with the project, which depends on it: ../lib, ../deep/base (" in done.text
    assert 'classname="test_it"' in (project / "report.xml").read_text()
    assert [path.read_text() for path in project.glob(".remote-ci-artifacts/*/out.bin")] == ["artifact"]
    assert "changed by the tests: changed.txt, made.txt;" in done.text
    job = done.text.rpartition("remote-ci pull ")[2].split()[0]
    log = developer.remote_ci("logs", job).text
    assert "'lib/made.txt' is not listed, because it is beside the project" in log
    pulled = developer.remote_ci("pull", job, cwd=project)
    assert pulled.code == 0, pulled.text
    assert ((project / "changed.txt").read_text(), (project / "made.txt").read_text()) == ("after", "made")
    assert not (top / "lib/made.txt").exists()

    (top / "lib/src/lib/__init__.py").write_text("value = 20\n")
    again = developer.pytest("-rP", "test_it.py", cwd=project)
    assert again.code == 1, again.text
    assert "(1, 20, 3)" in again.out
    assert "EARLIER True" in again.out


def test_sources_of_other_tools_travel_too(developer: Developer, runner: Runner, tmp_path: Path) -> None:
    """Poetry's paths and lines of requirements files, from two levels above."""
    if runner.engine == "docker":
        pytest.skip("the tools differ in what is read, not in where it runs")
    top = tmp_path / "all"
    package = BUILD + '[project]\nname = "{0}"\nversion = "1"\n[tool.setuptools]\npy-modules = ["{0}"]\n'
    put(
        top,
        {
            "apps/proj/pyproject.toml": '[tool.poetry.dependencies]\nlib = {path = "../../lib", develop = true}\n',
            "apps/proj/requirements.txt": "-e ../other  # beside\n",
            "apps/proj/tests/test_it.py": "import lib, other\ndef test_it():\n    pass\n",
            "apps/other/pyproject.toml": package.format("other"),
            "apps/other/other.py": "",
            "lib/pyproject.toml": package.format("lib"),
            "lib/lib.py": "",
        },
    )
    done = developer.pytest("-v", cwd=top / "apps/proj/tests")
    assert done.code == 0, done.text
    assert "test_it.py::test_it PASSED" in done.out


PIPELINE = """
[tool.remote-ci]
git = true

[tool.remote-ci.pipelines.ci]
stages = ["build", "test"]

[tool.remote-ci.pipelines.ci.jobs.make]
stage = "build"
working-dir = "sub"
script = [
    "python -c 'import lib, base; print(lib.value, base.value)' > made.txt",
    "git -C .. status --porcelain",
]
artifacts = ["sub/made.txt"]

[tool.remote-ci.pipelines.ci.jobs.tests]
stage = "test"
needs = ["make"]
"""


@pytest.mark.sampled(1)
def test_jobs_of_a_pipeline_have_sources_beside_the_project(developer: Developer, tmp_path: Path) -> None:
    """Working directories and artifacts stay relative to the project, and git's work tree is around it."""
    top = tmp_path / "all"
    package = BUILD + '[project]\nname = "{0}"\nversion = "1"\n[tool.setuptools]\npy-modules = ["{0}"]\n'
    put(
        top,
        {
            "proj/pyproject.toml": '[tool.poetry.dependencies]\nlib = {path = "../lib", develop = true}\n'
            'base = {path = "../deep/base", develop = true}\n' + PIPELINE,
            "proj/sub/here.txt": "x",
            "proj/test_it.py": "import pathlib, lib\n"
            "def test_it():\n    assert pathlib.Path('sub/made.txt').read_text() == '2 3\\n'\n",
            "lib/pyproject.toml": package.format("lib"),
            "lib/lib.py": "value = 2\n",
            "deep/base/pyproject.toml": package.format("base"),
            "deep/base/base.py": "value = 3\n",
        },
    )
    git = ("git", "-C", str(top), "-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    project = top / "proj"
    done = developer.remote_ci("pipeline", "run", "ci", cwd=project, timeout=300)
    assert done.code == 0, done.text
    assert "sent with the project, which depends on it: ../lib, ../deep/base (" in done.text
    fetched = developer.remote_ci("pipeline", "artifacts", "ci", "-d", "out", cwd=project)
    assert [path.read_text() for path in (project / "out").rglob("made.txt")] == ["2 3\n"], fetched.text
    rerun = developer.remote_ci("pipeline", "rerun", "ci", "--job", "tests", cwd=project)
    assert rerun.code == 0, rerun.text
    session = developer.pytest("-v", "--remote-ci-pipeline", "ci", cwd=project)
    assert session.code == 0, session.text
    assert "tests/test_it.py::test_it PASSED" in session.out


def test_a_source_of_a_pipeline_that_is_missing_is_refused(
    developer: Developer, runner: Runner, tmp_path: Path
) -> None:
    if runner.engine == "docker":
        pytest.skip("nothing is sent")
    toml = '[tool.poetry.dependencies]\nlib = {path = "../lib"}\n' + PIPELINE
    put(tmp_path / "proj", {"pyproject.toml": toml})
    done = developer.remote_ci("pipeline", "run", "ci", cwd=tmp_path / "proj")
    assert done.code == 4, done.text
    assert "lib is taken from ../lib" in done.text
    assert "which does not exist, so nothing was sent" in done.text
