"""Which options and variables of the local interpreter a job's interpreter gets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_remote_ci.session import interpreter
from pytest_remote_ci.wire.interpreter_options import as_interpreter_options

_SHOW = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pytest_remote_ci.session import interpreter
print(json.dumps([interpreter.options(), interpreter.variables(), interpreter.unused()]))
"""
_FLAGS = "import sys; print(sys.flags, sys.warnoptions, sys._xoptions)"
_ROOT = str(Path(interpreter.__file__).parents[2])


def _run(options: list[str], variables: dict[str, str], code: str, *args: str) -> str:
    """Return what a Python prints that is started with these options and no other variables."""
    command = [sys.executable, *options, "-c", code, *args]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout


#: Options and variables, as typed → options that travel, options that do not.
_CASES: dict[str, tuple[list[str], dict[str, str], list[str], list[str]]] = {
    "nothing": ([], {}, [], []),
    "warnings": (["-W", "error", "-Wignore::UserWarning"], {}, ["-Werror", "-Wignore::UserWarning"], []),
    "warnings of a variable": ([], {"PYTHONWARNINGS": "error, ignore::UserWarning"}, [], []),
    "warnings of both": (["-Wignore"], {"PYTHONWARNINGS": "error"}, ["-Wignore"], []),
    "without assertions": (["-O"], {}, ["-O"], []),
    "without docstrings": (["-OO"], {}, ["-OO"], []),
    "optimized by a variable": ([], {"PYTHONOPTIMIZE": "2"}, [], []),
    "optimized by any text": ([], {"PYTHONOPTIMIZE": "yes"}, [], []),
    "more than a variable": (["-OO"], {"PYTHONOPTIMIZE": "1"}, ["-OO"], []),
    "bytes": (["-bb"], {}, ["-bb"], []),
    "bytes as warnings": (["-b"], {}, ["-b"], []),
    "bytes and warnings": (["-bb", "-Werror"], {}, ["-bb", "-Werror"], []),
    "development mode": (["-X", "dev"], {}, ["-Xdev"], []),
    "development mode of a variable": ([], {"PYTHONDEVMODE": "1"}, [], []),
    "development mode and warnings": (["-Xdev", "-Werror"], {}, ["-Werror", "-Xdev"], []),
    "a value": (["-X", "utf8=0", "-X", "tracemalloc=5"], {}, ["-Xutf8=0", "-Xtracemalloc=5"], []),
    "no bytecode": (["-B"], {}, ["-B"], []),
    "no bytecode by a variable": ([], {"PYTHONDONTWRITEBYTECODE": "1"}, [], []),
    "without the environment": (["-E"], {"PYTHONOPTIMIZE": "1"}, ["-E"], []),
    "isolated": (["-I"], {"PYTHONWARNINGS": "error"}, ["-I"], []),
    "a debugger": (["-X", "frozen_modules=off"], {}, [], []),
    "for this machine only": (["-X", "pycache_prefix=/tmp/x"], {}, [], ["-X pycache_prefix"]),
}


@pytest.mark.parametrize(("typed", "variables", "sent", "unused"), _CASES.values(), ids=_CASES)
def test_options_travel_as_typed(
    typed: list[str], variables: dict[str, str], sent: list[str], unused: list[str]
) -> None:
    options, found, rest = json.loads(_run(typed, variables, _SHOW, _ROOT))
    assert options == sent
    assert rest == unused
    assert found == ({} if {"-E", "-I"} & set(typed) else variables)
    assert as_interpreter_options("options", options) == tuple(options)
    # The other interpreter has the same flags as this one.
    if not unused and "frozen_modules=off" not in typed:
        assert _run(options, found, _FLAGS) == _run(typed, variables, _FLAGS)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
@pytest.mark.parametrize(
    ("typed", "variables", "sent"), [(["-P"], {}, ["-P"]), ([], {"PYTHONSAFEPATH": "1"}, [])]
)
def test_a_safe_path_travels(typed: list[str], variables: dict[str, str], sent: list[str]) -> None:
    assert json.loads(_run(typed, variables, _SHOW, _ROOT))[:2] == [sent, variables]


def test_a_job_knows_that_it_runs_in_a_ci_system_if_the_developer_does() -> None:
    given = {
        "CI": "true",
        "BUILD_NUMBER": "7",
        "CI_TOKEN": "x",
        "HOME": "/root",
        "PYTHONIOENCODING": "latin1",
    }
    assert interpreter.variables(given) == {"CI": "true", "BUILD_NUMBER": "7"}
