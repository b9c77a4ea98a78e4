"""Shared parts of the ``remote-ci`` commands: finding runner and settings, output, errors."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from pytest_remote_ci import exit_codes
from pytest_remote_ci.artifacts import artifact_folder
from pytest_remote_ci.client import embedded_runner
from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.terminal.output import (
    print_json,
    print_line,
    print_log,
    print_message,
    print_titled_log,
    write,
)
from pytest_remote_ci.wire import formats

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
    "print_json",
    "print_line",
    "print_log",
    "print_message",
    "print_titled_log",
    "seconds",
    "settings",
    "write",
]


#: Key of the configuration → the commands' option for it.
_SPELLINGS = {"url": "--url", "api-key": "--api-key", "artifacts-dir": "--dir", "artifacts": "--artifact"}


class Failure(Exception):
    """An error that ends the command with `exit_code`. `report_error` prints the text."""

    def __init__(self, text: str, exit_code: int = exit_codes.FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Parser(argparse.ArgumentParser):
    """A parser with pytest's exit code for usage errors. Its sub-commands use the same class."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit."""
        self.print_usage(sys.stderr)
        report_error(message)
        self.exit(exit_codes.USAGE_ERROR)


def add_runner(parser: argparse.ArgumentParser) -> None:
    """Add the options of all commands that use a runner."""
    parser.add_argument("--profile", metavar="NAME", help="use the runner of this profile in the user file")
    parser.add_argument("--url", help="address of the runner")
    parser.add_argument("--api-key", metavar="KEY", help="API key for the runner")
    add_verbose(parser)


def add_json(parser: TakesArguments, help_text: str = "print JSON") -> None:
    """Add ``--json``: with it, stdout has one JSON document and nothing else (docs/reference/commands.md)."""
    parser.add_argument("--json", action="store_true", help=help_text)


def add_folder(parser: argparse.ArgumentParser, *aliases: str, default: str) -> None:
    """Add ``-d DIR``: the folder for downloads. `aliases` are older spellings."""
    help_text = f"folder for the files (default: {default})"
    parser.add_argument("-d", "--dir", *aliases, dest="artifacts_dir", metavar="DIR", help=help_text)


def add_job(parser: argparse.ArgumentParser) -> None:
    """Add the argument ``JOB``."""
    parser.add_argument("id", metavar="JOB", help="id of the job, or the beginning of it")


class TakesArguments(Protocol):
    """A parser, or a group of its arguments."""

    def add_argument(
        self,
        *names: str,
        action: str = ...,
        nargs: str | None = ...,
        metavar: str | None = ...,
        help: str | None = ...,  # noqa: A002 - argparse's name
    ) -> object:
        """Declare an argument, as in argparse."""


class Commands(Protocol):
    """What makes the sub-commands of a parser."""

    def add_parser(
        self,
        name: str,
        *,
        help: str,  # noqa: A002 - argparse's name
        description: str,
    ) -> argparse.ArgumentParser:
        """Return the parser of a new command, as in argparse."""


def seconds(text: str) -> float:
    """Return the seconds of an option's value: a number, or a time such as ``10m``."""
    found = formats.parse_duration(text)
    try:
        number = float(text) if found is None else found
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise argparse.ArgumentTypeError(f'must be seconds above 0, or a time such as "10m", not {text!r}')
    return number


def add_run(parser: TakesArguments, nargs: str | None = None) -> None:
    """Add the argument ``RUN``; `nargs` as in argparse."""
    text = "id of the run, the beginning of it, NAME#NUMBER, or NAME for the newest run of this pipeline"
    parser.add_argument("id", nargs=nargs, metavar="RUN", help=text)


def settings(options: argparse.Namespace) -> Config:
    """Return the settings of the project around the current directory, with the command line's options applied."""
    root = configuration.project_root(Path.cwd(), Path.cwd())
    overrides = {"url": options.url, "api-key": options.api_key}
    overrides["artifacts-dir"] = getattr(options, "artifacts_dir", None)
    more = getattr(options, "artifact", None)
    additions = {"artifacts": more} if more else {}
    return configuration.load(
        root, overrides=overrides, additions=additions, spellings=_SPELLINGS, profile=options.profile
    )


def add_verbose(sub: argparse.ArgumentParser) -> None:
    """Add ``--verbose``, which `log_shown` applies."""
    sub.add_argument("--verbose", action="store_true", help="show each request to the runner on stderr")


class _Lines(logging.Handler):
    """Log records as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        print_message(record.getMessage())


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
def connected(settings: Config, *, starts: bool = True) -> Iterator[Client]:
    """Provide a client of the configured runner, or of this machine's embedded one.

    Without `starts`, an embedded runner must be running.
    """
    from pytest_remote_ci.client.client import Client

    runner = embedded_runner.find(settings, notify=lambda text: print_message(f"{text} …"), starts=starts)
    if runner.warning:
        print_message(runner.warning)
    with Client(runner.url, runner.key, on_wait=print_message) as client:
        yield client


def report_error(error: object) -> None:
    """Print ``Error: …`` on stderr: the only place that forms this line."""
    print_message(f"Error: {error}")
