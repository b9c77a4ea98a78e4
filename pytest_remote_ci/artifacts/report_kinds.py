"""Kinds of reports: permitted file names, content signatures, and local files that they may replace.

A job chooses names and contents of its artifacts, and many places in a project hold files that are executed or read
as configuration: by pytest, Python, git, make, an editor. So each report has a kind, and only files of that kind are
accepted. Names are checked before the download, contents before a file gets its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Bytes at the beginning of a file that are examined.
_HEAD: Final = 256 << 10
#: One part of a path: begins with a letter, digit or underscore, and has no character that a shell would expand.
_PLAIN: Final = re.compile(r"\w[\w.,+@=~ -]*")
#: Names with a leading dot that tools give to reports and to folders of reports.
_DOTTED: Final = re.compile(
    r"\.coverage(\.[\w.-]+)?|\.report\.json|\.reports?|\.cache|\.artifacts|\.tox|\.nox|\.test-results"
    r"|\.pytest-coverage"
)
#: Suffixes of files that are executed or read as configuration: rejected even on the command line.
ACTIVE: Final = frozenset(
    {
        ".py",
        ".pyw",
        ".pyc",
        ".pyi",
        ".pyx",
        ".pyd",
        ".so",
        ".dll",
        ".pth",
        ".egg-link",
        ".ipynb",
        ".sh",
        ".bash",
        ".zsh",
        ".fish",
        ".bat",
        ".cmd",
        ".ps1",
        ".exe",
        ".toml",
        ".cfg",
        ".ini",
        ".conf",
        ".yaml",
        ".yml",
        ".mk",
        ".env",
        ".js",
        ".cjs",
        ".mjs",
        ".ts",
        ".rb",
        ".pl",
        ".php",
        ".lua",
        ".vim",
        ".el",
    }
)
#: JSON files that a tool reads as its configuration.
JSON_SETTINGS: Final = re.compile(
    r"(?i)(package|package-lock|composer|tsconfig.*|jsconfig.*|pyrightconfig|deno|settings|launch|tasks|extensions"
    r"|devcontainer|pipelines?|renovate|lerna|nx|turbo|biome|project|components|vercel|now|app|manifest)\.json"
)
#: pytest takes ``test*.txt`` for a doctest and runs the code after such a prompt.
_PROMPT: Final = re.compile(rb"(?m)^[ \t]*>>>( |$|\r)")
#: A line of code in such a text.
_EXAMPLE: Final = re.compile(rb"(?m)^[ \t]*(?:>>>|\.\.\.).*$")
#: Comments before the first element. A comment can end in one place only, so hostile input takes no time.
_COMMENTS: Final = rb"(<!--((?!-->).){0,4000}-->\s*)*"
_XML_HEAD: Final = (
    rb"(?s)\A(\xef\xbb\xbf)?\s*(<\?xml[^>]{0,200}\?>\s*)?(<!DOCTYPE[^>\[]{0,500}>\s*)?" + _COMMENTS
)
_HTML_HEAD: Final = rb"(?is)\A(\xef\xbb\xbf)?\s*" + _COMMENTS + rb"<(!doctype\s+html|html)\b"
#: Longer texts are not searched, and are rejected.
_LARGEST_TEXT: Final = 32 << 20


@dataclass(frozen=True)
class Kind:
    """A report that is a file, with its names and contents."""

    #: Suffixes that a setting of the project may use.
    suffixes: frozenset[str]
    #: How the content begins.
    begins: re.Pattern[bytes]
    #: Content of an existing file that may be replaced; None: not recognizable, the suffix decides.
    marks: re.Pattern[bytes] | None = None

    def name_problem(self, name: str, *, is_typed: bool) -> str | None:
        """Return why the report may not be called `name` (a path), else None. `is_typed`: on the command line."""
        parts = name.split("/")
        suffix = Path(name).suffix.lower()
        if not is_typed and not all(_PLAIN.fullmatch(part) or _DOTTED.fullmatch(part) for part in parts):
            return "does not have the name of a report"
        if suffix in ACTIVE or JSON_SETTINGS.fullmatch(parts[-1]):
            return "has a name that some program would execute or load"
        is_known = suffix in self.suffixes or (self is COVERAGE_DATA and _is_data_name(parts[-1]))
        return None if is_known or is_typed else "does not have a name of this report"

    def content_problem(self, name: str, file: Path) -> str | None:
        """Return why the content of `file`, to be called `name`, is not such a report, else None."""
        if self.begins.search(_head(file)) is None:
            return "is not such a report"
        return _doctest_problem(name, file)

    def may_replace(self, place: Path) -> bool:
        """Return whether the regular file at `place` is such a report, or empty."""
        head = _head(place)
        if not head:
            return True
        if self.marks is None:
            return place.suffix.lower() in self.suffixes - {".txt"}
        return self.begins.search(head) is not None and self.marks.search(head) is not None


@dataclass(frozen=True)
class FolderKind:
    """A report that is a folder; all of its files are directly in it."""

    names: re.Pattern[str]
    #: Name and content of the file that identifies a report's folder; None: names are enough.
    mark: tuple[str, re.Pattern[bytes]] | None

    def name_problem(self, name: str) -> str | None:
        """Return why a file `name` (relative to the folder) is not part of such a report, else None."""
        if self.names.fullmatch(name) is None or JSON_SETTINGS.fullmatch(name):
            return "is not part of such a report"
        return None

    def content_problem(self, name: str, file: Path) -> str | None:
        """Return why the content of `file`, to be called `name`, is not part of this report, else None."""
        if name == ".gitignore":
            return None if _ignores_all(file) else "does more than hide its folder"
        begins = _CONTENTS.get(Path(name).suffix.lower())
        if begins is not None and begins.search(_head(file)) is None:
            return "has content that does not match its name"
        return _doctest_problem(name, file)

    def may_replace(self, place: Path, beside: Path | None = None) -> bool:
        """Return whether the file at `place` is part of such a report; `beside` is the file that identifies it."""
        if self.mark is None or not _head(place):
            return True
        name, marks = self.mark
        return any(
            file.is_file() and not file.is_symlink() and marks.search(_head(file)) is not None
            for file in (beside or place.parent / name, place)
        )


def is_doctest(text: str) -> bool:
    """Return whether pytest would find code to run in this text."""
    return _PROMPT.search(text.encode("utf-8", "surrogatepass")) is not None


def is_plain(path: str) -> bool:
    """Return whether a file of the project may use this path for a report's folder."""
    return all(_PLAIN.fullmatch(part) or _DOTTED.fullmatch(part) for part in path.split("/"))


