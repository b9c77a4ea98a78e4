"""Only one controller runs on a data directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ci_runner.controller.loop import ControllerRunning, only_one


def test_only_one_controller_holds_the_lock(tmp_path: Path) -> None:
    with (
        only_one(tmp_path),
        pytest.raises(ControllerRunning, match=f"process {os.getpid()}"),
        only_one(tmp_path),
    ):
        pass
    with only_one(tmp_path):
        pass
