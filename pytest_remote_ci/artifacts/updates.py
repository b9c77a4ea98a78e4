"""What becomes of files of the project that a job changed: brought home if an option asks for updates, else named.

Options such as ``--snapshot-update`` change files of the project. Locally they would do so in place, so the files that
the option is for are brought to their places when the job ends; ``write-back`` in ``[tool.remote-ci]`` adds patterns.
Everything else is one line that names the command which brings it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from pytest_remote_ci.artifacts import code_files
from pytest_remote_ci.artifacts.destinations import in_project
from pytest_remote_ci.artifacts.download import shown
from pytest_remote_ci.artifacts.write_back import Step, WriteBack, names
from pytest_remote_ci.session.argv import words
from pytest_remote_ci.terminal.status_line import Bar, StatusLine
from pytest_remote_ci.wire import globs
from pytest_remote_ci.wire.changes import CHANGED, CREATED, Change, is_database
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.wire.globs import Globs
from pytest_remote_ci.workspace.ignored import ignored

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.session.arguments import Place

#: pytest's own default of ``python_files``.
PYTHON_FILES: Final = ("test_*.py", "*_test.py")


@dataclass(frozen=True)
class Update:
    """An option that asks a plugin to write files of the project."""

    names: tuple[str, ...]
    #: Patterns of the files that it is for; ``{}`` is the value.
    patterns: tuple[str, ...] = ()
    #: Values with which it writes; None: with any, or none.
    values: re.Pattern[str] | None = None
    #: It is for files in folders that are named like a test file beside them.
    is_beside_tests: bool = False
    #: It changes test files, if it was typed.
    changes_tests: bool = False


_CASSETTES: Final = ("**/cassettes/**/*.yaml", "**/cassettes/**/*.yml", "**/cassettes/**/*.json")
_IMAGES: Final = ("**/*.png", "**/*.svg")
_RECORDS: Final = re.compile(r"once|new_episodes|rewrite|all|any")

UPDATES: Final = (
    # syrupy, pytest-snapshot, snapshottest
    Update(("--snapshot-update", "--allow-snapshot-deletion"), ("**/__snapshots__", "**/snapshots")),
    # inline-snapshot
    Update(
        ("--inline-snapshot",),
        ("**/.inline-snapshot", "**/__inline_snapshot__"),
        values=re.compile(r".*\b(create|fix|trim|update)\b.*"),
        changes_tests=True,
    ),
    # pytest-regressions
    Update(("--force-regen", "--regen-all"), is_beside_tests=True),
    # pytest-recording, pytest-vcr
    Update(("--record-mode", "--vcr-record", "--vcr-record-mode"), _CASSETTES, values=_RECORDS),
    # pytest-benchmark
    Update(("--benchmark-autosave",), ("**/.benchmarks/**/*.json",)),
    Update(("--benchmark-save",), ("**/.benchmarks/**/*.json",), values=re.compile(".+")),
    Update(("--benchmark-storage",), ("{}/**/*.json",)),
    # approvaltests
    Update(
        ("--approvaltests-use-reporter", "--approvaltests-add-reporter"),
        ("**/*.approved.*", "**/*.received.*"),
    ),
    # pytest-approval
    Update(("--auto-approve",), ("**/*.approved.*",)),
    # pytest-manifest
    Update(("--overwrite-manifest",), ("**/manifests/**/*.yaml", "**/manifests/**/*.yml")),
    # pytest-goldie
    Update(("--update_goldens",), ("**/goldens",)),
    # pytest-arraydiff
    Update(("--arraydiff-generate-path",), ("{}",)),
    # pytest-quarantine
    Update(("--save-quarantine",), ("{}",)),
    # pytest-golden
    Update(("--update-goldens",), ("**/*.yml", "**/*.yaml")),
    # pytest-insta
    Update(("--insta",), ("**/snapshots",), values=re.compile(r"update.*|record|clear")),
    # pytest-regtest
    Update(("--regtest-reset",), ("**/_regtest_outputs/*.out",)),
    # pytest-mpl, pytest-image-snapshot
    Update(("--mpl-generate-path",), ("{}/**/*.png", "{}/**/*.svg", "{}/**/*.pdf", "{}/**/*.eps")),
    Update(("--mpl-generate-hash-library",), ("{}",)),
    Update(("--image-snapshot-update",), _IMAGES),
    # pytest-split
    Update(("--store-durations",), ("**/.test_durations",)),
    Update(("--durations-path",), ("{}",)),
)
#: Files and folders of plugins with a dot: none that programs obey.
_DOTTED: Final = frozenset({".benchmarks", ".inline-snapshot", ".test_durations"})
_BY_NAME: Final = {name: update for update in UPDATES for name in update.names}


@dataclass(frozen=True)
class Updates:
    """Which changes of one job are brought home."""

    root: Path
    #: Patterns in gitignore's syntax of files that are not sent.
    exclude: Sequence[str] = ()
    #: Patterns of files that are fetched anyway, or that the next job gets: they are not named.
    expected: tuple[str, ...] = ()
    #: Patterns of files that options are for.
    by_option: tuple[str, ...] = ()
    #: Patterns of `write-back`.
    by_setting: tuple[str, ...] = ()
    beside_tests: bool = False
    #: ``python_files`` if test files are changed, too; else ().
    tests: tuple[str, ...] = ()
    #: Files that arguments name, such as reports of plugins that are only in the job.
    named: frozenset[str] = frozenset()
    #: Paths of files that are fetched anyway.
    fetched: frozenset[str] = frozenset()
    #: What a line about the files begins with: the job, in a run of several.
    label: str = ""
    #: What changed the files.
    author: str = "the tests"

    def bring(
        self,
        client: Client,
        job_id: str,
        sent: Mapping[str, str] | None,
        line: StatusLine,
        print_message: Callable[[str], None],
    ) -> None:
        """Apply the changes that an option or a setting is for, and name the others. Raises `ClientError`, OSError."""
        origin, changes = client.changes(job_id)
        is_elsewhere = origin not in (None, str(self.root), self.root.as_posix())
        work = WriteBack(self.root, sent, allows_code=lambda change: self._allows_code(change, sent))
        wanted = (
            [] if sent is None or is_elsewhere else [item for item in changes if self._is_wanted(item, sent)]
        )
        steps = work.plan(wanted)
        due = [step for step in steps if step.is_due]
        if due:
            bar = Bar(line, "fetching files")
            applied, problems = work.apply(client, job_id, due, bar)
            line.clear()
            shown_ones = [change for change in applied if not is_database(change.path)]
            if shown_ones:
                print_message(f"remote-ci: {self._prefix}updated here: {_counted(shown_ones)}")
            for problem in problems:
                print_message(f"remote-ci: {self._prefix}not updated here: {problem}")
        self._print_unapplied(
            [step for step in steps if not is_database(step.change.path)], job_id, print_message
        )
        handled = {item.path for item in wanted}
        rest = [item for item in changes if item.path not in handled and not self._is_expected(item)]
        hidden = ignored(self.root, [item.path for item in rest if item.kind == CREATED], self.exclude)
        self._print_rest([item for item in rest if item.path not in hidden], job_id, print_message)
        named = [item for item in rest if item.path in hidden and item.path in self.named]
        if named:
            paths = shlex.join(shown(item.path) for item in named)
            print_message(
                f"remote-ci: {self._prefix}written by {self.author}: {names(named)}; "
                f"bring {'it' if len(named) == 1 else 'them'} here with: remote-ci pull {job_id} {paths}"
            )

    @property
    def _prefix(self) -> str:
        return f"{escaped(self.label)}: " if self.label else ""

    def _print_rest(self, rest: Sequence[Change], job_id: str, print_message: Callable[[str], None]) -> None:
        if rest:
            few = len(rest) == 1
            files = "1 file of the project was" if few else f"{len(rest)} files of the project were"
            print_message(
                f"remote-ci: {self._prefix}{files} changed by {self.author}: {names(rest)}; "
                f"bring {'it' if few else 'them'} here with: remote-ci pull {job_id}"
            )

    def _print_unapplied(
        self, steps: Sequence[Step], job_id: str, print_message: Callable[[str], None]
    ) -> None:
        for step in steps:
            if step.problem is None:
                continue
            path = shown(step.change.path)
            command = f"remote-ci pull {job_id}{' --force' if step.is_conflict else ''} {path}"
            remedy = f"; take it with: {command}" if step.is_conflict or step.needs_name else ""
            print_message(f"remote-ci: {self._prefix}not updated here: {path} {step.problem}{remedy}")

    def _is_expected(self, change: Change) -> bool:
        return change.path in self.fetched or bool(Globs(self.expected).match(change.path))

    def _is_wanted(self, change: Change, sent: Mapping[str, str]) -> bool:
        path = change.path
        if is_database(path) or Globs((*self.by_option, *self.by_setting)).match(path):
            return True
        return (self.beside_tests and _is_beside_test(path, sent)) or self._is_test(change, sent)

    def _is_test(self, change: Change, sent: Mapping[str, str]) -> bool:
        """Return whether an option that changes test files is for this one: sent, and collected by its name."""
        name = change.path.rpartition("/")[2]
        is_sent = change.kind == CHANGED and change.path in sent
        return is_sent and name != "conftest.py" and any(fnmatch(name, pattern) for pattern in self.tests)

    def _allows_code(self, change: Change, sent: Mapping[str, str] | None) -> bool:
        if sent is not None and self._is_test(change, sent):
            return True
        plain = "/".join(part.lstrip(".") if part in _DOTTED else part for part in change.path.split("/"))
        return bool(Globs(self.by_option).match(change.path)) and not code_files.is_code(plain)


def _counted(changes: Sequence[Change]) -> str:
    text = names(changes, 5)
    return text if len(changes) <= 5 else f"{len(changes)} files: {text}"


def _is_beside_test(path: str, sent: Mapping[str, str]) -> bool:
    """Return whether the file's folder has the name of a test file that was sent, as in ``test_x/y.yml``."""
    folder = str(PurePosixPath(path).parent)
    return folder != "." and f"{folder}.py" in sent


