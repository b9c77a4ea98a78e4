"""Reports whose places are outside of the project: only what the developer's own options name is ever written there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_remote_ci.artifacts import destinations, external_reports
from pytest_remote_ci.job import boot
from pytest_remote_ci.session.arguments import Place

FOLDER = ".remote-ci-reports/html"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "sub").mkdir(parents=True)
    return folder


def place_of(wanted: destinations.Reports, path: str) -> tuple[Path, Path] | None:
    """The place of an artifact, and the folder from which on no link is followed."""
    home = wanted.home(path)
    return (home.place, home.base) if isinstance(home, destinations.Home) else None


def found(root: Path, *argv: str, cwd: Path | None = None) -> destinations.Reports:
    return destinations.find(argv, Place(root, cwd or root))


@pytest.mark.parametrize(
    ("argv", "led"),
    [
        (["--html=../r.html", "-q"], [f"--html={FOLDER}/r.html", "-q"]),
        (["--html", "../r.html", "tests"], ["--html", f"{FOLDER}/r.html", "tests"]),
        (["--html=~/r.html"], [f"--html={FOLDER}/r.html"]),
        (["--report-log=/x/l.jsonl"], ["--report-log=.remote-ci-reports/report-log/l.jsonl"]),
        (["--html=in/r.html"], ["--html=in/r.html"]),
        (["--alluredir=/x/allure"], ["--alluredir=/x/allure"]),
        (["--html=/x/$y.html"], ["--html=/x/$y.html"]),
        (["--html=/"], ["--html=/"]),
        (["--", "--html=../r.html"], ["--", "--html=../r.html"]),
    ],
)
def test_what_lies_outside_is_written_inside_over_there(root: Path, argv: list[str], led: list[str]) -> None:
    assert external_reports.redirected(argv, Place(root, root)) == led


def test_what_a_reporter_here_writes_is_not_led(root: Path) -> None:
    assert external_reports.redirected(["--html=../r.html"], Place(root, root), {"--html"}) == [
        "--html=../r.html"
    ]


@pytest.mark.parametrize("sub", ["", "sub"])
def test_each_thing_has_its_place(root: Path, tmp_path: Path, sub: str) -> None:
    wanted = found(root, f"--html={tmp_path}/out/r.html", "--junitxml=/x/j.xml", cwd=root / sub)
    folder = f"{sub}/{FOLDER}" if sub else FOLDER
    assert place_of(wanted, f"{folder}/r.html") == (tmp_path / "out/r.html", tmp_path / "out")
    assert place_of(wanted, f"{folder}/assets/style.css") == (
        tmp_path / "out/assets/style.css",
        tmp_path / "out",
    )
    assert place_of(wanted, f"{folder.replace('html', 'junitxml')}/j.xml") == (Path("/x/j.xml"), Path("/x"))
    assert {folder, folder.replace("html", "junitxml")} <= set(wanted.patterns)


@pytest.mark.parametrize(
    "path",
    [
        "other.html",
        "r.html/x",
        "../r.html",
        "assets",
        "assets/",
        "assets/../x",
        "assets/sub/x",
        "assets/.hidden",
        "assets/a b",
        "/etc/passwd",
        "R.html",
        "assets/x\n",
    ],
)
def test_no_other_name_has_a_place_there(root: Path, tmp_path: Path, path: str) -> None:
    assert (
        found(root, f"--html={tmp_path}/out/r.html").home(f"{FOLDER}/{path}")
        == "is not part of such a report"
    )


def test_a_project_names_no_place_outside_of_itself(root: Path) -> None:
    place = Place(root, root)
    settings = ["--html=../r.html", "--junitxml=in.xml"]
    wanted = destinations.find([*settings, "--report-log=../l"], place, typed=["--report-log=../l"])
    assert list(wanted.outside) == [".remote-ci-reports/report-log"]
    assert "in.xml" in wanted.patterns
    file = root.parent / "r.html"
    assert external_reports.names(["-q", "--html", "../r.html"], "--html", file, place)
    assert not external_reports.names(["--html=../other.html", "--css=../r.html"], "--html", file, place)


def test_a_report_in_one_file_has_nothing_beside_it(root: Path, tmp_path: Path) -> None:
    wanted = found(root, f"--html={tmp_path}/r.html", "--self-contained-html")
    assert place_of(wanted, f"{FOLDER}/r.html") == (tmp_path / "r.html", tmp_path)
    assert place_of(wanted, f"{FOLDER}/assets/style.css") is None


def test_only_files_give_way_and_beside_a_report_only_what_it_is_made_of(root: Path, tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    for name in ("assets/style.css", "assets/tool.py"):
        (tmp_path / name).write_text("there")
    (tmp_path / "r.html").write_text("<html>my own page</html>")
    (tmp_path / "assets" / "link.css").symlink_to(tmp_path / "mine")
    wanted = found(root, f"--html={tmp_path}/r.html")
    names = [
        "r.html",
        "assets/style.css",
        "assets/tool.py",
        "assets/link.css",
        "assets/new.py",
        "assets/new.png",
    ]
    assert [name for name in names if place_of(wanted, f"{FOLDER}/{name}")] == ["assets/new.png"]
    (tmp_path / "r.html").write_text("<!DOCTYPE html><html><p>by pytest-html</p></html>")
    assert [name for name in names if place_of(wanted, f"{FOLDER}/{name}")] == [
        "r.html",
        "assets/style.css",
        "assets/new.png",
    ]
    (tmp_path / "r.html").unlink()
    os.mkfifo(tmp_path / "r.html")
    assert place_of(wanted, f"{FOLDER}/r.html") is None


def test_a_link_is_the_developers_own(root: Path, tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "latest.html").symlink_to(tmp_path / "kept" / "r.html")
    wanted = found(root, f"--html={tmp_path}/latest.html")
    path = f"{FOLDER}/latest.html"
    assert place_of(wanted, path) == (tmp_path / "kept/r.html", tmp_path / "kept")
    assert place_of(wanted, f"{FOLDER}/assets/style.css") == (tmp_path / "assets/style.css", tmp_path)


def test_folders_of_such_reports_are_made_over_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    boot.make_folders(
        ["--benchmark-json=.remote-ci-reports/benchmark-json/b.json", "--html=out/r.html", "a/b"]
    )
    assert [path.name for path in root.iterdir() if path.name != "sub"] == [".remote-ci-reports"]
    assert (root / ".remote-ci-reports" / "benchmark-json").is_dir()
