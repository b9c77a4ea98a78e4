"""``remote-ci pipeline``: check pipelines, and show the plan of a run.

Results go to stdout. Problems go to stderr, one per line as ``file:line:column: key: message``. `check` and `dry-run`
exit with 1 if a definition has errors.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_remote_ci import exit_codes
from pytest_remote_ci.cli import pipeline_runs, plan_view
from pytest_remote_ci.cli.context import (
    Commands,
    Failure,
    add_json,
    add_runner,
    connected,
    print_json,
    print_line,
    print_message,
    report_error,
    settings,
)
from pytest_remote_ci.config.config import project_root
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session import pipeline_files
from pytest_remote_ci.session.pipeline_files import Files, Question
from pytest_remote_ci.wire.answers import CheckedPipelines, Plan
from pytest_remote_ci.workspace import changed_files

if TYPE_CHECKING:
    from pytest_remote_ci.cli.plan_view import Durations


def add(commands: Commands) -> None:
    """Add ``pipeline`` with its sub-commands to those of ``remote-ci``."""
    text = "check and run pipelines, and show their runs"
    parser = commands.add_parser("pipeline", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parts = parser.add_subparsers(dest="part", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = parts.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        add_runner(sub)
        sub.set_defaults(run=run)
        return sub

    sub = command("check", check, "check the project's pipelines, or those of one file")
    sub.add_argument("file", nargs="?", metavar="FILE", help="a YAML file or a pyproject.toml")
    sub.add_argument("-f", "--file", dest="named_file", metavar="FILE", help="the same")
    add_json(sub)
    sub = command("dry-run", dry_run, "show the jobs of a run, in order, without running them")
    add_pipeline(sub)
    add_json(sub)
    sub.add_argument("--format", choices=("text", "json"), default="text", help=argparse.SUPPRESS)
    add_choice(sub)
    pipeline_runs.add(command, add_pipeline, add_choice)


def add_pipeline(sub: argparse.ArgumentParser) -> None:
    """Add the options that name the pipeline to plan; `plan_for` reads them."""
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "what", nargs="?", metavar="NAME|FILE", help="the pipeline; optional if the project has only one"
    )
    which.add_argument("-p", "--pipeline", dest="named", metavar="NAME", help="the pipeline")
    sub.add_argument("-f", "--file", dest="named_file", metavar="FILE", help="the file that defines it")


def add_choice(sub: argparse.ArgumentParser) -> None:
    """Add the options that restrict a run to some jobs; `choice` reads them."""
    sub.add_argument(
        "--stage", metavar="STAGE", action="append", help="only this stage and the jobs it needs; repeatable"
    )
    sub.add_argument(
        "--job", metavar="JOB", action="append", help="only this job and the jobs it needs; repeatable"
    )
    sub.add_argument(
        "--changed-since", metavar="REV", help="skip jobs whose files have not changed since this commit"
    )
    sub.add_argument("--tag", metavar="TAG", help="the tag for which the pipeline runs")


def choice(options: argparse.Namespace, project: Path, name: str | None) -> dict[str, object]:
    """Return the part ``plan`` of a question: the pipeline, and the options that restrict its run."""
    since = options.changed_since
    return {
        "pipeline": name,
        "stages": options.stage or [],
        "jobs": options.job or [],
        "changed": None if since is None else changed_files.since(project, since),
        "tag": options.tag,
    }


def check(options: argparse.Namespace) -> int:
    """Check the definitions and print the result."""
    files = _files(options.named_file or options.file)
    if files is None:
        return exit_codes.FAILED
    names = [name for name, _ in files]
    if not options.json:
        for name in names:
            print_line(f"Checking pipeline configuration: {name}")
    answer = ask({"files": files}, options)
    errors = print_problems(answer)
    if not errors and not answer.has_pipelines:
        print_message(f"{names[0]}:1:1: this file defines no pipeline")
        errors = 1
    if options.json:
        print_json({**answer.fields, "files": names, "valid": not errors})
    if errors:
        return _invalid(errors)
    if not options.json:
        print_line("Pipeline configuration is valid!")
    return exit_codes.OK


def dry_run(options: argparse.Namespace) -> int:
    """Print the plan of a run."""
    is_text = options.format == "text" and not options.json
    plan = plan_for(options, print_file=is_text)
    if plan is None:
        return exit_codes.FAILED
    show(plan, pipeline_runs.past_durations(options, plan.pipeline), is_text=is_text)
    return exit_codes.OK


def plan_for(options: argparse.Namespace, *, print_file: bool = False) -> Plan | None:
    """Return the plan for the command line; None if the definition has errors, which are printed.

    With `print_file`, print the name of the file, if one is given.
    """
    file: str | None = options.named_file or (options.what if is_file(options.what) else None)
    files = _files(file)
    if files is None:
        return None
    if print_file and file:
        print_line(f"Validating pipeline configuration: {file}")
    name = options.named or (None if file == options.what else options.what)
    project = project_root(Path.cwd(), Path.cwd())
    answer = ask({"files": files, "plan": choice(options, project, name)}, options)
    errors = print_problems(answer)
    if answer.plan is None:
        if errors:
            _invalid(errors)
            return None
        raise Failure(answer.refused or "The runner returned no plan", exit_codes.USAGE_ERROR)
    return answer.plan


def show(plan: Plan, durations: Durations, *, is_text: bool) -> None:
    """Print a plan; `durations` are those of past runs."""
    path, seconds = plan_view.critical_path(plan, durations)
    if not is_text:
        critical = {"jobs": path, "seconds": seconds} if path else None
        print_json({**plan.fields, "critical_path": critical})
        return
    print_line("Execution Plan:")
    for line in plan_view.tree(plan, durations):
        print_line(line)
    if path:
        print_line(plan_view.critical_line(path, seconds))


def ask(question: Question, options: argparse.Namespace) -> CheckedPipelines:
    """Return the answer of this machine or of the configured runner. Raises `ConfigError` if there is neither."""

    def ask_runner(question: Question) -> CheckedPipelines:
        configured = settings(options)
        if configured.url is None:
            raise ConfigError(
                "Pipelines cannot be read here: run `pip install 'pytest-remote-ci[runner]'`, "
                "or `remote-ci login` to let a runner read them"
            )
        with connected(configured) as client:
            return client.check_pipelines(question)

    return pipeline_files.ask(question, ask_runner)


def print_problems(answer: CheckedPipelines) -> int:
    """Print errors and warnings, one line each; return the number of errors."""
    for line in pipeline_files.problems_in(answer):
        print_message(line)
    return pipeline_files.errors_in(answer)


def is_file(word: str | None) -> bool:
    """Return whether a word of the command line is the name of a file rather than of a pipeline."""
    if word is None:
        return False
    return Path(word).suffix.lower() in (*pipeline_files.YAML, ".toml") or "/" in word or Path(word).is_file()


def _files(name: str | None) -> Files | None:
    """Return the file of that name, or all of the project; None after printing an error."""
    try:
        return _one_file(name) if name else _all_files()
    except pipeline_files.Unreadable as error:
        print_message(str(error))
        _invalid(1)
    except ConfigError as error:
        report_error(error)
    return None


def _one_file(name: str) -> Files:
    file = Path(name)
    if file.suffix.lower() not in (*pipeline_files.YAML, ".toml"):
        raise ConfigError(f"File extension must be a YAML file (.yaml or .yml), or .toml: {name}")
    text = pipeline_files.read(file)
    if not pipeline_files.is_in_project(file):
        raise ConfigError(
            f"{name} is not in a project: put it into a git work tree, or next to a pyproject.toml"
        )
    return [(file.as_posix(), text)]


def _all_files() -> Files:
    cwd = Path.cwd()
    return pipeline_files.find_some(project_root(cwd, cwd), cwd)


def _invalid(errors: int) -> int:
    report_error(f"Invalid pipeline: {errors} error{'s' if errors > 1 else ''}")
    return exit_codes.FAILED
