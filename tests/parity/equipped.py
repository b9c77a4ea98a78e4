"""Pairs of places whose environments have plugins: over there, here, or both. Each environment is made once."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import uv
from developers import Developer

from .both_ways import Pair, make_pair
from .plugin_table import THERE

ROOT = Path(__file__).parents[2]


def make_environment(folder: Path, *requirements: str) -> Path:
    """The interpreter of a new environment with this project and these distributions."""
    program, python = uv.find_uv_bin(), folder / "bin" / "python"
    for command in (
        ["venv", "-q", "-p", sys.executable, str(folder)],
        ["pip", "install", "-q", "--python", str(python), "-e", str(ROOT), *requirements],
    ):
        done = subprocess.run(
            [program, *command], capture_output=True, text=True, timeout=240, check=False, env=os.environ
        )
        assert done.returncode == 0, done.stderr
    return python


@dataclass
class Equipped:
    """Makes pairs; remembers environments."""

    developer: Developer
    data_dir: Path
    folder: Path
    #: The interpreter of jobs whose projects ask for nothing.
    plain: Path
    _pythons: dict[str, Path] = field(default_factory=dict)

    def python(self, there: str) -> Path:
        """The interpreter that jobs of projects with these requirements (a key of `THERE`) get."""
        if not THERE[there]:
            return self.plain
        if there not in self._pythons:
            project = self.folder / there
            project.mkdir()
            self._require(project, there)
            (project / "test_one.py").write_text("def test_one(): pass\n")
            before = self._environments()
            done = self.developer.pytest("-q", cwd=project, timeout=300)
            assert done.code == 0, done.text
            (self._pythons[there],) = self._environments() - before
        return self._pythons[there]

    def pair(self, suite: str, there: str, here: Path, folder: Path) -> Pair:
        """Two copies of a suite; `here` is the interpreter of the developer."""
        developer = replace(self.developer, python=str(here))
        both = make_pair(suite, folder, developer, self.python(there))
        for place in (both.direct, both.local):
            self._require(place, there)
        return both

    def _environments(self) -> set[Path]:
        return set((self.data_dir / "environments").glob("*/envs/*/bin/python"))

    @staticmethod
    def _require(project: Path, there: str) -> None:
        (project / "requirements.txt").write_text("".join(f"{line}\n" for line in THERE[there]))
