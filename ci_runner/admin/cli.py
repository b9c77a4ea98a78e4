"""`ci-runner admin`: manage users, keys and jobs from the command line, directly in the database.

Every user who can write the database file is an administrator; there is no remote administration. Every command is
one transaction, so it works while the runner runs and takes effect at once. Exit codes: 0 done, 1 refused (one line
on stderr), 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, TextIO

from ci_runner.admin import jobs, keys, users
from ci_runner.admin.console import Console
from ci_runner.errors import RunnerError
from ci_runner.store import Store

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_parsers(subparsers: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``user``, ``key`` and ``job`` with their commands to the sub-parsers of ``admin``."""
    users.add_parser(subparsers)
    keys.add_parser(subparsers)
    jobs.add_parser(subparsers)


def run(args: argparse.Namespace, store: Store, out: TextIO, err: TextIO, stdin: TextIO | None = None) -> int:
    """Execute the command parsed by `add_parsers`; return the exit code. `stdin` is read for confirmation."""
    console = Console(out, err, stdin or sys.stdin)
    try:
        args.admin_command(args, store, console)
    except RunnerError as error:
        console.error(str(error))
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run the administration alone, on the database given by ``--db``."""
    parser = argparse.ArgumentParser(prog="ci-runner admin", description="Manage users and API keys.")
    parser.add_argument("--db", required=True, metavar="FILE", help="the runner's database")
    add_parsers(parser.add_subparsers(dest="subject", required=True, metavar="SUBJECT"))
    args = parser.parse_args(argv)
    try:
        store = Store.open(args.db)
    except RunnerError as error:
        Console(sys.stdout, sys.stderr, sys.stdin).error(str(error))
        return 1
    try:
        return run(args, store, sys.stdout, sys.stderr)
    finally:
        store.close()
