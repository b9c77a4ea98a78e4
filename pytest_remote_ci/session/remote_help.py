"""``pytest --remote-ci --help``: the help of the pytest over there, then our own options, which it does not have.

Where no runner can be reached the pytest here gives its own, which has both but for what the project adds.
"""

from __future__ import annotations

import argparse

import pytest

from pytest_remote_ci import plugin


def own_options() -> str:
    """The options of this plugin, in the form of pytest's help."""
    parser = argparse.ArgumentParser(
        add_help=False, usage=argparse.SUPPRESS, allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=24),
    )  # fmt: skip
    plugin.declare_options(parser.add_argument_group(plugin.OPTIONS_TITLE).add_argument)
    return parser.format_help()


def answer_here(config: pytest.Config) -> None:
    """Let pytest's own `pytest_cmdline_main`, which comes next, show its help."""
    config.option.help = True