def _is_data_name(name: str) -> bool:
    """Return whether coverage data may have this name."""
    return (
        name == ".coverage"
        or name.startswith(".coverage.")
        or re.fullmatch(r"[\w-]*cov[\w.-]*", name) is not None
    )


def _doctest_problem(name: str, file: Path) -> str | None:
    return doctest_problem(file) if name.lower().endswith(".txt") else None


def doctest_problem(file: Path, before: Path | None = None) -> str | None:
    """Return why pytest would find tests in the text of `file`, other than those of `before`; else None."""
    content = _text(file)
    if len(content) > _LARGEST_TEXT:
        return "is too large to check"
    if not _PROMPT.search(content):
        return None
    if before is not None and _EXAMPLE.findall(content) == _EXAMPLE.findall(_text(before)):
        return None
    return "is a doctest, which pytest would run"


def _text(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_LARGEST_TEXT + 1)


def _ignores_all(file: Path) -> bool:
    """Return whether a file for git contains only comments and ``*``."""
    lines = _head(file).splitlines() if file.stat().st_size < _HEAD else [b"!"]
    return all(line.strip() in (b"", b"*") or line.startswith(b"#") for line in lines)


def _head(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_HEAD)


def _root(*names: str) -> re.Pattern[bytes]:
    return re.compile(_XML_HEAD + rb"<(" + "|".join(names).encode() + rb")[\s>/]")


_SQLITE: Final = re.compile(rb"\ASQLite format 3\x00")
_OBJECT: Final = re.compile(rb"\A(\xef\xbb\xbf)?\s*\{")
_HTML: Final = re.compile(_HTML_HEAD)
_IS_COVERAGE: Final = re.compile(rb"coverage\.py|coveragepy|coverage_html")
_IS_PYTEST_HTML: Final = re.compile(rb"pytest[-_]html|<h1 id=\"title\">|id=\"results-table\"")
_TABLE: Final = re.compile(rb"\A\s*\|\s*Name\b")

