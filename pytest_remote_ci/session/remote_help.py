"""``pytest --remote-ci --help``: the help of the pytest in the job, followed by our own options, which that lacks.

If no runner can be reached, the local pytest prints its help, which lacks only additions by the project.
"""

from __future__ import annotations

import argparse

import pytest

from pytest_remote_ci import options


def own_options() -> str:
    """Return the options of this plugin in the format of pytest's help."""
    parser = argparse.ArgumentParser(
        add_help=False,
        usage=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=24),
    )
    options.declare(parser.add_argument_group(options.TITLE).add_argument)
    return parser.format_help()


def answer_locally(config: pytest.Config) -> None:
    """Let pytest's own `pytest_cmdline_main`, which is called next, print its help."""
    config.option.help = True
