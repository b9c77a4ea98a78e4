"""Environment variables that a submission must not set for a job; the same rule on both sides.

Two kinds are refused. The first makes the loader or an interpreter run other code, or end differently, before the
job's own program is in control (``PYTHONINSPECT`` makes a failed run exit with 0). The second is used by the runner
to talk to its own programs in the job. Standard library only; docs/reference/wire.md has the table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pytest_remote_ci.wire.checks import WireError

#: Variables of CPython that change how a program behaves, but not which code it runs or how it ends.
HARMLESS: Final = frozenset(
    {
        "PYTHONASYNCIODEBUG",
        "PYTHONBREAKPOINT",
        "PYTHONCOERCECLOCALE",
        "PYTHONDEVMODE",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONFAULTHANDLER",
        "PYTHONHASHSEED",
        "PYTHONINTMAXSTRDIGITS",
        "PYTHONIOENCODING",
        "PYTHONMALLOC",
        "PYTHONMALLOCSTATS",
        "PYTHONNODEBUGRANGES",
        "PYTHONNOUSERSITE",
        "PYTHONOPTIMIZE",
        "PYTHONPROFILEIMPORTTIME",
        "PYTHONSAFEPATH",
        "PYTHONTRACEMALLOC",
        "PYTHONUNBUFFERED",
        "PYTHONUTF8",
        "PYTHONVERBOSE",
        "PYTHONWARNDEFAULTENCODING",
        "PYTHONWARNINGS",
        "PYTHON_COLORS",
        "PYTHON_CONTEXT_AWARE_WARNINGS",
        "PYTHON_CPU_COUNT",
        "PYTHON_GIL",
        "PYTHON_JIT",
        "PYTHON_THREAD_INHERIT_CONTEXT",
    }
)
#: Prefixes of names that are reserved for the runner.
OWN: Final = ("REMOTE_CI_", "CI_RUNNER_")


def refusal(name: str) -> str | None:
    """Return why a job may not have this variable and what to do instead; None if it may."""
    if name.startswith(OWN):
        return (
            f"{name} cannot be passed to a job: names like this are reserved for the runner; use another name"
        )
    if name.startswith("LD_"):
        return (
            f"{name} cannot be passed to a job: it decides what is loaded into every program; "
            "set it in the test or script that needs it"
        )
    if name == "PYTHONPATH":
        return (
            "PYTHONPATH cannot be passed to a job: list the folders in pytest's setting `pythonpath`, "
            "or set it in the script that needs it"
        )
    if name.startswith("PYTHON") and name not in HARMLESS:
        return (
            f"{name} cannot be passed to a job: it decides how Python starts; "
            "set it in the test or script that needs it"
        )
    return None


def check(where: str, names: Iterable[str]) -> None:
    """Raise `WireError` for the first of `names` that is refused."""
    for name in names:
        reason = refusal(name)
        if reason is not None:
            raise WireError(f"{where}: {reason}")
