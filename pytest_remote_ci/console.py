"""What the commands of ``remote-ci`` share: how they find runner and settings, where they speak, how they end."""

from __future__ import annotations

import argparse
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_remote_ci import config as configuration
from pytest_remote_ci import embedded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_remote_ci.client import Client
    from pytest_remote_ci.config import Config

OK, FAILED, INTERRUPTED = 0, 1, 130


class Failure(Exception):
    """Ends the command with exit code 1; the text goes to stderr after ``Error: ``."""


def settings(options: argparse.Namespace) -> Config:
    """The settings of the project around the current directory, with what the command line says."""
    root = configuration.project_root(Path.cwd(), Path.cwd())
    return configuration.load(root, overrides={"url": options.url, "api-key": options.api_key})


@contextmanager
def connected(settings: Config) -> Iterator[Client]:
    """A client of the configured runner, or of this machine's own."""
    from pytest_remote_ci.client import Client

    runner = embedded.find(settings, notify=lambda text: say(f"{text} …"))
    if runner.warning:
        say(runner.warning)
    with Client(runner.url, runner.key) as client:
        yield client


def print_line(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line about the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
