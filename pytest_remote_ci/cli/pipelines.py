"""``remote-ci pipeline``: check pipelines, and show the plan of a run.

Results go to stdout. Mistakes go to stderr, one per line as ``file:line:column: key: message``. `check` and `dry-run`
exit with 1 if a definition has mistakes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_remote_ci import exit_codes
from pytest_remote_ci.cli import plan_view, runs
from pytest_remote_ci.cli.context import Failure, add_verbose, connected, print_line, say, settings
from pytest_remote_ci.config.config import project_root
from pytest_remote_ci.errors import ConfigError
from pytest_remote_ci.session import pipeline_files
from pytest_remote_ci.session.pipeline_files import Answer, Files, Question
from pytest_remote_ci.wire.control_characters import escaped_json
from pytest_remote_ci.workspace import changed_files

if TYPE_CHECKING:
    from pytest_remote_ci.cli.plan_view import Durations


def add(commands: Any) -> None:
    """Add ``pipeline`` with its sub-commands to those of ``remote-ci``."""
    text = "check pipelines, and show what a run would do"
    parser = commands.add_parser("pipeline", help=text, description=f"{text[0].upper()}{text[1:]}.")
    parts = parser.add_subparsers(dest="part", metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub: argparse.ArgumentParser = parts.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}."
        )
        sub.add_argument("--url", help="address of the runner")
        sub.add_argument("--api-key", metavar="KEY", help="key of the runner")
        add_verbose(sub)
        sub.set_defaults(run=run)
        return sub

    sub = command("check", check, "check the project's pipelines, or those of a file")
    sub.add_argument("file", nargs="?", metavar="FILE", help="a YAML file, or a pyproject.toml")
    sub.add_argument("-f", "--file", dest="named_file", metavar="FILE", help="the same")
    sub = command("dry-run", dry_run, "show the jobs of a run, in order, without running them")
    add_pipeline(sub)
    sub.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    add_choice(sub)
    runs.add(command, add_pipeline, add_choice)


def add_pipeline(sub: argparse.ArgumentParser) -> None:
    """Add the options that name the pipeline to plan; `plan_for` reads them."""
    which = sub.add_mutually_exclusive_group()
    which.add_argument(
        "what", nargs="?", metavar="NAME|FILE", help="the pipeline; not needed when there is one"
    )
    which.add_argument("-p", "--pipeline", dest="named", metavar="NAME", help="the pipeline")
    sub.add_argument("-f", "--file", dest="named_file", metavar="FILE", help="the file that defines it")


def add_choice(sub: argparse.ArgumentParser) -> None:
    """Add the options that restrict a run to some jobs; `choice` reads them."""
    sub.add_argument("--stage", metavar="S", action="append", help="only this stage, with what its jobs need")
    sub.add_argument("--job", metavar="J", action="append", help="only this job, with what it needs")
    sub.add_argument("--changed-since", metavar="REV", help="leave out jobs for which nothing changed since")
    sub.add_argument("--tag", metavar="TAG", help="the tag that the run is for")


def choice(options: argparse.Namespace, project: Path, name: str | None) -> dict[str, Any]:
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
    for name, _ in files:
        print_line(f"Checking pipeline configuration: {name}")
    answer = ask({"files": files}, options)
    errors = tell(answer)
    if not errors and not answer["pipelines"]:
        say(f"{files[0][0]}:1:1: no pipeline is defined here")
        errors = 1
    if errors:
        return _invalid(errors)
    print_line("Pipeline configuration is valid!")
    return exit_codes.OK


def dry_run(options: argparse.Namespace) -> int:
    """Print the plan of a run."""
    is_text = options.format == "text"
    plan = plan_for(options, say_file=is_text)
    if plan is None:
        return exit_codes.FAILED
    show(plan, runs.past_durations(options, str(plan["pipeline"])), is_text=is_text)
    return exit_codes.OK


def plan_for(options: argparse.Namespace, *, say_file: bool = False) -> dict[str, Any] | None:
    """Return the plan for the command line; None if the definition has mistakes, which are printed.

    With `say_file`, print the name of the file, if one is given.
    """
    file: str | None = options.named_file or (options.what if is_file(options.what) else None)
    files = _files(file)
    if files is None:
        return None
    if say_file and file:
        print_line(f"Validating pipeline configuration: {file}")
    name = options.named or (None if file == options.what else options.what)
    project = project_root(Path.cwd(), Path.cwd())
    answer = ask({"files": files, "plan": choice(options, project, name)}, options)
    errors = tell(answer)
    if "plan" not in answer:
        if errors:
            _invalid(errors)
            return None
        raise Failure(answer.get("refused", "there is no plan"), exit_codes.USAGE_ERROR)
    plan: dict[str, Any] = answer["plan"]
    return plan


def show(plan: plan_view.Plan, durations: Durations, *, is_text: bool) -> None:
    """Print a plan; `durations` are those of past runs."""
    path, seconds = plan_view.critical_path(plan, durations)
    if not is_text:
        critical = {"jobs": path, "seconds": seconds} if path else None
        print_line(escaped_json({**plan, "critical_path": critical}, indent=2))
        return
    print_line("Execution Plan:")
    for line in plan_view.tree(plan, durations):
        print_line(line)
    if path:
        print_line(plan_view.critical_line(path, seconds))


def ask(question: Question, options: argparse.Namespace) -> Answer:
    """Return the answer of this machine or of the configured runner. Raises `ConfigError` if there is neither."""

    def ask_runner(question: Question) -> Answer:
        configured = settings(options)
        if configured.url is None:
            raise ConfigError(
                "nothing here can read pipelines: `pip install 'pytest-remote-ci[runner]'`, "
                "or run `remote-ci login` to name a runner that does"
            )
        with connected(configured) as client:
            return client.check_pipelines(question)

    return pipeline_files.ask(question, ask_runner)


def tell(answer: Answer) -> int:
    """Print errors and warnings, one line each; return the number of errors."""
    for line in pipeline_files.problems_in(answer):
        say(line)
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
        say(str(error))
        _invalid(1)
    except ConfigError as error:
        say(f"[Error] {error}")
    return None


def _one_file(name: str) -> Files:
    file = Path(name)
    if file.suffix.lower() not in (*pipeline_files.YAML, ".toml"):
        raise ConfigError(f"File extension must be a YAML file (.yaml or .yml), or .toml: {name}")
    text = pipeline_files.read(file)
    if not pipeline_files.is_in_project(file):
        raise ConfigError(
            f"{name} is in no project: a run sends the git work tree, or the project, around it"
        )
    return [(file.as_posix(), text)]


def _all_files() -> Files:
    cwd = Path.cwd()
    return pipeline_files.find_some(project_root(cwd, cwd), cwd)


def _invalid(errors: int) -> int:
    say(f"[ERROR] Invalid pipeline: {errors} error{'s' if errors > 1 else ''}")
    return exit_codes.FAILED
