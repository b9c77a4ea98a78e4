"""An example plugin of ``pytest --remote-ci``: leaves files here, names jobs after tickets, keeps a trail.

`TRAIL_LEAVE` has patterns of paths, separated by commas, that do not travel; `TRAIL_TICKET` comes first in the job's
name and is seen by the tests; `TRAIL_FILE` gets every event of the job as a line of JSON.

Settings come from the environment: options that a plugin adds to pytest would be handed to the remote pytest, too,
which may not know the plugin. `optionalhook` lets the plugin be installed where pytest-remote-ci is not.
"""

from __future__ import annotations

import fnmatch
import json
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_remote_ci_choose_files(root: Path, files: list[str]) -> None:
    """Change the list in place."""
    patterns = [pattern.strip() for pattern in os.environ.get("TRAIL_LEAVE", "").split(",")]
    files[:] = [path for path in files if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns)]


@pytest.hookimpl(optionalhook=True)
def pytest_remote_ci_submission(config: pytest.Config, options: dict[str, Any]) -> None:
    """Change the fields of the submission in place."""
    ticket = os.environ.get("TRAIL_TICKET")
    if ticket:
        options["name"] = f"{ticket}: {options['name'] or config.rootpath.name}"
        options["env"] = {**options["env"], "TRAIL_TICKET": ticket}


@pytest.hookimpl(optionalhook=True)
def pytest_remote_ci_event(event: dict[str, Any]) -> None:
    """See every event before it is shown."""
    trail = os.environ.get("TRAIL_FILE")
    if trail:
        with Path(trail).open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
