"""Which waiting container may run a job."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ci_runner.controller.engine import SPOOL, Bind, ContainerSpec, Limits, Overlay
from ci_runner.controller.environments.ahead import MOST_BYTES, MOST_CHANGES, Layers, are_few, is_alike
from pytest_remote_ci.wire.protocol import ManifestEntry


def made(root: Path, name: str, kept: str | None = "kept") -> tuple[ContainerSpec, Layers]:
    """A container of the project in `root`, with one kept file of this content."""
    folder = root / name
    (folder / "kept").mkdir(parents=True)
    if kept is not None:
        (folder / "kept" / "file").write_text(kept)
    layers = Layers(name, folder / "tree", folder / "kept")
    spec = ContainerSpec(
        name=name,
        image_id="sha256:1",
        argv=("python",),
        role="test",
        job_id=name,
        attempt=1,
        binds=(Bind(root / "env", "/ci/env"), Bind(folder / "spool", SPOOL, read_only=False)),
        overlay=Overlay(
            (layers.tree, folder / "kept"), folder / "upper", folder / "work", "/home/me/project"
        ),
        known={root / "env": (1, 2), folder / "kept": (3, len(name))},
    )
    return spec, layers


def test_jobs_that_differ_in_their_own_folders_are_alike(tmp_path: Path) -> None:
    one, other = made(tmp_path, "one", kept=None), made(tmp_path, "another", kept=None)
    assert is_alike(*one, *other)


@pytest.mark.parametrize(
    "change",
    [
        {"image_id": "sha256:2"},
        {"argv": ("python3",)},
        {"env": {"A": "1"}},
        {"cwd": "/home"},
        {"limits": Limits(pids=7)},
        {"network": "none"},
        {"join": "another"},
        {"uid": 5},
        {"binds": ()},
        {"known": {}},
    ],
)
def test_every_other_difference_counts(tmp_path: Path, change: dict[str, object]) -> None:
    one, (spec, layers) = made(tmp_path, "one", kept=None), made(tmp_path, "another", kept=None)
    assert not is_alike(*one, dataclasses.replace(spec, **change), layers)  # type: ignore[arg-type]  # any field


def test_other_kept_files_count(tmp_path: Path) -> None:
    one, other = made(tmp_path, "one", kept=None), made(tmp_path, "another", kept="more")
    assert not is_alike(*one, *other)


def test_only_small_changes_are_made_in_a_running_container() -> None:
    small = ManifestEntry("a", 0o644, 1, "0" * 64)
    assert are_few(["gone", small])
    assert not are_few([small] * (MOST_CHANGES + 1))
    assert not are_few([ManifestEntry("a", 0o644, MOST_BYTES + 1, "0" * 64)])
