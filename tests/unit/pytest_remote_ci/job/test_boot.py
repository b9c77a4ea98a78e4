"""The start of pytest inside a job, compared with the command line that it stands for, for several pytests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from pytest_remote_ci.job import boot

BOOT = Path(boot.__file__)
NEWEST = "9.0.2"
VERSIONS = ("6.2.5", "7.4.4", "8.4.2", NEWEST)


@cache
def python_with(version: str, folder: Path) -> str:
    """An interpreter that has this pytest; skips where it cannot be had."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    place = folder / version
    commands = [
        [uv, "venv", "-q", "--no-project", "--python", sys.executable, str(place)],
        [uv, "pip", "install", "-q", "--python", str(place / "bin" / "python"), f"pytest=={version}"],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        if done.returncode:
            pytest.skip(f"pytest {version} cannot be installed here: {done.stderr.strip()[-200:]}")
    return str(place / "bin" / "python")


@pytest.fixture(params=VERSIONS)
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return python_with(request.param, tmp_path_factory.getbasetemp() / "pytests")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "COV"))}
    env["COLUMNS"] = "80"
    return subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60
    )


FILES = {
    "test_ok.py": "def test_a(): pass",
    "test_bad.py": "def test_a(): assert 0",
    "test_broken.py": "import nowhere_at_all",
    "test_stop.py": "import pytest\ndef test_a(): pytest.exit('stop', 7)",
    "test_interrupt.py": "def test_a(): raise KeyboardInterrupt",
    "sub/test_path.py": "import sys, os\ndef test_a(): print('PATH', sys.path[:2], os.path.basename(sys.argv[0]))",
    "test_main.py": """
import multiprocessing, os, sys

def test_a():
    main = sys.modules["__main__"]
    print("MAIN", main.__file__, main.__package__, getattr(main.__spec__, "name", None))
    print("ARGV", getattr(sys, "orig_argv", [])[1:])
    child = multiprocessing.get_context("spawn").Process(target=os.getcwd)
    child.start()
    child.join()
    assert child.exitcode == 0
""",
}


ENDS = {
    "passes (0)": ["test_ok.py"],
    "fails (1)": ["test_bad.py"],
    "cannot be collected (2)": ["test_broken.py"],
    "is interrupted (2)": ["test_interrupt.py"],
    "usage error (4)": ["test_ok.py", "--no-such-option"],
    "no such file (4)": ["nowhere.py"],
    "nothing selected (5)": ["test_ok.py", "-k", "nothing"],
    "a code of its own (7)": ["test_stop.py"],
    "the same path and name": ["-s", "sub/test_path.py"],
    "the same main module": ["-s", "test_main.py"],
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("args", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("mode", ["module", "script"])
def test_output_and_exit_code_are_those_of_pytest_itself(
    mode: str, args: list[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    compare(python_with(NEWEST, tmp_path_factory.getbasetemp() / "pytests"), mode, args, tmp_path)


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    "end", ["fails (1)", "cannot be collected (2)", "the same path and name", "the same main module"]
)
def test_and_so_they_are_for_older_ones(python: str, end: str, tmp_path: Path) -> None:
    compare(python, "module", ENDS[end], tmp_path)


@pytest.mark.parametrize(("mode", "option"), [("module", "-I"), ("script", "-I"), ("module", "-OO")])
def test_and_with_options_of_the_interpreter(
    mode: str, option: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = python_with(NEWEST, tmp_path_factory.getbasetemp() / "pytests")
    compare(python, mode, ["-s", "sub/test_path.py", "test_main.py"], tmp_path, option)


def compare(python: str, mode: str, args: list[str], folder: Path, *options: str) -> None:
    """Run both and hold them against each other."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    args = ["-p", "no:cacheprovider", *args]
    plain = ["-m", "pytest"] if mode == "module" else [str(Path(python).with_name("pytest"))]
    wanted = run(folder, python, *options, *plain, *args)
    ours = run(folder, python, *options, str(BOOT), mode, *args)
    assert ours.returncode == wanted.returncode
    if "--no-such-option" not in args:  # the usage line names the program
        assert _timeless(ours.stdout) == _timeless(wanted.stdout)
        assert ours.stderr == wanted.stderr


def _timeless(text: str) -> list[str]:
    return [line.split(" in ")[0].strip("= ") for line in text.splitlines()]


def test_an_internal_error_is_code_3(python: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("def pytest_collection_finish(): 1 / 0")
    (tmp_path / "test_a.py").write_text("def test_a(): pass")
    assert run(tmp_path, python, str(BOOT), "module").returncode == 3


def test_our_own_options_are_inert_in_every_pytest(python: str, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --remote-ci --remote-ci-attach=x --remote-ci-python 3.12 --remote-ci-new=1\n"
    )
    (tmp_path / "test_a.py").write_text("def test_a(request): assert request.config.getoption('--remote-ci')")
    done = run(tmp_path, python, str(BOOT), "module", "-q")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_reader_that_goes_away_ends_it(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    python = python_with(NEWEST, tmp_path_factory.getbasetemp() / "pytests")
    (tmp_path / "test_a.py").write_text(
        "import pytest\n@pytest.mark.parametrize('n', range(3000))\ndef test_a(n): pass"
    )
    command = [python, str(BOOT), "module", "-v", "-p", "no:cacheprovider"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) in (1, 3)  # 3 where pytest reports the broken pipe as an internal error


def test_optional_words_replace_their_argument_if_pytest_knows_them(pytestconfig: pytest.Config) -> None:
    optional = ["--remote-ci-only-if-known=--tb=short -v", "--remote-ci-only-if-known=--nobodys"]
    args = ["--tb=long", *optional, "--remote-ci-of-a-newer-client=1", "-q", "--", "x.py"]
    boot.InertOptions().pytest_load_initial_conftests(pytestconfig, pytestconfig._parser, args)
    assert args == ["--tb=long", "--tb=short", "-v", "-q", "--", "x.py"]


def test_wrong_usage_is_recorded_with_the_plugins_that_are_there(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = python_with(NEWEST, tmp_path_factory.getbasetemp() / "pytests")
    site, spool = tmp_path / "site", tmp_path / "spool"
    spool.mkdir()
    (site / "pytest_mine-1.0.dist-info").mkdir(parents=True)
    (site / "pytest_mine-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: pytest-mine\n")
    (site / "pytest_mine-1.0.dist-info" / "entry_points.txt").write_text("[pytest11]\nmine = pytest_mine\n")
    (site / "pytest_mine.py").write_text("")
    environ = {**os.environ, "PYTHONPATH": str(site), "REMOTE_CI_RECORDS": str(spool)}
    done = subprocess.run(
        [python, str(BOOT), "script", "--no-such-option"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        check=False,
    )
    found = [json.loads(line) for line in (spool / "records").read_text().splitlines()]
    assert done.returncode == 4
    assert [record["plugins"] for record in found if record["t"] == "refused"] == [["pytest-mine"]]
