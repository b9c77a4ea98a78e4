"""Mount points without mounting: the process engine's replacement of paths, and its writable workspaces."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ci_runner.controller.engine import HOME, SPOOL, ContainerSpec, Overlay

#: Marks a `job.json` whose paths were replaced already.
_MAPPED = "mapped"


def mapping(spec: ContainerSpec, home: Path) -> dict[str, str]:
    """Where each mount point of the container really is."""
    result = {bind.target: str(bind.source) for bind in spec.binds}
    if spec.overlay is not None:
        result[spec.overlay.target] = str(spec.overlay.upper)
    result[HOME] = str(home)
    return result


def translator(places: Mapping[str, str]) -> Callable[[str], str]:
    """A function that replaces mount points in a text wherever they stand as (the beginning of) a path.

    ``/ci/spool`` is replaced in ``--out=/ci/spool/x`` and in ``file:///ci/spool``, not in
    ``/data/ci/spool`` or in ``/ci/spooler``. The deepest mount point wins; what was put in is not looked at
    again.
    """
    targets = sorted(places, key=len, reverse=True)
    if not targets:
        return lambda text: text
    choice = "|".join(re.escape(target) for target in targets)
    pattern = re.compile(rf"(?:(?<=://)|(?<![\w.\-/]))(?:{choice})(?![\w\-]|\.\w)")
    return lambda text: pattern.sub(lambda match: places[match.group()], text)


def map_job(spec: ContainerSpec, translate: Callable[[str], str]) -> None:
    """Replace the paths in the spool's `job.json`, by which the worker learns what to run."""
    spool = next((bind.source for bind in spec.binds if bind.target == SPOOL), None)
    if spool is None or not (spool / "job.json").is_file():
        return
    job = json.loads((spool / "job.json").read_text())
    if job.get(_MAPPED):
        return
    temporary = spool / ".job.json"
    temporary.write_text(json.dumps({**_translate(job, translate), _MAPPED: True}))
    temporary.replace(spool / "job.json")


def _translate(value: Any, translate: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return translate(value)
    if isinstance(value, list):
        return [_translate(item, translate) for item in value]
    if isinstance(value, dict):
        return {key: _translate(item, translate) for key, item in value.items()}
    return value


def materialise(overlay: Overlay) -> None:
    """Copy the layers into `upper`, the topmost winning, with modes and times; may be repeated."""
    for lower in reversed(overlay.lowers):
        _copy_tree(lower, overlay.upper)


def _copy_tree(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for entry in os.scandir(source):
        goal = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            if goal.is_symlink() or (goal.exists() and not goal.is_dir()):
                goal.unlink()
            _copy_tree(Path(entry.path), goal)
            continue
        if goal.is_dir() and not goal.is_symlink():
            shutil.rmtree(goal)
        elif goal.is_symlink() or goal.exists():
            goal.unlink()
        shutil.copy2(entry.path, goal, follow_symlinks=False)
    shutil.copystat(source, target)
    target.chmod(target.stat().st_mode | 0o700)


def delete_tree(folder: Path) -> None:
    """Remove a folder with whatever a job left in it; folders that it closed are opened first."""
    for root, names, _ in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)
