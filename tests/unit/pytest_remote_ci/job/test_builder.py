"""The builder of environments with a real uv and an index of the tests' own; uv's words are turned into reasons."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.package_index import rewheel, wheel

from ci_runner.dependencies import locks
from ci_runner.dependencies.project import Tree
from pytest_remote_ci.job import builder

PLAN: dict[str, Any] = {
    "source": "requirements",
    "project_file": "pyproject.toml",
    "extras": [],
    "groups": [],
    "requirements": [],
    "constraints": [],
    "index_options": [],
    "install": False,
    "all_packages": False,
    "name": None,
    "pytest": "pytest",
    "adds_pytest": False,
    "guessed_extras": [],
}
PYTEST = pytest.__version__
NO_FILES = Tree({}, lambda path: b"")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index as a folder: pytest, and a package in two versions."""
    folder = tmp_path_factory.mktemp("index")
    for name in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
        rewheel(folder, name)
    for version in ("1.0", "2.0"):
        wheel(folder, "thing", version, {"thing.py": f"version = {version!r}\n"})
    return f"{folder.as_uri()}/simple"


class Bench:
    """A spool, a workspace and an empty store."""

    def __init__(self, folder: Path, index: str) -> None:
        self.spool, self.project, self.stage = folder / "spool", folder / "project", folder / "new" / "stage"
        for made in (self.spool, self.project, self.stage.parent):
            made.mkdir()
        self.env = {"UV_DEFAULT_INDEX": index, "UV_CACHE_DIR": str(folder / "cache"), "UV_NO_PROGRESS": "1"}

    def run(self, *steps: dict[str, Any], may_build: bool = False, **job: Any) -> dict[str, Any]:
        """What the builder's result says."""
        document = {
            "protocol": 1,
            "uv": str(Path(sys.executable).with_name("uv")),
            "may_build": may_build,
            "cwd": str(self.project),
            "env": self.env,
            "steps": steps,
            **job,
        }
        (self.spool / "job.json").write_text(json.dumps(document))
        code = builder.main(["builder.py", str(self.spool)])
        result: dict[str, Any] = json.loads((self.spool / "result.json").read_text())
        assert code == (0 if result["ok"] else 1)
        assert not (self.spool / "job.json").exists()  # it may have credentials
        return result

    def compile(self, **plan: Any) -> dict[str, Any]:
        return self.run({"do": "compile", "plan": {**PLAN, **plan}})

    @property
    def output(self) -> str:
        """What the user sees."""
        return (self.spool / "output").read_text()

    def sync(self, lock: str | None = None, *, pip: bool = False) -> dict[str, Any]:
        return {
            "do": "sync",
            "stage": str(self.stage),
            "lock": lock,
            "index_options": [],
            "pip": pip,
            "home": "/ci/home",
            "project_python": "/ci/project/bin/python",
        }


@pytest.fixture
def bench(tmp_path: Path, index: str) -> Bench:
    return Bench(tmp_path, index)


def names(result: dict[str, Any]) -> dict[str, str]:
    """Name → version of a lock's entries."""
    entries = [line.split()[0].split("==") for line in result["lock"]["text"].splitlines()]
    return dict(entry for entry in entries if len(entry) == 2)


def test_requirements_and_constraints_become_a_lock_with_hashes(bench: Bench) -> None:
    result = bench.compile(requirements=["thing", "pytest"], constraints=["thing<2"])
    assert result["ok"], result
    assert names(result)["thing"] == "1.0"
    assert names(result)["pytest"] == PYTEST
    assert locks.parse(result["lock"]["text"], "/project", NO_FILES).pinned


def test_pytest_is_added_where_nothing_asks_for_it(bench: Bench) -> None:
    result = bench.compile(requirements=["thing"], pytest=f"pytest=={PYTEST}")
    assert names(result)["pytest"] == PYTEST


def test_a_guessed_version_of_pytest_is_given_up_where_it_cannot_be(bench: Bench) -> None:
    """The client's own version was only a guess; what is tried in vain is not shown."""
    result = bench.compile(requirements=["thing", "pytest==1.2.3"], pytest="pytest==1.2.3", adds_pytest=True)
    assert result["ok"], result
    assert names(result)["pytest"] == PYTEST
    assert "1.2.3" not in bench.output


def test_guessed_extras_are_given_up_where_the_project_has_none(bench: Bench) -> None:
    (bench.project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\ndependencies = ["thing"]\n'
        '[project.optional-dependencies]\ntest = ["pytest"]\n[dependency-groups]\ndev = ["thing==1.0"]\n'
    )
    plan = {"source": "project", "groups": ["dev"], "install": True, "name": "mine"}
    result = bench.compile(**plan, extras=["test", "testing"], guessed_extras=["testing"])
    assert result["ok"], result
    assert names(result)["thing"] == "1.0"


