"""The ``remote-ci`` command, for scripts and for use outside of a pytest session.

Exit codes are in `pytest_remote_ci.exit_codes`. Results go to stdout, messages about them to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_remote_ci import __version__, exit_codes
from pytest_remote_ci.artifacts import artifact_folder
from pytest_remote_ci.cli import jobs, pipelines
from pytest_remote_ci.cli.context import (
    Failure,
    Parser,
    add_verbose,
    connected,
    log_shown,
    print_line,
    say,
    settings,
    unless_key,
)
from pytest_remote_ci.client import embedded_runner
from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.session.remote_job import RemoteJob
from pytest_remote_ci.session.submission import CommandSubmission
from pytest_remote_ci.session.submit import held_interrupts
from pytest_remote_ci.session.submit import submit as submit_flow
from pytest_remote_ci.terminal.ansi import silence_stdout
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire import protocol
from pytest_remote_ci.wire.control_characters import escaped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_remote_ci.client.client import Client


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Usage errors raise SystemExit, as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["pytest"]:  # all further arguments are pytest's
        from pytest_remote_ci.cli import run_pytest

        return run_pytest.run(words[1:])
    parser = _parser()
    split = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:split])
    options.pytest_args = words[split + 1 :]
    if options.command is None:
        parser.print_help()
        return exit_codes.USAGE_ERROR
    if options.pytest_args and options.command != "submit":
        parser.error("only submit takes arguments after --")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        with log_shown(options):
            return run(options)
    except (Failure, ClientError) as error:
        say(f"Error: {_with_help(error)}")
        return error.exit_code
    except KeyboardInterrupt:
        say("\nInterrupted.")
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return exit_codes.FAILED
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        # The runner's answers are used without a full check. A traceback would print their texts unescaped.
        say(f"Error: an answer of the runner makes no sense here: {escaped(_place_of(error))}")
        return exit_codes.NO_VERDICT


def _place_of(error: BaseException) -> str:
    """Return the error and its location in the code, for a bug report."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"
    return f"{type(error).__name__}: {error}"[:500] + place


def submit(options: argparse.Namespace) -> int:
    """Send the project of the current directory and follow its job."""
    display = Display(StatusLine(), is_strict=True)
    jobs: list[RemoteJob] = []
    with held_interrupts(display) as interrupts, ExitStack() as resources:
        parts = CommandSubmission(
            settings(options),
            display,
            resources,
            options.pytest_args,
            is_dry_run=options.dry_run,
            is_async=options.asynchronous,
        )
        sent = parts.job_options()

        def connect(client: Client) -> RemoteJob:
            job = RemoteJob(client, display, interrupts, options=sent)
            job.keep(parts.folder, parts.reports, sent.artifacts)
            jobs.append(job)
            return job

        def follow(job: RemoteJob) -> int:
            display.say(f"You can reconnect from another terminal with: remote-ci wait {job.job_id}\n")
            return _followed(job, display)

        def on_cancelled() -> None:
            display.say("Job cancelled by user.")

        with _prefixed(
            "Error submitting to CI server",
            display,
            on_stdout=not options.asynchronous,
            is_concerned=lambda: bool(jobs),
        ):
            return submit_flow(parts, connect, follow, on_cancelled=on_cancelled)


def wait(options: argparse.Namespace) -> int:
    """Show a job until it ends."""
    display = Display(StatusLine(), is_strict=True)
    with Interrupts() as interrupts:
        try:
            with (
                connected(settings(options)) as client,
                _prefixed("Error waiting for job", display, on_stdout=True),
            ):
                run = RemoteJob(client, display, interrupts, _is_result, job_id=options.id)
                return _followed(run, display, from_beginning=options.all)
        except KeyboardInterrupt:
            display.say(f"Stopped waiting for job {options.id}.")
            display.say(
                f"The job continues to run on the runner. Use 'remote-ci wait {options.id}' to reconnect."
            )
            return exit_codes.INTERRUPTED


def cancel(options: argparse.Namespace) -> int:
    """Cancel a job."""
    with connected(settings(options)) as client:
        if not client.cancel(options.id):
            raise Failure(f"Job {options.id} is over already.")
    print_line(f"Job {options.id} is being cancelled.")
    return exit_codes.OK


def login(options: argparse.Namespace) -> int:
    """Ask for address and key, check them, and store them in the user file."""
    from pytest_remote_ci.client.client import Client

    try:
        default = embedded_runner.DEFAULT_URL
        url = options.url or input(f"Address of the runner [{default}]: ").strip() or default
        key = options.api_key or _ask_for_key()
    except EOFError:
        raise Failure(
            "nothing was entered; give --url and --api-key instead", exit_codes.USAGE_ERROR
        ) from None
    with Client(url, key) as client:
        client.verify()
    file = configuration.write_user_file(url, key)
    print_line(f"✓ {url} takes the key. Both are stored in {file}.")
    return exit_codes.OK


