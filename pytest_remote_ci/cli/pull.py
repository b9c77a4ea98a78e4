"""``remote-ci pull``: bring the changes that a job made to files of the project to their places here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from pytest_remote_ci import exit_codes
from pytest_remote_ci.artifacts import write_back
from pytest_remote_ci.artifacts.download import shown
from pytest_remote_ci.artifacts.write_back import Step, WriteBack
from pytest_remote_ci.cli.context import Failure, connected, print_json, print_line, print_message, settings
from pytest_remote_ci.config.config import project_root
from pytest_remote_ci.session import arguments
from pytest_remote_ci.terminal.status_line import Bar, StatusLine
from pytest_remote_ci.wire import globs
from pytest_remote_ci.wire.changes import ChangeKind
from pytest_remote_ci.wire.control_characters import escaped
from pytest_remote_ci.workspace.ignored import ignored

_LETTERS: Final[dict[ChangeKind, str]] = {"created": "A", "changed": "M", "deleted": "D"}


def pull(options: argparse.Namespace) -> int:
    """Apply a job's changes of the project, or list them."""
    for pattern in options.pattern:
        problem = globs.problem(pattern)
        if problem is not None:
            raise Failure(f"{pattern!r} {problem}", exit_codes.USAGE_ERROR)
    configured = settings(options)
    here = Path.cwd()
    root = arguments.find_place(project_root(here, here), here).root
    with connected(configured) as client:
        job_id = client.job_id(options.id)
        origin, found = client.changes(job_id)
        if origin not in (None, str(root), root.as_posix()) and not options.force:
            raise Failure(
                f"job {job_id} is of the project in {escaped(str(origin))}, not of {root}; run this there, or take its "
                "files nevertheless with --force"
            )
        changes = write_back.matching(found, options.pattern)
        if not options.pattern:
            hidden = ignored(
                root, [item.path for item in found if item.kind == "created"], configured.exclude
            )
            changes = [item for item in changes if item.path not in hidden]
        work = WriteBack(root, force=options.force, patterns=options.pattern)
        steps = work.plan(changes)
        if options.json:
            print_json([_as_json(step) for step in steps])
        else:
            _print(steps, job_id, found=bool(found))
        if options.dry_run:
            return exit_codes.OK
        if not any(step.is_due for step in steps):
            return _code(steps)
        line = StatusLine()
        try:
            applied, problems = work.apply(client, job_id, steps, Bar(line, "fetching files"))
        except OSError as error:
            raise Failure(escaped(f"{error.filename or root}: {error.strerror}")) from error
        finally:
            line.clear()
    for problem in problems:
        print_message(f"left alone: {problem}")
    print_message(f"{_files(len(applied))} of the project updated here.")
    return exit_codes.FAILED if problems else _code(steps)


def _print(steps: list[Step], job_id: str, *, found: bool) -> None:
    """Print the list, and what to do about files that are not taken."""
    if not steps:
        print_message(
            f"Nothing of {job_id} matches." if found else f"Job {job_id} has changed no files of the project."
        )
    for step in steps:
        note = "" if step.problem is None else f"  (not taken: {step.problem})"
        note = "  (already here)" if step.is_done else note
        print_line(f"{_LETTERS[step.change.kind]} {shown(step.change.path)}{note}")
    conflict = next((step for step in steps if step.is_conflict), None)
    if conflict is not None:
        print_message(
            f"Take the job's version with: remote-ci pull {job_id} --force {shown(conflict.change.path)}"
        )
    code = next((step for step in steps if step.needs_name), None)
    if code is not None:
        print_message(f"Name files that would be executed: remote-ci pull {job_id} {shown(code.change.path)}")


def _as_json(step: Step) -> dict[str, object]:
    return {**vars(step.change), "problem": step.problem, "is_here": step.is_done}


def _code(steps: list[Step]) -> int:
    return exit_codes.FAILED if any(step.problem is not None for step in steps) else exit_codes.OK


def _files(count: int) -> str:
    return "1 file" if count == 1 else f"{count} files"
