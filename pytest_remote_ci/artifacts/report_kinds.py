"""Which files a report may consist of: their names, how their content begins, and which files here they may replace.

A job chooses names and contents of what it leaves behind, and a folder of the project is full of places whose files
somebody executes or reads as configuration: pytest, Python, git, make, an editor. So each report has a kind, and only
what is of that kind comes home. Names are judged before anything is fetched, contents before anything has its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Bytes of a file that are looked at.
_HEAD: Final = 256 << 10
#: One part of a path: begins with a letter, a digit or an underscore, and holds nothing that a shell would expand.
_PLAIN: Final = re.compile(r"\w[\w.,+@=~ -]*")
#: Names with a dot in front that tools give to reports, and to folders of them.
_DOTTED: Final = re.compile(
    r"\.coverage(\.[\w.-]+)?|\.report\.json|\.reports?|\.cache|\.artifacts|\.tox|\.nox|\.test-results"
    r"|\.pytest-coverage"
)
#: Ends of names that something executes or reads as configuration: not even the command line may mean them.
_ACTIVE: Final = frozenset(
    {
        ".py", ".pyw", ".pyc", ".pyi", ".pyx", ".pyd", ".so", ".dll", ".pth", ".egg-link", ".ipynb", ".sh", ".bash",
        ".zsh", ".fish", ".bat", ".cmd", ".ps1", ".exe", ".toml", ".cfg", ".ini", ".conf", ".yaml", ".yml", ".mk",
        ".env", ".js", ".cjs", ".mjs", ".ts", ".rb", ".pl", ".php", ".lua", ".vim", ".el",
    }
)  # fmt: skip
#: Names in JSON that a tool reads as its configuration.
_JSON_SETTINGS: Final = re.compile(
    r"(?i)(package|package-lock|composer|tsconfig.*|jsconfig.*|pyrightconfig|deno|settings|launch|tasks|extensions"
    r"|devcontainer|pipelines?|renovate|lerna|nx|turbo|biome|project|components|vercel|now|app|manifest)\.json"
)
#: pytest takes ``test*.txt`` for a doctest and runs what follows such a prompt.
_PROMPT: Final = re.compile(rb"(?m)^[ \t]*>>>( |$|\r)")
#: What comes before the first element. A comment can end in one place only, so hostile ones cost no time.
_COMMENTS: Final = rb"(<!--((?!-->).){0,4000}-->\s*)*"
_XML_HEAD: Final = (
    rb"(?s)\A(\xef\xbb\xbf)?\s*(<\?xml[^>]{0,200}\?>\s*)?(<!DOCTYPE[^>\[]{0,500}>\s*)?" + _COMMENTS
)
_HTML_HEAD: Final = rb"(?is)\A(\xef\xbb\xbf)?\s*" + _COMMENTS + rb"<(!doctype\s+html|html)\b"
#: Larger texts are not looked through, and do not come.
_LARGEST_TEXT: Final = 32 << 20


@dataclass(frozen=True)
class Kind:
    """Files of one report, by their names and contents."""

    #: Ends of their names where a setting of the project names them.
    suffixes: frozenset[str]
    #: How a content begins.
    begins: re.Pattern[bytes]
    #: What a file here holds that may be replaced; None: such files cannot be told from others, and their end counts.
    marks: re.Pattern[bytes] | None = None

    def name_problem(self, name: str, *, is_typed: bool) -> str | None:
        """Say why the report may not be called `name` (a path); None when it may. `is_typed`: on the command line."""
        parts = name.split("/")
        suffix = Path(name).suffix.lower()
        if not is_typed and not all(_PLAIN.fullmatch(part) or _DOTTED.fullmatch(part) for part in parts):
            return "has a name that no report has"
        if suffix in _ACTIVE or _JSON_SETTINGS.fullmatch(parts[-1]):
            return "has a name under which something would execute or obey it"
        is_known = suffix in self.suffixes or (self is COVERAGE_DATA and _is_data_name(parts[-1]))
        return None if is_known or is_typed else "has a name that this report does not have"

    def content_problem(self, name: str, file: Path) -> str | None:
        """Say why the content of `file`, which is to be called `name`, is none of this report; None when it is."""
        if self.begins.search(_head(file)) is None:
            return "is no such report"
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
    """Files of a report that is a folder; all of them lie directly in it."""

    names: re.Pattern[str]
    #: Name of a file in the folder by which a report's folder is known, and what it holds; None: names are enough.
    mark: tuple[str, re.Pattern[bytes]] | None

    def name_problem(self, name: str) -> str | None:
        """Say why no file `name` (relative to the folder) belongs to such a report; None when one does."""
        if self.names.fullmatch(name) is None or _JSON_SETTINGS.fullmatch(name):
            return "is no file of such a report"
        return None

    def content_problem(self, name: str, file: Path) -> str | None:
        """Say why the content of `file`, which is to be called `name`, is none of this report; None when it is."""
        if name == ".gitignore":
            return None if _ignores_all(file) else "does more than to hide its folder"
        begins = _CONTENTS.get(Path(name).suffix.lower())
        if begins is not None and begins.search(_head(file)) is None:
            return "has a content that its name does not promise"
        return _doctest_problem(name, file)

    def may_replace(self, place: Path, beside: Path | None = None) -> bool:
        """Return whether the regular file at `place` is a part of such a report. `beside`: the file that shows it."""
        if self.mark is None or not _head(place):
            return True
        name, marks = self.mark
        return any(
            file.is_file() and not file.is_symlink() and marks.search(_head(file)) is not None
            for file in (beside or place.parent / name, place)
        )


def is_doctest(text: str) -> bool:
    """Return whether pytest would find something to run in this text."""
    return _PROMPT.search(text.encode("utf-8", "surrogatepass")) is not None


def is_plain(path: str) -> bool:
    """Return whether a file of the project may name this folder as that of a report."""
    return all(_PLAIN.fullmatch(part) or _DOTTED.fullmatch(part) for part in path.split("/"))


def _is_data_name(name: str) -> bool:
    """Return whether coverage's data may be called that."""
    return (
        name == ".coverage"
        or name.startswith(".coverage.")
        or re.fullmatch(r"[\w-]*cov[\w.-]*", name) is not None
    )