def _ask_for_key() -> str:
    """Read the key: without echo from a terminal, as a plain line from a pipe. Raises `EOFError`."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("API key (not shown): ").strip()
    return input("API key: ").strip()


def _is_result(event: dict[str, Any]) -> None:
    """Move the runner's own answer to `wait` to stdout, as in the reference system."""
    if event.get("data") == "Job already completed.\n":
        event["stream"] = "terminal"


def _followed(run: RemoteJob, display: Display, *, from_beginning: bool = True) -> int:
    complete = run.finish(from_beginning=from_beginning)
    reason = complete.get("reason")
    if reason:
        display.say(escaped(f"Job {complete.get('status', 'ended')}: {reason}"))
    return exit_codes.of_job(complete)


@contextmanager
def _prefixed(
    what: str, display: Display, *, on_stdout: bool, is_concerned: Callable[[], bool] = lambda: True
) -> Iterator[None]:
    """Report errors in the reference system's wording; with `on_stdout`, where the job's log goes.

    Errors pass as they are unless `is_concerned`.
    """
    try:
        yield
    except ClientError as error:
        if not is_concerned():
            raise
        failure = unless_key(error, f"{what}: {error}")
        if failure is error or not on_stdout:
            raise failure from error
        display.show({"type": "log", "data": f"{what}: {error}\n"})
        raise SystemExit(error.exit_code) from error


def _with_help(error: Exception) -> Exception:
    if not isinstance(error, ClientError):
        return error
    from pytest_remote_ci.client.client import AuthenticationFailed, with_key_help

    return with_key_help(error) if isinstance(error, AuthenticationFailed) else error


def _parser() -> argparse.ArgumentParser:
    parser = Parser("remote-ci", description="Run a project's tests on a remote runner.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], help_text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        sub.add_argument("--url", help="address of the runner")
        sub.add_argument("--api-key", metavar="KEY", help="key of the runner")
        add_verbose(sub)
        sub.set_defaults(run=run)
        return sub

    sub = command("submit", submit, "send this project and show its tests' output")
    sub.usage = "remote-ci submit [test] [options] [-- PYTEST_ARGS]"
    sub.add_argument("what", nargs="?", choices=["test"], default="test", help="what to run: the tests")
    sub.add_argument(
        "--async", dest="asynchronous", action="store_true", help="print the job's id and return"
    )
    sub.add_argument(
        "--dry-run", action="store_true", help="list the files that would be sent, largest first"
    )
    sub.add_argument(
        "--artifact",
        metavar="GLOB",
        action="append",
        help="keep files that match and bring them here; repeatable",
    )
    sub.add_argument(
        "--artifacts-dir", metavar="DIR", help=f"where they go (default: {artifact_folder.NAME}/<job>)"
    )
    commands.add_parser(
        "pytest", help="pytest --remote-ci; plugins that only the project has may be missing here"
    )
    sub = command("wait", wait, "show a job until its end")
    sub.add_argument("id", help="the job")
    sub.add_argument("--all", action="store_true", help="from its beginning")
    sub = command("list", jobs.list_jobs, "list your jobs, newest first")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub.add_argument("--status", choices=protocol.STATUSES, help="only those")
    sub.add_argument("--limit", type=_count, metavar="N", help="at most so many")
    sub = command("show", jobs.show, "show what is known about a job")
    sub.add_argument("id", help="the job")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub.add_argument("--tests", action="store_true", help="and what became of its tests, the worst first")
    sub = command("cancel", cancel, "ask for a job's end")
    sub.add_argument("id", help="the job")
    sub = command("artifacts", jobs.artifacts, "fetch what a job left behind")
    sub.add_argument("id", help="the job")
    sub.add_argument(
        "-d",
        "--dir",
        dest="artifacts_dir",
        metavar="DIR",
        help=f"where to (default: {artifact_folder.NAME}/<job>)",
    )
    sub.add_argument("--list", action="store_true", help="only list it: bytes and names")
    sub.add_argument("--json", action="store_true", help="only list it, as JSON")
    sub = command("tests", jobs.tests, "say what your newest runs of this project tell about its tests")
    which = sub.add_mutually_exclusive_group()
    for kind, text in (
        ("flaky", "those that both passed and failed on the same files"),
        ("slowest", "the slowest first"),
        ("failing-since", "those that fail, and since which run"),
    ):
        which.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=text)
    sub.add_argument("--runs", type=_count, metavar="N", help="how many of the newest runs (default: 50)")
    sub.add_argument("--limit", type=_count, metavar="N", help="at most so many tests (default: 50)")
    sub.add_argument("--everywhere", action="store_true", help="runs of all your projects")
    sub.add_argument("--format", choices=["text", "json"], default="text", help="default: text")
    pipelines.add(commands)
    command("login", login, "store the address and the key of your runner")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
