"""Hooks with which other pytest plugins take part in a remote run.

They are called in the developer's process, in this order: `choose_files`, `submission`, then `event` for each event.
A plugin implements them like any pytest hook. Conftest files cannot, because a remote run does not import them
locally.
"""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.hookspec
def pytest_remote_ci_choose_files(config: pytest.Config, root: Path, files: list[str]) -> None:
    """Change the list of files to send in place: sorted paths relative to `root`, in POSIX form.

    A removed path is not sent. An added path must be a file below `root` that does not look like a secret.
    """


@pytest.hookspec
def pytest_remote_ci_submission(config: pytest.Config, options: dict[str, object]) -> None:
    """Change the options of the submission in place: fields of `pytest_remote_ci.wire.protocol.SubmitOptions`.

    A plugin's own values belong in ``options["extra"]``, under a name of the plugin. Values that the runner would
    refuse raise a usage error before anything is sent.
    """


@pytest.hookspec
def pytest_remote_ci_event(config: pytest.Config, event: dict[str, object]) -> None:
    """Receive an event of the job (docs/reference/wire.md, "Events") before it is shown.

    The dictionary is a copy, so the plugin may keep and change it. In a run of a pipeline, `job` and `job_id`
    identify the job of an event; the run's own events, such as `run_complete`, belong to no job.
    """
