"""Hooks by which other pytest plugins take part in a remote run.

They are called in the developer's process, in this order: `choose_files`, `submission`, then `event` for each event.
A plugin implements them as any pytest hook; conftest files cannot, because a remote run imports none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.hookspec
def pytest_remote_ci_choose_files(config: pytest.Config, root: Path, files: list[str]) -> None:
    """Change in place which files travel: sorted paths relative to `root`, in POSIX form.

    A removed entry stays here; an added one must be a file below `root` that does not look like a secret.
    """


@pytest.hookspec
def pytest_remote_ci_submission(config: pytest.Config, options: dict[str, Any]) -> None:
    """Change the options of the submission in place: fields of `pytest_remote_ci.wire.protocol.SubmitOptions`.

    Values of a plugin's own belong into ``options["extra"]`` under a name of its own. What the runner would refuse is
    refused here, as a usage error.
    """


@pytest.hookspec
def pytest_remote_ci_event(config: pytest.Config, event: dict[str, Any]) -> None:
    """See an event of the job (docs/reference/wire.md, "Events") before it is shown.

    The dictionary is a copy: the plugin may keep and change it.

    Events of a run of a pipeline say in `job` and `job_id` whose they are; some are the run's own.
    """
