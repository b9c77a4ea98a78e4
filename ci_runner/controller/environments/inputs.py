"""The inputs of each project's environment, remembered to say what changed when it has to be built again.

`environments/<scope>/inputs/<project>.json` has the inputs of the project's last job: one small file per project, which
only the runner sees. Without it, the next build is called the first one.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ci_runner.dependencies.install_plan import Plan

#: Most projects of one scope that are remembered.
_PROJECTS: Final = 500
#: Most bytes of one file, and most files that are named in a reason.
_SIZE: Final = 1 << 20
_NAMED: Final = 3
#: Inputs that are not files → the words for a change; in the order in which they are named.
_OTHERS: Final[Mapping[str, str]] = {
    "python": "another Python",
    "packages": "other `packages`",
    "image": "another base image",
    "indexes": "the runner's package indexes changed",
    "place": "the project was moved",
    "settings": "other settings of its dependencies",
    "credentials": "other credentials",
    "version": "another version of the project",
}
_FILE: Final = "file "
_MODULE: Final = "module "


@dataclass
class BuildTrace:
    """What was done for one job's environment; several threads may add to it."""

    #: Of "packages", "expired", "resolved", "installed", "project", "waited".
    done: set[str] = field(default_factory=set)
    #: Inputs of the project's own layer, if it has one.
    layer_rows: list[list[str]] = field(default_factory=list)

    def note(self, what: str, then: Callable[[], None]) -> None:
        """Add what is done, and continue with `then`."""
        self.done.add(what)
        then()

    @property
    def has_only_waited(self) -> bool:
        """Whether another job does all the work."""
        return self.done == {"waited"}

    def words(self) -> str | None:
        """Return what took time, as the beginning of a sentence; None if everything was there."""
        if "installed" in self.done:
            return "environment built"
        for name, words in (
            ("packages", "system packages installed"),
            ("resolved", "dependencies resolved"),
            ("project", "project installed"),
            ("waited", "waited for another job's environment"),
        ):
            if name in self.done:
                return words
        return None


def inputs_of(
    plan: Plan, layer_rows: Iterable[Sequence[str]], others: Mapping[str, object]
) -> dict[str, str]:
    """Return name → value of everything that the environment depends on.

    `layer_rows` are the project's own (`project_layer.layer_rows`), `others` the inputs that are not in files.
    """
    found = {name: json.dumps(value) for name, value in others.items() if value}
    settings = [plan.extras, plan.groups, plan.pip, plan.install, plan.pytest if plan.adds_pytest else ""]
    found["settings"] = json.dumps(settings)
    found["version"] = json.dumps(plan.scm_version)
    found |= {f"{_FILE}{path}": digest for path, digest in plan.files}
    for path, value in layer_rows:
        name, content = (f"{_MODULE}{value}", "") if path == "module" else (f"{_FILE}{path}", value)
        found.setdefault(name, content)
    return found


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """Return what changed, in words; None if nothing did. Files come first, because they change everything else."""
    files: list[str] = []
    for name in sorted(before.keys() | now.keys()):
        kind, _, path = name.partition(" ")
        if not path or before.get(name) == now.get(name):
            continue
        word = "changed" if name in before and name in now else "is new" if name in now else "is gone"
        files.append(f"{'module ' if kind == 'module' else ''}{path} {word}")
    if files:
        more = len(files) - _NAMED
        return ", ".join(files[:_NAMED]) + (f" and {more} more" if more > 0 else "")
    for name, words in _OTHERS.items():
        if before.get(name) != now.get(name):
            return words
    return None


class RememberedInputs:
    """The remembered inputs of one data directory's projects."""

    def __init__(self, environments: Path) -> None:
        self._root = environments

    def read(self, scope: str, project: str) -> dict[str, str] | None:
        """Return the inputs of the project's last job; None if none are remembered."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with self._path(scope, project).open("rb") as file:
                found = json.loads(file.read(_SIZE))
            if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
                return found
        return None

    def write(self, scope: str, project: str, inputs: Mapping[str, str]) -> None:
        """Remember the inputs; those of the projects that were not built for longest are forgotten."""
        text = json.dumps(inputs)
        if len(text) > _SIZE:
            return
        path = self._path(scope, project)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not path.exists():
            for old in list(_oldest_first(path.parent))[: -_PROJECTS + 1]:
                old.unlink(missing_ok=True)
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        temporary.write_text(text)
        temporary.rename(path)

    def _path(self, scope: str, project: str) -> Path:
        return self._root / scope / "inputs" / f"{project}.json"


def _oldest_first(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as found:
        entries = sorted((entry.stat().st_mtime, entry.path) for entry in found)
    yield from (Path(path) for _, path in entries)
