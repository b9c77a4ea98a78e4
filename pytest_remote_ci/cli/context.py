"""What the commands of ``remote-ci`` share: how they find runner and settings, where they speak, how they end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

from pytest_remote_ci import exit_codes
from pytest_remote_ci.artifacts import artifact_folder
from pytest_remote_ci.client import embedded_runner
from pytest_remote_ci.config import load as configuration
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.terminal.ansi import clean
from pytest_remote_ci.wire.control_characters import escaped_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_remote_ci.artifacts.artifact_folder import ArtifactFolder
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.config.load import Config


class Failure(Exception):
    """Ends the command with `exit_code`; the text goes to stderr after ``Error: ``."""

    def __init__(self, text: str, exit_code: int = exit_codes.FAILED) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Parser(argparse.ArgumentParser):
    """A parser whose usage errors have pytest's exit code for them; its sub-commands are such parsers, too."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and leave."""
        self.print_usage(sys.stderr)
        self.exit(exit_codes.USAGE_ERROR, f"{self.prog}: error: {message}\n")


def settings(options: argparse.Namespace) -> Config:
    """The settings of the project around the current directory, with what the command line says."""
    root = configuration.project_root(Path.cwd(), Path.cwd())
    overrides = {"url": options.url, "api-key": options.api_key}
    overrides["artifacts-dir"] = getattr(options, "artifacts_dir", None)
    found = configuration.load(root, overrides=overrides)
    more = getattr(options, "artifact", None)
    if more:  # in addition to the configured ones, and checked like them
        overrides["artifacts"] = tuple(dict.fromkeys((*found.artifacts, *more)))
        found = configuration.load(root, overrides=overrides)
    return found


def folder(settings: Config) -> Callable[[str], ArtifactFolder]:
    """Where artifacts of a job go."""
    cwd = Path.cwd()
    return lambda job_id: artifact_folder.of(settings, job_id, cwd, configuration.project_root(cwd, cwd))


@contextmanager
def connected(settings: Config) -> Iterator[Client]:
    """A client of the configured runner, or of this machine's own."""
    from pytest_remote_ci.client.client import Client

    runner = embedded_runner.find(settings, notify=lambda text: say(f"{text} …"))
    if runner.warning:
        say(runner.warning)
    with Client(runner.url, runner.key, on_wait=say) as client:
        yield client


def unless_key(error: ClientError, text: str) -> Exception:
    """Return what to raise for `error`: itself where the key was refused, else a `Failure` that says `text`."""
    from pytest_remote_ci.client.client import AuthenticationFailed

    return error if isinstance(error, AuthenticationFailed) else Failure(text, error.exit_code)


def print_line(text: str) -> None:
    """A line of the result; texts of others in it come without what steers a terminal."""
    write(sys.stdout, escaped_lines(text) + "\n")


def print_log(text: str) -> None:
    """What a job has written: text and colours."""
    write(sys.stdout, clean(text))


def say(text: str) -> None:
    """A line about the result, as `print_line` prints it."""
    write(sys.stderr, escaped_lines(text) + "\n")


def write(stream: TextIO, text: str) -> None:
    """Write what has been filtered; what the stream cannot encode is replaced."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        stream.write(text.encode(encoding, "replace").decode(encoding))
    stream.flush()
