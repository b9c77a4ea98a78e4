"""Local facts that are needed before a session is submitted: pytest's options, and where it was started."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import pytest

from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.replay.pytest_internals import parser_actions
from pytest_remote_ci.session import arguments, argv

#: The first pytest that reads arguments from files.
_READS_FILES: Final = (8, 2)


def find_place(config: pytest.Config) -> arguments.Place:
    """Return the project of this session. Raises `WorkspaceError` if the tests are outside of it."""
    cwd = Path(config.invocation_params.dir)
    around = configuration.project_root(cwd, cwd)
    rootdir = config.rootpath
    # Without a configuration file pytest takes the common parent of all arguments, which can be anything up to "/".
    chosen = config.inipath is not None or config.getoption("rootdir", None)
    if chosen or arguments.Place(around, rootdir).is_inside:
        return arguments.find_place(configuration.project_root(rootdir, cwd), cwd)
    return arguments.find_place(around, cwd)


def any_place(config: pytest.Config) -> arguments.Place:
    """Return where to read settings for an earlier job, which can be shown anywhere, even outside of projects."""
    cwd = Path(config.invocation_params.dir)
    return arguments.Place(configuration.project_root(cwd, cwd), cwd)


class OptionArity:
    """Asks pytest's parser about options."""

    def __init__(self, config: pytest.Config) -> None:
        self._actions = parser_actions(config)

    def __call__(self, option: str) -> bool | None:
        """Whether the option takes a value; None if the value is optional or the option is not known locally."""
        action = None if self._actions is None else self._actions.get(option)
        if action is None:
            return None
        return None if action.nargs == "?" else action.nargs != 0

    def is_known(self, option: str) -> bool:
        """Whether pytest or a local plugin declares the option."""
        return self._actions is None or option in self._actions


def with_files(arguments: Iterable[str]) -> list[str]:
    """Return the arguments with each ``@FILE`` replaced by the file's lines, if this pytest reads such files."""
    version = getattr(pytest, "version_tuple", ())  # absent before 7.0, which a later check reports
    return list(arguments) if version < _READS_FILES else argv.with_files(arguments)
