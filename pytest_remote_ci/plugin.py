"""The pytest plugin: its options, and the handover of the session to a runner if one of them is given.

pytest loads this module in every session, so it only imports modules that pytest has already imported. During a
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
from collections.abc import Callable
from typing import Any

import pytest

#: Set by the worker in the container, where this plugin must do nothing if it is installed.
JOB_VARIABLE = "REMOTE_CI_JOB"

#: Title of the options in the help.
OPTIONS_TITLE = "running the tests on a remote runner"

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
_REMOTE_SETTINGS: dict[str, Any] = {
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
    declare_options(parser.getgroup("remote-ci", OPTIONS_TITLE).addoption)
    config = pluginmanager.get_plugin("pytestconfig")
    if config is not None and _is_remote(config):
        config.add_cleanup(_suggest_command)
        for name in _EXECUTORS:
            pluginmanager.set_blocked(name)
        from pytest_remote_ci.replay.pytest_internals import override_settings

        override_settings(config, _REMOTE_SETTINGS)


def declare_options(add: Callable[..., Any]) -> None:
    """Call `add`, a method of pytest's or of argparse's parser, for each option."""
    add("--remote-ci", action="store_true", help="run the tests on a runner and show their results here")
    add("--remote-ci-async", action="store_true", help="submit, print the job's id and return")
    add("--remote-ci-attach", metavar="ID", help="show a job from its beginning, and go on live")
    add("--remote-ci-replay", metavar="ID", help="show a job that is over from its stored results")
    add(
        "--remote-ci-pipeline",
        metavar="NAME",
        help="run this pipeline of the project, its tests as this session's",
    )
    add("--remote-ci-dry-run", action="store_true", help="list the files that would be sent, largest first")
    add("--remote-ci-text", action="store_true", help="show the remote pytest's text; nothing is recorded")
    add("--remote-ci-url", metavar="URL", help="address of the runner (environment: REMOTE_CI_URL)")
    add(
        "--remote-ci-api-key",
        metavar="KEY",
        help="key of the runner (rather: environment, REMOTE_CI_API_KEY)",
    )
    add("--remote-ci-image", metavar="IMAGE", help="base image of the job's container")
    add(
        "--remote-ci-python",
        metavar="3.X",
        help="Python that runs the tests (default: the version used here)",
    )
    add("--remote-ci-timeout", metavar="SECONDS", help="seconds of testing after which the job is stopped")
    add("--remote-ci-name", metavar="NAME", help="a name for the job, for people")
    add("--remote-ci-priority", choices=["high", "normal", "low"], help="the job's place among waiting ones")
    add("--remote-ci-network", choices=["egress", "none"], help="what of the network the tests may reach")
    add(
        "--remote-ci-env",
        metavar="NAME",
        action="append",
        help="pass this environment variable on; repeatable",
    )
    add(
        "--remote-ci-artifact",
        metavar="GLOB",
        action="append",
        help="keep files of the run that match and bring them here; repeatable",
    )
    add(
        "--remote-ci-artifacts-dir", metavar="DIR", help="where they go (default: .remote-ci-artifacts/<job>)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: list[str]
) -> None:
    """Skip conftest files, and accept options and settings of plugins and conftests in the container."""
    if not _is_remote(early_config):
        return
    from pytest_remote_ci.errors import WorkspaceError
    from pytest_remote_ci.session.arguments import refuse_interactive, without_help

    try:
        refuse_interactive(args)
    except WorkspaceError as error:
        raise pytest.UsageError(str(error)) from None
    known = early_config.known_args_namespace
    known.noconftest = True
    known.pythonwarnings = None
    without_help(args)
    _forget_unknown_options(early_config, parser, args)
    _declare_unknown_settings(early_config, parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Run the session on the runner and return its exit code; None if pytest's own session continues."""
    if not _is_remote(config):
        return None
    from pytest_remote_ci.session import submit

    return submit.run(config, own_arguments(config))


def _suggest_command() -> None:
    """Suggest `remote-ci pytest` before pytest prints that it lacks a plugin or is too old.

    That command does not need the plugin or the version. pytest calls this cleanup while it handles the error, but
    usually checks both before it loads this plugin.
    """
    error = sys.exc_info()[1]
    reasons = ("Error importing plugin ", "'minversion' requires ")
    if isinstance(error, (ImportError, pytest.UsageError)) and any(text in str(error) for text in reasons):
        sys.stderr.write(
            "remote-ci: tests that run elsewhere do not need this here: `remote-ci pytest ARGS`\n"
        )


def own_arguments(config: pytest.Config) -> tuple[list[str], list[str]]:
    """Return the original arguments: those of PYTEST_ADDOPTS, then those of the command line."""
    try:
        environment = shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))
    except ValueError:
        environment = []  # pytest itself reports the error in it
    return environment, [str(argument) for argument in config.invocation_params.args]


def _is_remote(config: pytest.Config) -> bool:
    if os.environ.get(JOB_VARIABLE):
        return False
    settings, typed = own_arguments(config)
    with contextlib.suppress(KeyError, ValueError):
        settings = settings + config.getini("addopts")
    if not any(argument.startswith("--remote-ci") for argument in (*settings, *typed)):
        return False
    from pytest_remote_ci.session.arguments import wants_remote

    return wants_remote(typed, settings)


def _forget_unknown_options(config: pytest.Config, parser: pytest.Parser, args: list[str]) -> None:
    """Remove options that no local plugin declares (`--cov`, `-n`, `--runslow`) from `args`.

    pytest parses `args` next.
    """
    _, unknown = parser.parse_known_and_unknown_args(args, namespace=copy.copy(config.option))
    for argument in unknown:
        if argument in args:
            args.remove(argument)


def _declare_unknown_settings(config: pytest.Config, parser: pytest.Parser) -> None:
    """Declare settings of plugins that exist only in the container, so that ``--strict-config`` accepts them."""
    from pytest_remote_ci.replay.pytest_internals import undeclared_settings

    for name in undeclared_settings(config, parser):
        parser.addini(name, "of a plugin in the container", default=None)
