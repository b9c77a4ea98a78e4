"""``remote-ci keep``: what this project's jobs left for the next ones."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pytest_remote_ci import exit_codes
from pytest_remote_ci.artifacts.download import shown
from pytest_remote_ci.cli.context import (
    Commands,
    add_json,
    add_runner,
    connected,
    print_json,
    print_line,
    settings,
)
from pytest_remote_ci.config.config import project_root
from pytest_remote_ci.session import arguments
from pytest_remote_ci.wire import formats
from pytest_remote_ci.wire.answers import KeptFolder


def add(commands: Commands) -> None:
    """Add ``keep`` with its sub-commands to those of ``remote-ci``."""
    text = "list or clear the folders that jobs keep for the next job"
    parser = commands.add_parser("keep", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parts = parser.add_subparsers(dest="part", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> None:
        sub: argparse.ArgumentParser = parts.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        add_runner(sub)
        sub.add_argument("--everywhere", action="store_true", help="those of all your projects")
        add_json(sub)
        sub.set_defaults(run=run)

    command("list", list_folders, "list the kept folders of this project")
    command("clear", clear, "remove the kept folders of this project")


def list_folders(options: argparse.Namespace) -> int:
    """Print what is kept, by project and pattern."""
    with connected(settings(options)) as client:
        found = client.kept(_root(options))
    if options.json:
        print_json([item.fields for item in found])
    elif not found:
        print_line("Nothing is kept.")
    else:
        print_line(f"{'SIZE':>10} {'FILES':>7}  {'CHANGED':<20} FOLDER")
        for item in found:
            print_line(_line(item, with_root=options.everywhere))
    return exit_codes.OK


def clear(options: argparse.Namespace) -> int:
    """Remove what is kept."""
    with connected(settings(options)) as client:
        answer = client.clear_kept(_root(options))
    if options.json:
        print_json(answer.fields)
    else:
        print_line(f"Removed {answer.removed} kept folder{'' if answer.removed == 1 else 's'}.")
    return exit_codes.OK


def _root(options: argparse.Namespace) -> str | None:
    """Return the path by which the runner knows the current project; None for all projects."""
    here = Path.cwd()
    return None if options.everywhere else str(arguments.find_place(project_root(here, here), here).root)


def _line(item: KeptFolder, *, with_root: bool) -> str:
    place = item.pattern
    if with_root:
        place += f"  of {item.root}"
    if item.job:
        place += f"  (job {item.job})"
    if item.problem:
        place += f"  (the last job's {item.problem})"
    return f"{formats.size(item.bytes):>10} {item.files:>7}  {formats.time(item.at):<20} {shown(place)}"
