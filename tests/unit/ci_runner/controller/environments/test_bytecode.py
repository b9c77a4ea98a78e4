"""Byte code of environments: what of a container's files is taken, and where it may go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ci_runner.controller.environments.takeover import move_byte_code
from ci_runner.storage.safe_fs import opened_folder

BUILDER = Path(__file__).parents[5] / "pytest_remote_ci" / "job" / "builder.py"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return tmp_path / "made"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    folder = tmp_path / "environment"
    (folder / "lib" / "package").mkdir(parents=True)
    (folder / "lib" / "package" / "module.py").write_text("ONE = 1\n")
    return folder


def move_beside(made: Path, environment: Path) -> int:
    with opened_folder(made) as source, opened_folder(environment) as target:
        return move_byte_code(source, target, None)


def write(path: Path, content: bytes = b"code") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_byte_code_lands_beside_its_source(made: Path, environment: Path) -> None:
    write(made / "lib" / "package" / "__pycache__" / "module.cpython-311.pyc")
    write(made / "lib" / "__pycache__" / "top.cpython-311.pyc")
    assert move_beside(made, environment) == 2
    target = environment / "lib" / "package" / "__pycache__" / "module.cpython-311.pyc"
    assert target.read_bytes() == b"code"
    assert target.stat().st_mode & 0o777 == 0o644


def test_only_plain_byte_code_is_taken(made: Path, environment: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    cache = made / "lib" / "package" / "__pycache__"
    write(cache / "module.py")
    (cache / "link.pyc").symlink_to(secret)
    (cache / "folder.pyc").mkdir()
    write(made / "elsewhere" / "__pycache__" / "a.pyc")
    assert move_beside(made, environment) == 0
    assert not (environment / "elsewhere").exists()


def test_no_link_leads_out_of_the_environment_or_of_what_was_made(
    made: Path, environment: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (environment / "lib" / "linked").symlink_to(outside)
    (environment / "lib" / "package" / "__pycache__").symlink_to(outside)
    write(made / "lib" / "linked" / "__pycache__" / "a.pyc")
    write(made / "lib" / "package" / "__pycache__" / "b.pyc")
    write(tmp_path / "foreign" / "c.pyc")
    (made / "lib" / "__pycache__").symlink_to(tmp_path / "foreign")
    assert move_beside(made, environment) == 0
    assert list(outside.iterdir()) == []


def test_the_builder_compiles_what_it_can_and_runs_nothing(
    made: Path, environment: Path, tmp_path: Path
) -> None:
    trap = tmp_path / "trap"
    write(environment / "lib" / "package" / "sets_a_trap.py", f"open({str(trap)!r}, 'w')\n".encode())
    write(environment / "lib" / "package" / "template.py", b"class {{ name }}:\n")
    spool = tmp_path / "spool"
    step = {"do": "bytecode", "source": str(environment), "target": str(made), "seconds": 60.0}
    job = {"protocol": 1, "uv": "uv", "may_build": False, "cwd": "/", "env": {}, "steps": [step]}
    write(spool / "job.json", json.dumps(job).encode())
    subprocess.run([sys.executable, "-I", "-S", str(BUILDER), str(spool)], check=True, timeout=60)
    assert json.loads((spool / "result.json").read_text())["ok"] is True
    assert move_beside(made, environment) == 2
    assert not trap.exists()
    verbose = [sys.executable, "-v", "-c", "import package.module"]
    done = subprocess.run(
        verbose,
        env={"PYTHONPATH": str(environment / "lib"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert f"matches {environment}/lib/package/module.py" in done.stderr, "the byte code is used"


#: Runs pytest and prints which modules it rewrites itself.
SPY = """
from _pytest.assertion import rewrite
true = rewrite._rewrite_test
def spy(path, config):
    print("rewrites", path)
    return true(path, config)
rewrite._rewrite_test = spy
import pytest
pytest.main(["-q"])
"""


@pytest.mark.parametrize("version", ["6.2.5", "9.0.2"])
def test_pytest_finds_its_plugins_rewritten(made: Path, tmp_path: Path, version: str) -> None:
    environment = tmp_path / "environment"
    uv = Path(sys.executable).with_name("uv")
    for command in (
        ["venv", "--quiet", "--no-project", "--python", sys.executable, str(environment)],
        [
            "pip",
            "install",
            "--quiet",
            "--python",
            str(environment),
            f"pytest=={version}",
            "pytest-mock==3.14.0",
        ],
    ):
        subprocess.run([uv, *command], check=True, timeout=120)

    def rewritten() -> int:
        """Return how many modules of the plugin pytest rewrites at its start."""
        done = subprocess.run(
            [environment / "bin" / "python", "-c", SPY],
            cwd=tmp_path,
            env={"PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        lines = done.stdout.splitlines()
        return sum(line.startswith("rewrites") and "/pytest_mock/" in line for line in lines)

    assert rewritten() > 0
    spool = tmp_path / "spool"
    step = {"do": "bytecode", "source": str(environment), "target": str(made), "seconds": 60.0}
    job = {"protocol": 1, "uv": "uv", "may_build": False, "cwd": "/", "env": {}, "steps": [step]}
    write(spool / "job.json", json.dumps(job).encode())
    subprocess.run([sys.executable, "-I", "-S", str(BUILDER), str(spool)], check=True, timeout=60)
    move_beside(made, environment)
    assert rewritten() == 0