def test_a_failure_is_told_in_one_line_and_shown_whole(bench: Bench) -> None:
    result = bench.compile(requirements=["no-such-thing"])
    assert not result["ok"]
    assert "no-such-thing" in result["error"]
    assert "\n" not in result["error"]
    assert "no-such-thing" in bench.output


def test_folders_of_the_workspace_are_kept_apart_and_the_project_is_no_dependency_of_itself(
    bench: Bench,
) -> None:
    for name in ("part", "mine"):
        folder = bench.project / name
        folder.mkdir()
        (folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "none"\n'
            f'[project]\nname = "{name}"\nversion = "1"\n'
        )
    wheel(Path(bench.env["UV_DEFAULT_INDEX"][7:]).parent, "friend", "1.0", {"friend.py": ""}, ("mine",))
    wheel(Path(bench.env["UV_DEFAULT_INDEX"][7:]).parent, "mine", "9.0", {"mine.py": ""})
    result = bench.compile(requirements=["./part", "friend", "pytest"], install=True, name="Mine")
    assert result["ok"], result
    tree = Tree({"part/pyproject.toml": "", "mine/pyproject.toml": ""}, lambda path: b"")
    lock = locks.parse(result["lock"]["text"], str(bench.project), tree)
    assert lock.locals == ("part",)
    assert "part" not in lock.text
    assert "mine" not in names(result)
    assert "friend" in names(result)


def test_an_environment_is_installed_from_the_lock_of_the_step_before(bench: Bench) -> None:
    result = bench.run(
        {"do": "compile", "plan": {**PLAN, "requirements": ["thing==2.0", "pytest"]}}, bench.sync()
    )
    assert result["ok"], result
    python = bench.stage / "bin" / "python"
    said = subprocess.run(
        [python, "-c", "import thing, pytest; print(thing.version, pytest.__version__)"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert said.stdout == f"2.0 {PYTEST}\n"
    script = (bench.stage / "project-bin" / "pytest").read_text()
    assert '"${REMOTE_CI_PYTHON:-/ci/project/bin/python}"' in script
    assert os.access(bench.stage / "project-bin" / "pytest", os.X_OK)
    assert not (bench.stage / "project-bin" / "python").exists()


def test_nothing_without_a_hash_is_installed_where_nothing_foreign_may_run(bench: Bench) -> None:
    refused = bench.run(bench.sync("thing==2.0\n"))
    assert not refused["ok"]
    assert "hash" in refused["error"].lower()


def test_with_a_users_own_scope_it_may(bench: Bench) -> None:
    assert bench.run(bench.sync("thing==2.0\n"), may_build=True)["ok"]
    assert "thing==2.0" in bench.output.replace(" ", "")


def test_a_project_layer_sees_the_environment_below_it(bench: Bench, tmp_path: Path) -> None:
    (bench.project / "backend.py").write_text(
        "import os, zipfile\n"
        "def build_editable(folder, config_settings=None, metadata_directory=None):\n"
        "    name = 'mine-1.0-py3-none-any.whl'\n"
        "    with zipfile.ZipFile(os.path.join(folder, name), 'w') as made:\n"
        "        made.writestr('mine.pth', os.getcwd())\n"
        "        made.writestr('mine-1.0.dist-info/METADATA', 'Metadata-Version: 2.1\\nName: mine\\nVersion: 1.0\\n')\n"
        "        made.writestr('mine-1.0.dist-info/WHEEL', 'Wheel-Version: 1.0\\nTag: py3-none-any\\n')\n"
        "        made.writestr('mine-1.0.dist-info/RECORD', '')\n"
        "    return name\n"
    )
    (bench.project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (bench.project / "mine.py").write_text("here = True\n")
    layer = tmp_path / "new" / "layer"
    step = {
        "do": "layer",
        "stage": str(layer),
        "projects": [str(bench.project)],
        "environment": str(bench.stage),
        "home": "/ci/home",
    }
    result = bench.run(bench.sync("thing==2.0\n"), step, may_build=True)
    assert result["ok"], result
    code = "import thing, mine; print(thing.version, mine.here)"
    said = subprocess.run(
        [layer / "bin" / "python", "-c", code], check=True, capture_output=True, text=True, cwd="/"
    )
    assert said.stdout == "2.0 True\n"


def test_a_locked_project_is_installed_as_its_lock_says(bench: Bench) -> None:
    (bench.project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.10"\ndependencies = ["thing"]\n'
    )
    env = {**os.environ, **bench.env}
    command = [
        str(Path(sys.executable).with_name("uv")),
        "lock",
        "--quiet",
        "--upgrade-package",
        "thing==1.0",
    ]
    subprocess.run(command, cwd=bench.project, env=env, check=True)
    result = bench.compile(source="uv.lock", pytest=f"pytest=={PYTEST}")
    assert result["ok"], result
    assert names(result)["thing"] == "1.0"
    assert names(result)["pytest"] == PYTEST, "the lock lacks it, so it was added"


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"do": "dance"}, "AttributeError"),
        ({"do": "sync", "stage": "/proc/nowhere", "lock": "x", "index_options": []}, "/proc/nowhere"),
    ],
)
def test_whatever_goes_wrong_is_a_result(bench: Bench, step: dict[str, Any], words: str) -> None:
    result = bench.run(step)
    assert not result["ok"]
    assert words in result["error"]