def find(
    args: Sequence[str],
    typed: Sequence[str],
    place: Place,
    *,
    python_files: Sequence[str] = PYTHON_FILES,
    write_back: Sequence[str] = (),
    exclude: Sequence[str] = (),
    expected: Collection[str] = (),
) -> Updates:
    """Return what comes home for a job with these arguments of pytest.

    `typed` are the arguments that come from no file of the project: only these can change test files.
    """
    patterns: list[str] = []
    beside_tests = False
    for option, value in _given(args):
        update = _BY_NAME[option]
        patterns += _patterns(update, value, place)
        beside_tests = beside_tests or update.is_beside_tests
    changes_tests = any(_BY_NAME[option].changes_tests for option, _ in _given(typed))
    return Updates(
        place.root,
        exclude=exclude,
        expected=tuple(expected),
        by_option=tuple(dict.fromkeys(patterns)),
        by_setting=tuple(write_back),
        beside_tests=beside_tests,
        tests=tuple(python_files) if changes_tests else (),
        named=frozenset(_named(args, place)),
    )


def _named(args: Sequence[str], place: Place) -> Iterator[str]:
    """Yield the paths of the project that could be meant by arguments; which option takes a value is unknown here."""
    for word in words(args):
        value = word.text if word.option is None else word.value
        if not value or value in (".", "--"):
            continue
        path = in_project(value, place)
        if path is not None:
            yield path


def _given(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the options of the table that are given so that they write, with their values."""
    for word in words(args, _takes_value):
        update = _BY_NAME.get(word.option or "")
        if update is None or word.option is None:
            continue
        if update.values is None or update.values.fullmatch(word.value or ""):
            yield word.option, word.value or ""


def _takes_value(option: str) -> bool | None:
    update = _BY_NAME.get(option)
    return None if update is None else update.values is not None or "{}" in "".join(update.patterns)


def _patterns(update: Update, value: str, place: Place) -> Iterator[str]:
    folder: str | None = ""
    if any("{}" in pattern for pattern in update.patterns):
        folder = _in_project(value, place)
    for pattern in update.patterns:
        if folder is not None:
            found = pattern.replace("{}", folder)
            if globs.problem(found) is None:
                yield found


def _in_project(value: str, place: Place) -> str | None:
    """Return the folder or file that a value names, relative to the project and as a pattern; None if it is outside."""
    return in_project(value.removeprefix("file://"), place)
