"""Shared parts of the ``remote-ci`` commands: finding runner and settings, output, errors."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pytest_remote_ci import exit_codes
from pytest_remote_ci.artifacts import artifact_folder
from pytest_remote_ci.client import embedded_runner
from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.terminal.output import print_line, print_log, say, write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.config.config import Config

__all__ = [
    "Failure",
    "Parser",
    "connected",
    "folder",
    "print_line",
    "print_log",
    "say",
    "settings",
    "unless_key",
    "write",
]


class Failure(Exception):
    """An error that ends the command with `exit_code`. The text goes to stderr after ``Error: ``."""

    def __init__(self, text: str, exit_code: int = exit_codes.FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Parser(argparse.ArgumentParser):
    """A parser with pytest's exit code for usage errors. Its sub-commands use the same class."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit."""
        self.print_usage(sys.stderr)
        self.exit(exit_codes.USAGE_ERROR, f"{self.prog}: error: {message}\n")


def settings(options: argparse.Namespace) -> Config:
    """Return the settings of the project around the current directory, with the command line's options applied."""
    root = configuration.project_root(Path.cwd(), Path.cwd())
    overrides = {"url": options.url, "api-key": options.api_key}
    overrides["artifacts-dir"] = getattr(options, "artifacts_dir", None)
    more = getattr(options, "artifact", None)
    return configuration.load(root, overrides=overrides, additions={"artifacts": more} if more else {})


def add_verbose(sub: argparse.ArgumentParser) -> None:
    """Add ``--verbose``, which `log_shown` obeys."""
    sub.add_argument("--verbose", action="store_true", help="show each request to the runner on stderr")


class _Lines(logging.Handler):
    """Log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def log_shown(options: argparse.Namespace) -> Iterator[None]:
    """Show the client's log on stderr meanwhile, one line per request, if ``--verbose`` is given."""
    if not options.verbose:
        yield
        return
    log, lines = logging.getLogger("pytest_remote_ci"), _Lines()
    level = log.level
    log.setLevel(logging.DEBUG)
    log.addHandler(lines)
    try:
        yield
    finally:
        log.removeHandler(lines)
        log.setLevel(level)


def folder(settings: Config) -> Callable[[str], ArtifactFolder]:
    """Return a function from a job's id to the folder for its artifacts."""
    cwd = Path.cwd()
    return lambda job_id: artifact_folder.of(settings, job_id, cwd, configuration.project_root(cwd, cwd))


@contextmanager
def connected(settings: Config) -> Iterator[Client]:
    """Provide a client of the configured runner, or of this machine's embedded one."""
    from pytest_remote_ci.client.client import Client

    runner = embedded_runner.find(settings, notify=lambda text: say(f"{text} …"))
    if runner.warning:
        say(runner.warning)
    with Client(runner.url, runner.key, on_wait=say) as client:
        yield client


def unless_key(error: ClientError, text: str) -> Exception:
    """Return the exception to raise for `error`: itself if the key was refused, else a `Failure` with `text`."""
    from pytest_remote_ci.client.client import AuthenticationFailed

    return error if isinstance(error, AuthenticationFailed) else Failure(text, error.exit_code)