def test_a_job_of_another_protocol_is_refused(bench: Bench) -> None:
    assert bench.run(protocol=2)["error"] == "the builder speaks protocol 1"


FAILED_BUILD = """\
  × Failed to build `x`
  ├─▶ The build backend returned an error
  ╰─▶ Call failed

      [stderr]
      line 1
      ValueError: last words

      hint: do this
"""


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", ""),
        ("warning: x\nall went wrong\n", "all went wrong"),
        ("error: No\n  cause: Because\n  cause: this\nhint: try\n", "No cause: Because cause: this"),
        (
            FAILED_BUILD,
            "Failed to build `x`: ValueError: last words",
        ),
    ],
)
def test_the_cause_is_found_in_what_uv_says(output: str, line: str) -> None:
    assert builder.cause(output) == line


def test_an_environment_has_what_new_virtual_environments_have(bench: Bench) -> None:
    """Its pip installs below the home folder, and the interpreter finds it there."""
    result = bench.run(bench.sync("thing==2.0\n", pip=True), may_build=True)
    assert result["ok"], result
    assert {name for name, _ in builder.bundled_wheels()} == (
        {"pip", "setuptools"} if sys.version_info < (3, 12) else {"pip"}
    )
    home = bench.spool / "home"
    version = "python{}.{}".format(*sys.version_info[:2])
    packages = home / ".local" / "lib" / version / "site-packages"
    python = bench.stage / "bin" / "python"
    path = subprocess.check_output(
        [python, "-c", "import sys; print(sys.path)"], env={"HOME": str(home)}, text=True
    )
    assert str(packages) not in path
    packages.mkdir(parents=True)
    (packages / "installed_later.py").touch()
    code = "import importlib, pip, thing, installed_later; print(pip.__version__)"
    said = subprocess.run(
        [bench.stage / "bin" / "python", "-c", code],
        env={"HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout
    assert "prefix = /ci/home/.local" in (bench.stage / "pip.conf").read_text()


def test_a_locked_pip_is_the_only_one(bench: Bench) -> None:
    wheel(bench.spool / "own", "pip", "1.0", {"pip.py": ""})
    [made] = (bench.spool / "own").rglob("pip-1.0-*.whl")
    assert bench.run(bench.sync(f"pip @ file://{made}\n", pip=True), may_build=True)["ok"]
    [found] = bench.stage.glob("lib/python*/site-packages/pip-*.dist-info")
    assert found.name == "pip-1.0.dist-info"


def test_pip_can_be_left_out(bench: Bench) -> None:
    assert bench.run(bench.sync("thing==2.0\n"), may_build=True)["ok"]
    assert list(bench.stage.glob("lib/python*/site-packages/pip")) == []


BROKEN_BUILD = """\
error: Failed to build `x @ file:///w`
  cause: The build backend returned an error
  cause: Call to `setuptools.build_meta.build_editable` failed (exit status: 1)

[stdout]
running build_ext

[stderr]
x.c:1:10: fatal error: nothing.h: No such file or directory
compilation terminated.
error: command '/usr/bin/gcc' failed with exit code 1

hint: This usually indicates a problem with the package or the build environment.
"""


def test_the_last_line_that_names_an_error_is_the_cause() -> None:
    assert builder.cause(BROKEN_BUILD) == (
        "Failed to build `x @ file:///w`: x.c:1:10: fatal error: nothing.h: No such file or directory"
    )


def test_a_netrc_file_is_private_and_goes_with_the_build(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs of the build find it in their home folder."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    program = tmp_path / "uv"
    report = tmp_path / "seen"
    program.write_text(
        f'#!/bin/sh\ncat "$HOME/.netrc" "$NETRC" > {report}\nstat -c %a "$NETRC" >> {report}\nexit 1\n'
    )
    program.chmod(0o755)
    failing = {"do": "compile", "plan": PLAN}
    result = bench.run(failing, netrc="machine a login b password c", uv=str(program))
    assert not result["ok"]
    assert report.read_text() == 2 * "machine a login b password c\n" + "600\n"
    assert list(temporary.iterdir()) == []
