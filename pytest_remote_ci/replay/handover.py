"""Options that the local pytest must not apply in a replay, and whether other plugins watch it."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from pytest_remote_ci.job.pytest_internals import PYTEST, all_are_of

#: Options that were applied in the job and must not be applied twice.
_OBEYED = {
    "lf": False,
    "failedfirst": False,
    "newfirst": False,
    "stepwise": False,
    "stepwise_skip": False,
    "stepwise_reset": False,
    "maxfail": 0,
    "keyword": "",
    "markexpr": "",
    "pythonwarnings": None,
    "log_file": None,
}
#: Prefix of the names of our own modules.
OURS = "pytest_remote_ci."


def switch_off(config: pytest.Config, kept: Collection[str] = ()) -> None:
    """Reset the options that the remote pytest has already applied, except `kept`, and hide the local header."""
    history = getattr(config.hook.pytest_warning_recorded, "_call_history", None)
    if isinstance(history, list):
        history.clear()  # warnings about the configuration: the remote pytest has its own
    for name, value in _OBEYED.items():
        if hasattr(config.option, name) and name not in kept:
            setattr(config.option, name, value)
    config.option.no_header = True


def is_watched(config: pytest.Config) -> bool:
    """Whether local plugins watch each test through `pytest_runtest_protocol`."""
    return not all_are_of(config.hook.pytest_runtest_protocol, PYTEST, OURS)


def is_heard(config: pytest.Config) -> bool:
    """Whether local plugins receive reports: their warnings are caught around `pytest_runtest_protocol`."""
    return not all_are_of(config.hook.pytest_runtest_logreport, PYTEST, OURS)


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised in this package itself, not in code that it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith(__package__ or "?")