COVERAGE_DATA: Final = Kind(
    frozenset({".coverage", ".db", ".sqlite", ".sqlite3", ".dat", ".data"}),
    _SQLITE,
    re.compile(rb"coverage_schema"),
)
COVERAGE_XML: Final = Kind(frozenset({".xml"}), _root("coverage"), _root("coverage"))
COVERAGE_JSON: Final = Kind(frozenset({".json"}), _OBJECT, re.compile(rb'\A\s*\{\s*"meta"\s*:'))
COVERAGE_LCOV: Final = Kind(
    frozenset({".lcov", ".info"}), re.compile(rb"\A(\s*\Z|(TN|SF):)"), re.compile(rb"\A(TN|SF):")
)
COVERAGE_MARKDOWN: Final = Kind(frozenset({".md"}), _TABLE, _TABLE)
JUNIT: Final = Kind(frozenset({".xml"}), _root("testsuites", "testsuite"), _root("testsuites", "testsuite"))
HTML: Final = Kind(frozenset({".html", ".htm"}), _HTML, _IS_PYTEST_HTML)
REPORT_LOG: Final = Kind(
    frozenset({".json", ".jsonl", ".log"}), _OBJECT, re.compile(rb'"(pytest_version|\$report_type)"')
)
JSON_REPORT: Final = Kind(frozenset({".json"}), _OBJECT, re.compile(rb'"(created|exitcode)"\s*:'))
CTRF: Final = Kind(
    frozenset({".json"}),
    _OBJECT,
    re.compile(rb'"reportFormat"\s*:\s*"CTRF"|\A\s*\{\s*"results"\s*:\s*\{\s*"tool"\s*:'),
)
CUCUMBER: Final = Kind(
    frozenset({".json"}),
    re.compile(rb"\A(\xef\xbb\xbf)?\s*\["),
    re.compile(rb'\A\s*\[\s*(\]|\{\s*"(keyword|uri|id|name|elements)"\s*:)'),
)
MARKDOWN_TABLE: Final = Kind(
    frozenset({".md", ".markdown"}), re.compile(rb"\A\s*\|\s*filepath\b"), re.compile(rb"\|\s*SUBTOTAL\b")
)
BENCHMARK: Final = Kind(frozenset({".json"}), _OBJECT, re.compile(rb'"machine_info"'))
LOG: Final = Kind(frozenset({".log", ".txt", ".out"}), re.compile(rb""))

COVERAGE_HTML: Final = FolderKind(
    re.compile(
        r"\w[\w.,+@=~ -]*\.(html|css|png|svg|ico)"
        r"|(?!.*\.(test|spec|config|conf|e2e|cy|setup)\.)(coverage_html|jquery)[\w.-]*\.js"
        r"|status\.json|\.gitignore"
    ),
    ("index.html", _IS_COVERAGE),
)
COVERAGE_ANNOTATE: Final = FolderKind(re.compile(r"\w[\w.+@=~ -]*,cover"), None)
HTML_ASSETS: Final = FolderKind(
    re.compile(r"\w[\w.-]*\.(css|gif|html|jpe?g|json|mp4|png|svg|txt|webm)"), ("", _IS_PYTEST_HTML)
)
ALLURE: Final = FolderKind(
    re.compile(
        r"[\w-]+-(result|container)\.json"
        r"|[\w-]+-attachment(\.(json|txt|log|png|jpe?g|gif|svg|bmp|tiff|html|xml|csv|tsv|css|mp4|webm|ogg|uri|pcap|attach))?"
    ),
    None,
)

#: Suffix → how the content begins.
_CONTENTS: Final[Mapping[str, re.Pattern[bytes]]] = {
    ".html": _HTML,
    ".png": re.compile(rb"\A\x89PNG\r\n\x1a\n"),
    ".json": re.compile(rb"\A(\xef\xbb\xbf)?\s*[\{\[]"),
    ".svg": re.compile(rb"\A(\xef\xbb\xbf)?\s*<"),
}

#: Option with a file to write as value → its kind.
FILES: Final[Mapping[str, Kind]] = {
    "--junitxml": JUNIT,
    "--junit-xml": JUNIT,
    "--html": HTML,
    "--report-log": REPORT_LOG,
    "--json-report-file": JSON_REPORT,
    "--benchmark-json": BENCHMARK,
    "--ctrf": CTRF,
    "--cucumberjson": CUCUMBER,
    "--cucumber-json": CUCUMBER,
    "--md-report-output": MARKDOWN_TABLE,
    "--log-file": LOG,
}
#: Reports of coverage that ``--cov-report=KIND:PLACE`` names.
COVERAGE_REPORTS: Final[Mapping[str, Kind | FolderKind]] = {
    "xml": COVERAGE_XML,
    "json": COVERAGE_JSON,
    "lcov": COVERAGE_LCOV,
    "markdown": COVERAGE_MARKDOWN,
    "markdown-append": COVERAGE_MARKDOWN,
    "html": COVERAGE_HTML,
    "annotate": COVERAGE_ANNOTATE,
}
