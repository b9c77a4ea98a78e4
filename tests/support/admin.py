"""`ci-runner admin` as a person types it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ci_runner.admin.cli import main

UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
KEY = re.compile(r"ci_[A-Za-z0-9_-]{40,}")


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Admin:
    """The commands as a person types them, each on a store of its own, as separate processes would."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys

    def __call__(self, *arguments: str) -> Outcome:
        try:
            code = main(["--db", str(self.path), *arguments])
        except SystemExit as end:
            code = int(str(end.code))
        out, err = self._capsys.readouterr()
        assert "Traceback" not in out + err
        return Outcome(code, out, err)

    def user(self, email: str = "ann@example.org", name: str = "Ann") -> str:
        """Create a user; its id."""
        made = self("user", "create", "--name", name, "--email", email)
        assert made.code == 0
        return str(UUID.findall(made.out)[0])

    def key(self, email: str = "ann@example.org", name: str = "laptop") -> str:
        """Create a key; the key itself."""
        made = self("key", "create", "--email", email, "--name", name)
        assert made.code == 0
        return str(KEY.findall(made.out)[0])
