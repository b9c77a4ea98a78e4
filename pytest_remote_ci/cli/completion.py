"""Completion of ``remote-ci`` in a shell, by argcomplete: the extra ``completion``.

The shell starts the command with variables that ask for words instead of running it.
"""

from __future__ import annotations

import argparse
import os

#: Set by the shell's completion.
VARIABLE = "_ARGCOMPLETE"


def offer(parser: argparse.ArgumentParser) -> None:
    """Answer the shell and exit if it asks; return at once otherwise, or without argcomplete."""
    if VARIABLE not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:
        return
    argcomplete.autocomplete(parser)
