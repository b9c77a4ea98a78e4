"""Mount points without mounting."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ci_runner.controller.engine import Bind, ContainerSpec, Overlay
from ci_runner.controller.engines.process import paths
from ci_runner.errors import PermanentError
from ci_runner.storage.safe_fs import Trash

PLACES = {
    "/ci/spool": "/data/job/1/spool",
    "/ci": "/data/ci",
    "/home/me/proj": "/data/job/1/upper",
    "/w": "/w/x",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("/ci/spool", "/data/job/1/spool", id="the mount point itself"),
        pytest.param("/ci/spool/out", "/data/job/1/spool/out", id="below it"),
        pytest.param("--x=/ci/spool/out", "--x=/data/job/1/spool/out", id="in an option"),
        pytest.param("a:/ci/spool:b", "a:/data/job/1/spool:b", id="in a search path"),
        pytest.param("echo x>>/ci/spool/out;", "echo x>>/data/job/1/spool/out;", id="in a script"),
        pytest.param("file:///ci/spool/x", "file:///data/job/1/spool/x", id="in a URL"),
        pytest.param("/ci/tools", "/data/ci/tools", id="the deepest mount point wins"),
        pytest.param("/ci/spooler", "/data/ci/spooler", id="not a longer name"),
        pytest.param("/data/ci/spool", "/data/ci/spool", id="not in the middle of a path"),
        pytest.param("/home/me/proj.old", "/home/me/proj.old", id="not with an ending"),
        pytest.param("see /home/me/proj.", "see /data/job/1/upper.", id="before a full stop"),
        pytest.param("/w/w", "/w/x/w", id="what was put in is not replaced again"),
        pytest.param("nothing", "nothing", id="nothing"),
    ],
)
def test_mount_points_are_replaced_where_they_are_paths(text: str, expected: str) -> None:
    assert paths.translator(PLACES)(text) == expected


def test_no_places_change_nothing() -> None:
    assert paths.translator({})("/ci/spool") == "/ci/spool"


def test_the_job_file_is_mapped_once(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    job = {"protocol": 1, "argv": ["/w/python", "x"], "cwd": "/w", "env": {"P": "/w:/x"}, "grace": 10}
    (spool / "job.json").write_text(json.dumps(job))
    spec = ContainerSpec("n", "host", ("x",), "test", "j", 1, binds=(Bind(spool, "/ci/spool", False),))
    translate = paths.translator({"/w": "/w/x"})
    paths.map_job(spec, translate)
    paths.map_job(spec, translate)
    mapped = json.loads((spool / "job.json").read_text())
    assert mapped == {
        "protocol": 1,
        "argv": ["/w/x/python", "x"],
        "cwd": "/w/x",
        "env": {"P": "/w/x:/x"},
        "grace": 10,
        "mapped": True,
    }


def test_layers_are_copied_the_topmost_wins_and_modes_and_times_stay(tmp_path: Path) -> None:
    top, bottom, upper = tmp_path / "top", tmp_path / "bottom", tmp_path / "upper"
    for folder in (top, bottom, upper):
        folder.mkdir()
    (bottom / "both").write_text("bottom")
    (bottom / "run.sh").write_text("#!/bin/sh")
    (bottom / "run.sh").chmod(0o755)
    os.utime(bottom / "run.sh", (1_000_000, 1_000_000))
    (bottom / "was-folder").mkdir()
    (bottom / "was-folder" / "x").write_text("x")
    (bottom / "was-file").write_text("file")
    (top / "both").write_text("top")
    (top / "was-folder").write_text("now a file")
    (top / "was-file").mkdir()
    (top / "was-file" / "y").write_text("y")
    (top / "link").symlink_to("both")
    (top / "was-file").chmod(0o555)
    overlay = Overlay((top, bottom), upper, tmp_path / "work", "/w")
    paths.materialise(overlay)
    paths.materialise(overlay)
    assert (upper / "both").read_text() == "top"
    assert (upper / "was-folder").read_text() == "now a file"
    assert (upper / "was-file" / "y").read_text() == "y"
    assert os.access(upper / "was-file", os.W_OK)
    assert (upper / "link").is_symlink()
    assert (upper / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (upper / "run.sh").stat().st_mtime == 1_000_000
    (upper / "both").write_text("changed")
    assert (top / "both").read_text() == "top"


def test_what_a_build_left_is_copied_without_following_anything(tmp_path: Path) -> None:
    layer, upper, outside = tmp_path / "layer", tmp_path / "upper", tmp_path / "outside"
    for folder in (layer, upper, outside):
        folder.mkdir()
    (outside / "secret").write_text("secret")
    (layer / "out").symlink_to(outside)
    (layer / "folder").mkdir()
    (layer / "folder" / "secret").write_text("mine")
    os.mkfifo(layer / "pipe")
    (layer / "\udcff\n").write_text("any name")
    (upper / "folder").symlink_to(outside)
    (upper / "out").mkdir()
    (upper / "out" / "deep").mkdir()
    (upper / "out" / "deep" / "file").write_text("x")
    paths.materialise(Overlay((layer,), upper, tmp_path / "work", "/w"))
    assert (outside / "secret").read_text() == "secret"
    assert (upper / "folder" / "secret").read_text() == "mine"
    assert (upper / "out").is_symlink()
    assert sorted(path.name for path in upper.iterdir()) == ["folder", "out", "\udcff\n"]


def test_a_layer_too_deep_to_copy_is_said_in_words(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.mkdir()
    here = os.open(layer, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    overlay = Overlay((layer,), tmp_path / "upper", tmp_path / "work", "/w")
    try:
        with pytest.raises(PermanentError, match="more than 200 levels"):
            paths.materialise(overlay)
    finally:
        Trash(tmp_path / "trash").remove(layer)
