"""Every page and anchor that code, tests, scripts and the README name exists.

Links between pages are checked by `scripts/docs`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/pytest-remote-ci/pytest-remote-ci"
#: Everything that may name a page; CHANGELOG.md is about pages as they were.
PLACES = (
    "ci_runner",
    "pytest_remote_ci",
    "tests",
    "scripts",
    "benchmarks",
    "examples",
    "docs",
    ".ci",
    ".github",
)
FILES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml", "mkdocs.yml", "noxfile.py")
#: Files of projects that tests make, in `docs` folders of their own.
OF_OTHER_PROJECTS = {"docs/a.md", "docs/keep.md", "docs/a/b.rst", "docs/big.bin"}


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of each file that may name a page."""
    paths = [ROOT / name for name in FILES]
    for place in PLACES:
        paths += [path for path in (ROOT / place).rglob("*") if path.is_file()]
    for path in paths:
        name = path.relative_to(ROOT).as_posix()
        if path.exists() and "__pycache__" not in name and not name.startswith("tests/fixtures/"):
            try:
                yield name, path.read_text("utf-8")
            except UnicodeDecodeError:
                continue


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


def test_every_page_that_is_named_exists() -> None:
    named = [
        (name, found)
        for name, text in texts()
        for found in re.findall(r"(?<![\w/.-])docs/[\w./-]*\.(?:md|json|rst|bin)\b", text)
    ]
    assert len(named) > 20
    missing = [
        f"{name}: {found}"
        for name, found in named
        if found not in OF_OTHER_PROJECTS and not (ROOT / found).is_file()
    ]
    assert not missing, "pages that are not there:\n" + "\n".join(missing)


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_to_the_repository_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    links = re.findall(rf"{re.escape(REPOSITORY)}/(?:blob|tree)/main/([^\s)#>]+)(?:#([^\s)>]+))?", text)
    assert links
    for path, anchor in links:
        assert (ROOT / path).exists(), path
        assert not anchor or anchor in anchors(ROOT / path), f"{path}#{anchor}"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_are_absolute(name: str) -> None:
    """The package index shows the README, too; there a relative link leads nowhere."""
    text = (ROOT / name).read_text("utf-8")
    links = re.findall(r"\]\(([^)]*)\)", text) + re.findall(r"^\[[^\]]+\]: (.+)$", text, re.MULTILINE)
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_every_page_is_in_the_navigation_and_the_index() -> None:
    config, index = (ROOT / "mkdocs.yml").read_text("utf-8"), (DOCS / "index.md").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS).as_posix()
        assert f": {name}\n" in config, name
        assert name == "index.md" or f"({name})" in index, name
