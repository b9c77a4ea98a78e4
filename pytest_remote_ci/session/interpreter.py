"""The local interpreter's options and variables that change what tests see, for the job's interpreter.

Options that were typed travel as options, variables as variables, because a process that a test starts inherits only
the latter.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Final

from pytest_remote_ci.wire.interpreter_options import IMPLEMENTATION

#: Variables that a job gets whenever they are set here: pytest itself behaves differently in a CI system.
_CI_VARIABLES: Final = ("BUILD_NUMBER", "CI")
#: The same, of Python: they decide which tests pass, as the interpreter's options do. Those that only choose what else
#: Python prints, or describe this machine (PYTHONIOENCODING, PYTHON_CPU_COUNT, …), need the setting `env`.
_PYTHON_VARIABLES: Final = (
    "PYTHONASYNCIODEBUG",
    "PYTHONDEVMODE",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONHASHSEED",
    "PYTHONINTMAXSTRDIGITS",
    "PYTHONMALLOC",
    "PYTHONNODEBUGRANGES",
    "PYTHONNOUSERSITE",
    "PYTHONOPTIMIZE",
    "PYTHONSAFEPATH",
    "PYTHONTRACEMALLOC",
    "PYTHONUTF8",
    "PYTHONWARNDEFAULTENCODING",
    "PYTHONWARNINGS",
    "PYTHON_CONTEXT_AWARE_WARNINGS",
    "PYTHON_GIL",
    "PYTHON_JIT",
    "PYTHON_THREAD_INHERIT_CONTEXT",
)
#: Set by debuggers, without an effect on results.
_SILENT: Final = frozenset({"frozen_modules"})


def variables(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that every job gets if they are set here."""
    names = (*_CI_VARIABLES, *(() if sys.flags.ignore_environment else _PYTHON_VARIABLES))
    return {name: environ[name] for name in names if name in environ}


def options(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the options with which this interpreter was started, as the job's gets them.

    Those that only repeat what a variable says are left out.
    """
    flags = sys.flags
    given = {} if flags.ignore_environment else environ
    result = []
    if flags.isolated:  # implies -E, -P and -s
        result.append("-I")
    else:
        result += ["-E"] if flags.ignore_environment else []
        result += ["-P"] if getattr(flags, "safe_path", False) and not given.get("PYTHONSAFEPATH") else []
        result += ["-s"] if flags.no_user_site and not given.get("PYTHONNOUSERSITE") else []
    if flags.dont_write_bytecode and not given.get("PYTHONDONTWRITEBYTECODE"):
        result.append("-B")
    if flags.optimize > _level(given.get("PYTHONOPTIMIZE", "")):
        result.append("-" + "O" * min(flags.optimize, 2))
    if flags.bytes_warning:
        result.append("-" + "b" * min(flags.bytes_warning, 2))
    result += [f"-W{option}" for option in _warning_options(given)]
    return result + [_spelled(name, value) for name, value in sys._xoptions.items() if name in IMPLEMENTATION]


def unused() -> list[str]:
    """Return options of this interpreter that a job's does not get, as typed."""
    rest = sorted(sys._xoptions.keys() - IMPLEMENTATION - _SILENT)
    return [f"-X {name}" for name in rest]


def is_measured() -> bool:
    """Return whether ``coverage run`` started this process: its frames are below ours."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.replace("\\", "/").endswith("/coverage/execfile.py"):
            return True
        frame = frame.f_back
    return False


def _warning_options(environ: Mapping[str, str]) -> list[str]:
    """Return the values of ``-W``, without those that variables and other options imply."""
    flags = sys.flags
    implied = environ.get("PYTHONWARNINGS", "").split(",")
    if flags.dev_mode:
        implied.append("default")
    if flags.bytes_warning:
        implied.append(f"{'error' if flags.bytes_warning > 1 else 'default'}::BytesWarning")
    return [option for option in sys.warnoptions if option not in implied]


def _level(text: str) -> int:
    """Return the level that a variable sets: a number, or 1 for any other text."""
    return int(text) if text.isdecimal() else int(bool(text))


def _spelled(name: str, value: str | bool) -> str:
    return f"-X{name}" if value is True else f"-X{name}={value}"