def _doctest_problem(name: str, file: Path) -> str | None:
    if not name.lower().endswith(".txt"):
        return None
    with file.open("rb") as opened:
        content = opened.read(_LARGEST_TEXT + 1)
    if len(content) > _LARGEST_TEXT:
        return "is too large to be looked through"
    return "is a doctest, which pytest would run" if _PROMPT.search(content) else None


def _ignores_all(file: Path) -> bool:
    """Return whether a file for git holds comments and ``*``, and nothing else."""
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
    frozenset({".coverage", ".db", ".sqlite", ".sqlite3", ".dat", ".data"}), _SQLITE, re.compile(rb"coverage_schema")
)  # fmt: skip
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
        r"|[\w-]+-attachment(\.(json|txt|log|png|jpe?g|gif|svg|bmp|tiff|html|xml|csv|tsv|css|mp4|webm|ogg|uri|pcap))?"
    ),
    None,
)

#: Ends of names → how the content begins.
_CONTENTS: Final[Mapping[str, re.Pattern[bytes]]] = {
    ".html": _HTML,
    ".png": re.compile(rb"\A\x89PNG\r\n\x1a\n"),
    ".json": re.compile(rb"\A(\xef\xbb\xbf)?\s*[\{\[]"),
    ".svg": re.compile(rb"\A(\xef\xbb\xbf)?\s*<"),
}

#: Options whose value is a file that the run writes → its kind.
FILES: Final[Mapping[str, Kind]] = {
    "--junitxml": JUNIT,
    "--junit-xml": JUNIT,
    "--html": HTML,
    "--report-log": REPORT_LOG,
    "--json-report-file": JSON_REPORT,
    "--benchmark-json": BENCHMARK,
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
