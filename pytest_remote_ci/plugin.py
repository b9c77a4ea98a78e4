"""The pytest plugin: its options, and the handover of the session to a runner if one of them is given.

pytest loads this module in every session, so it only imports modules that pytest has already imported, and the table
of options. During a
handover, the local pytest must not act on the project: plugins that execute or configure tests are blocked, conftest
files are not read, and options and settings that only the container's plugins know are accepted. Each hook is the
earliest one in which its part can be done.
"""

from __future__ import annotations

import contextlib
import copy
import os
import shlex
import sys
from collections.abc import Iterable

import pytest

from pytest_remote_ci import options

#: Set by the worker in the container, where this plugin must do nothing if it is installed.
JOB_VARIABLE = "REMOTE_CI_JOB"

#: Registered names of plugins that would execute, configure or measure tests in this process.
_EXECUTORS = (
    "xdist",
    "xdist.looponfail",
    "pytest_cov",
    "django",
    "randomly",
    "random_order",
    "testmon",
    "forked",
    "timeout",
    "pytest_timeout",
    "rerunfailures",
    "flaky",
    "benchmark",
    "asyncio",
    "celery",
    "postgresql",
    "flask",
    "picked",
    "pytest_split",
    "env",
    "dotenv",
    "hypothesispytest",
    "anyio",
    "aiohttp",
    "twisted",
    "trio",
    "tornado",
    "socket",
    "homeassistant",
    "playwright",
    "selenium",
    "bdd",
    "pytest-bdd",
    "pytest_mypy_plugins",
    "mypy",
    "profiling",
    "memray",
    "codspeed",
    "pytest-qt",
    "xvfb",
    "docker",
    "typeguard",
    "beartype",
)

#: The project's settings that only matter in the container. Evaluated locally, they could import missing modules.
_REMOTE_SETTINGS: dict[str, object] = {
    "required_plugins": [],
    "filterwarnings": [],
    "faulthandler_timeout": 0.0,
    "pythonpath": [],
    "log_file": None,
}


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hooks of `pytest_remote_ci.hookspecs`."""
    from pytest_remote_ci import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the options; for a handover, block plugins that execute tests."""
    options.declare(parser.getgroup("remote-ci", options.TITLE).addoption)
    config = pluginmanager.get_plugin("pytestconfig")
    if config is not None and _is_remote(config):
        config.add_cleanup(_suggest_command)
        for name in _EXECUTORS:
            pluginmanager.set_blocked(name)
        from pytest_remote_ci.replay.pytest_internals import leave_own_asserts, override_settings

        leave_own_asserts()
        override_settings(config, _REMOTE_SETTINGS)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Skip conftest files, and accept options and settings of plugins and conftests in the container."""
    if not _is_remote(early_config):
        _refuse_own_options_alone(early_config)
        return
    from pytest_remote_ci.errors import WorkspaceError
    from pytest_remote_ci.session.arguments import refuse_interactive

    args[:] = _with_files(args)
    try:
        refuse_interactive(args)
    except WorkspaceError as error:
        raise pytest.UsageError(str(error)) from None
    known = early_config.known_args_namespace
    known.noconftest = True
    known.pythonwarnings = None
    _forget_unknown_options(early_config, parser, args)
    _declare_unknown_settings(early_config, parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Run the session on the runner and return its exit code; None if pytest's own session continues."""
    if not _is_remote(config):
        return None
    from pytest_remote_ci.session import pytest_session

    return pytest_session.run(config, own_arguments(config))


def _suggest_command() -> None:
    """Suggest `remote-ci pytest` before pytest prints that it lacks a plugin or is too old.

    That command does not need the plugin or the version. pytest calls this cleanup while it handles the error, but
    usually checks both before it loads this plugin.
    """
    error = sys.exc_info()[1]
    reasons = ("Error importing plugin ", "'minversion' requires ")
    if isinstance(error, (ImportError, pytest.UsageError)) and any(text in str(error) for text in reasons):
        sys.stderr.write("remote-ci: tests on a runner do not need this here; use `remote-ci pytest ARGS`\n")


def own_arguments(config: pytest.Config) -> tuple[list[str], list[str]]:
    """Return the original arguments, files read: those of PYTEST_ADDOPTS, then those of the command line."""
    try:
        environment = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    except ValueError:
        environment = []  # pytest itself reports the error in it
    return _with_files(environment), _with_files(str(argument) for argument in config.invocation_params.args)


def _with_files(arguments: Iterable[str]) -> list[str]:
    found = list(arguments)
    if not any(argument.startswith("@") for argument in found):
        return found
    from pytest_remote_ci.session.local_options import with_files

    return with_files(found)


def _is_remote(config: pytest.Config) -> bool:
    if os.environ.get(JOB_VARIABLE):
        return False
    settings, typed = own_arguments(config)
    with contextlib.suppress(KeyError, ValueError):
        settings = settings + _with_files(config.getini("addopts"))
    if not any(argument.startswith(options.OWN_PREFIX) for argument in (*settings, *typed)):
        return False
    from pytest_remote_ci.session.arguments import wants_remote

    return wants_remote(typed, settings)


def _refuse_own_options_alone(config: pytest.Config) -> None:
    """Raise `UsageError` for a typed option of ours that would have no effect, because the tests run locally.

    Otherwise, ``pytest --remote-ci-python 3.12`` would seem to test with that Python.
    """
    _, typed = own_arguments(config)
    if os.environ.get(JOB_VARIABLE) or not any(word.startswith(options.OWN_PREFIX) for word in typed):
        return
    from pytest_remote_ci.session.arguments import without_effect

    alone = without_effect(typed)
    if alone:
        raise pytest.UsageError(f"{', '.join(alone)}: no effect without --remote-ci; add that, too")


def _forget_unknown_options(config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Remove options that no local plugin declares (`--cov`, `-n`, `--runslow`) from `args`.

    pytest parses `args` next. Raises `UsageError` for options that only this plugin could have.
    """
    _, unknown = parser.parse_known_and_unknown_args(args, namespace=copy.copy(config.option))
    for argument in unknown:
        if argument.startswith(f"{options.OWN_PREFIX}-"):
            raise pytest.UsageError(_unknown_option(argument.partition("=")[0]))
        if argument in args:
            args.remove(argument)


def _unknown_option(name: str) -> str:
    """Return the message about an option that begins like ours."""
    from difflib import get_close_matches

    similar = get_close_matches(name, sorted(options.OWN_NAMES), 1, 0.85)
    hint = f"did you mean {similar[0]}?" if similar else "`pytest --help` lists the options"
    return f"unknown option {name}; {hint}"


def _declare_unknown_settings(config: pytest.Config, parser: pytest.Parser) -> None:
    """Declare settings of plugins that exist only in the container, so that ``--strict-config`` accepts them."""
    from pytest_remote_ci.replay.pytest_internals import undeclared_settings

    for name in undeclared_settings(config, parser):
        parser.addini(name, "of a plugin in the container", default=None)
