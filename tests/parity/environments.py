"""Pairs of places whose environments have plugins: over there, here, or both. Each environment is made once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import uv
from install_wheel import built_wheel
from support.developer import Developer
from support.parallel import Ahead, ahead

from .comparison import Pair, make_pair
from .plugin_table import THERE


def make_environment(folder: Path, *requirements: str) -> Path:
    """The interpreter of a new environment with this project and these distributions."""
    program, python = uv.find_uv_bin(), folder / "bin" / "python"
    for command in (
        ["venv", "-q", "-p", sys.executable, str(folder)],
        ["pip", "install", "-q", "--python", str(python), str(built_wheel()), *requirements],
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
    folder: Path
    #: The interpreter of jobs whose projects ask for nothing.
    plain: Path
    _made: Ahead[Path] | None = None

    @classmethod
    @contextmanager
    def started(
        cls, developer: Developer, folder: Path, plain: Path, *, soon: Iterable[str]
    ) -> Iterator[Equipped]:
        """`soon`: sets of requirements whose environments are wanted in any case."""
        made = cls(developer, folder, plain)
        with ahead(made.make, [(name,) for name in soon], workers=2) as results:
            made._made = results
            yield made

    def python(self, there: str) -> Path:
        """The interpreter that jobs of projects with these requirements (a key of `THERE`) get."""
        assert self._made is not None
        return self._made(there) if THERE[there] else self.plain

    def make(self, there: str) -> Path:
        """Let the runner make an environment, by a job."""
        project = self.folder / there
        project.mkdir()
        self._require(project, there)
        (project / "test_one.py").write_text("import sys\ndef test_one():\n    print(f'\\n{sys.prefix}')\n")
        done = self.developer.pytest("-q", "-s", cwd=project, timeout=300)
        assert done.code == 0, done.text
        found = re.search(r"^/.*/environments/.*/envs/[^/\s]+$", done.out, re.MULTILINE)
        assert found, done.text
        return Path(found[0]) / "bin" / "python"

    def pair(self, suite: str, there: str, here: Path, folder: Path) -> Pair:
        """Two copies of a suite; `here` is the interpreter of the developer."""
        developer = replace(self.developer, python=str(here))
        both = make_pair(suite, folder, developer, self.python(there))
        for place in (both.direct, both.local):
            self._require(place, there)
        return both

    @staticmethod
    def _require(project: Path, there: str) -> None:
        (project / "requirements.txt").write_text("".join(f"{line}\n" for line in THERE[there]))
