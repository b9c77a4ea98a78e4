"""The ``remote-ci`` command, for scripts and for use outside of a pytest session.

Exit codes are in `pytest_remote_ci.exit_codes`. Results go to stdout, messages about them to stderr.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_remote_ci import __version__, exit_codes
from pytest_remote_ci.artifacts import artifact_folder
from pytest_remote_ci.cli import completion, jobs, keep, pipeline_runs, pipelines, pull
from pytest_remote_ci.cli.context import (
    Failure,
    Parser,
    add_folder,
    add_job,
    add_json,
    add_runner,
    connected,
    log_shown,
    print_json,
    print_line,
    print_message,
    report_error,
    settings,
)
from pytest_remote_ci.client import embedded_runner
from pytest_remote_ci.config import config as configuration
from pytest_remote_ci.errors import ClientError, describe_os_error
from pytest_remote_ci.session import small_plan
from pytest_remote_ci.session.remote_job import RemoteJob
from pytest_remote_ci.session.submission import CommandSubmission
from pytest_remote_ci.session.submit import held_interrupts
from pytest_remote_ci.session.submit import submit as submit_flow
from pytest_remote_ci.terminal.ansi import silence_stdout
from pytest_remote_ci.terminal.display import Display
from pytest_remote_ci.terminal.interrupts import Interrupts
from pytest_remote_ci.terminal.status_line import StatusLine
from pytest_remote_ci.wire import formats, protocol
from pytest_remote_ci.wire.control_characters import escaped

if TYPE_CHECKING:
    from pytest_remote_ci.client.client import Client
    from pytest_remote_ci.wire.events import Event


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Usage errors raise SystemExit, as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["pytest"]:  # all further arguments are pytest's
        from pytest_remote_ci.cli import run_pytest

        return run_pytest.run(words[1:])
    parser = make_parser()
    completion.offer(parser)
    split = words.index("--") if "--" in words else len(words)
    options, more = parser.parse_known_args(words[:split])
    if options.command == "pull" and not any(word.startswith("-") for word in more):
        options.pattern += more  # argparse takes patterns after an option for unknown arguments
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    options.pytest_args = words[split + 1 :]
    if options.command is None:
        parser.print_help()
        return exit_codes.USAGE_ERROR
    if options.pytest_args and options.command != "submit":
        parser.error("only `submit` takes arguments after --")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        with log_shown(options):
            return run(options)
    except (Failure, ClientError) as error:
        report_error(_with_help(error))
        return error.exit_code
    except KeyboardInterrupt:
        print_message("\nInterrupted.")
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return exit_codes.FAILED
    except OSError as error:  # a full disk, for example
        report_error(describe_os_error(error))
        return exit_codes.NO_VERDICT
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        # Nothing that a runner answers may cause a traceback, which would print its texts unescaped.
        report_error(
            f"This client cannot use an answer of the runner; update the older of the two: {escaped(_place_of(error))}"
        )
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
    display = _display(options)
    with held_interrupts(display) as interrupts, ExitStack() as resources:
        parts = CommandSubmission(
            settings(options),
            display,
            resources,
            options.pytest_args,
            is_dry_run=options.dry_run,
            is_async=options.asynchronous,
            as_json=options.json,
        )
        sent = parts.job_options()
        plan = small_plan.make(parts.settings, sent)
        if plan is not None:
            return pipeline_runs.submit_plan(parts, plan, sent, interrupts, as_json=options.json)
        secrets = {} if parts.is_dry_run else parts.settings.secret_values()

        def connect(client: Client) -> RemoteJob:
            job = RemoteJob(client, display, interrupts, options=sent, secrets=secrets, clock=parts.clock)
            job.keep(parts.folder, parts.reports, sent.artifacts, lambda: parts.updates(sent))
            return job

        def follow(job: RemoteJob) -> int:
            display.print_message(
                f"You can reconnect from another terminal with: remote-ci wait {job.job_id}\n"
            )
            code = _followed(job, display)
            if options.json:
                print_json(job.summary().fields)
            return code

        def on_cancelled() -> None:
            display.print_message("Job cancelled by user.")

        return submit_flow(parts, connect, follow, on_cancelled=on_cancelled)


def wait(options: argparse.Namespace) -> int:
    """Show a job until it ends."""
    display = _display(options)
    with Interrupts() as interrupts:
        try:
            with connected(settings(options)) as client:
                job_id = client.job_id(options.id)
                run = RemoteJob(client, display, interrupts, _as_result, job_id=job_id)
                code = _followed(run, display, from_beginning=options.all)
                if options.json:
                    print_json(client.job(job_id).fields)
                return code
        except KeyboardInterrupt:
            display.print_message(f"Stopped waiting for job {options.id}.")
            display.print_message(
                f"The job continues to run on the runner. Use 'remote-ci wait {options.id}' to reconnect."
            )
            return exit_codes.INTERRUPTED


def cancel(options: argparse.Namespace) -> int:
    """Cancel a job."""
    with connected(settings(options)) as client:
        job_id = client.job_id(options.id)
        if not client.cancel(job_id):
            raise Failure(f"Job {job_id} has already ended")
        if options.json:
            print_json(client.job(job_id).fields)
        else:
            print_line(f"Cancelling job {job_id}.")
    return exit_codes.OK


def login(options: argparse.Namespace) -> int:
    """Ask for address and key, check them, and store them in the user file."""
    from pytest_remote_ci.client.client import Client

    try:
        default = embedded_runner.DEFAULT_URL
        url = options.url or input(f"Address of the runner [{default}]: ").strip() or default
        key = options.api_key or _ask_for_key()
    except EOFError:
        raise Failure("Nothing was entered; use --url and --api-key", exit_codes.USAGE_ERROR) from None
    with Client(url, key) as client:
        client.verify()
    file = configuration.write_user_file(url, key, profile=options.profile)
    print_line(f"✓ {url} accepts the key. Both are stored in {file}.")
    return exit_codes.OK


def _ask_for_key() -> str:
    """Read the key: without echo from a terminal, as a plain line from a pipe. Raises `EOFError`."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("API key (not shown): ").strip()
    return input("API key: ").strip()


def _as_result(event: Event) -> Event:
    """Move the runner's own answer to `wait` to stdout, as in the reference system."""
    return event.with_stream("terminal") if event.text == "Job already completed.\n" else event


def _followed(run: RemoteJob, display: Display, *, from_beginning: bool = True) -> int:
    complete = run.finish(from_beginning=from_beginning)
    if complete.reason:
        display.print_message(escaped(f"Job {complete.status or 'ended'}: {complete.reason}"))
    run.print_timing(complete)
    return exit_codes.of_job(complete)


def _display(options: argparse.Namespace) -> Display:
    """Return the display of a job's output, which goes to stderr if stdout is for JSON."""
    return Display(StatusLine(), is_strict=True, stdout=sys.stderr if options.json else None)


def _with_help(error: Exception) -> Exception:
    if not isinstance(error, ClientError):
        return error
    from pytest_remote_ci.client.client import AuthenticationFailed, with_key_help

    return with_key_help(error) if isinstance(error, AuthenticationFailed) else error


def make_parser() -> argparse.ArgumentParser:
    parser = Parser("remote-ci", description="Run a project's tests on a remote runner.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], help_text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        add_runner(sub)
        sub.set_defaults(run=run)
        return sub

    sub = command("submit", submit, "run the project's tests and show their output")
    sub.usage = "remote-ci submit [test] [options] [-- PYTEST_ARGS]"
    sub.add_argument(
        "what", nargs="?", choices=["test"], default="test", help="what to run (always the tests)"
    )
    sub.add_argument("--async", dest="asynchronous", action="store_true", help="print the job's id and exit")
    sub.add_argument(
        "--dry-run", action="store_true", help="list the files that would be sent, largest first"
    )
    sub.add_argument(
        "--artifact",
        metavar="GLOB",
        action="append",
        help="fetch files that match when the job ends; repeatable",
    )
    add_folder(sub, "--artifacts-dir", default=f"{artifact_folder.NAME}/JOB")
    add_json(sub, "print the job as JSON when it ends (its output goes to stderr)")
    commands.add_parser(
        "pytest", help="like pytest --remote-ci, also if plugins of the project are not installed here"
    )
    sub = command("wait", wait, "show a job's output until it ends")
    add_job(sub)
    sub.add_argument("--all", action="store_true", help="show the output from the beginning")
    add_json(sub, "print the job as JSON when it ends (its output goes to stderr)")
    sub = command("list", jobs.list_jobs, "list your jobs, newest first")
    sub.add_argument("--status", choices=protocol.STATUSES, help="only jobs with this status")
    sub.add_argument(
        "--search", metavar="TEXT", help="only jobs whose name contains TEXT, or whose id begins so"
    )
    sub.add_argument(
        "--since",
        type=_moment,
        metavar="TIME",
        help="only jobs submitted since then: 2h, 7d, 2026-01-31 or 2026-01-31T12:00",
    )
    many = sub.add_mutually_exclusive_group()
    many.add_argument("--limit", type=_count, metavar="N", help=f"at most N jobs (default: {jobs.NEWEST})")
    many.add_argument("--all", action="store_true", help="all jobs")
    add_json(sub)
    sub = command("logs", jobs.logs, "show a job's output so far")
    add_job(sub)
    how = sub.add_mutually_exclusive_group()
    how.add_argument("-f", "--follow", action="store_true", help="go on until the job ends")
    add_json(how)
    sub = command("show", jobs.show, "show the details of a job")
    add_job(sub)
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--tests", action="store_true", help="also show the result of each test, worst first")
    how.add_argument("--timing", action="store_true", help="only show how long each phase of the job took")
    add_json(sub)
    sub = command("cancel", cancel, "cancel a job")
    add_job(sub)
    add_json(sub)
    sub = command(
        "pull", pull.pull, "bring the changes that a job made to files of the project to their places"
    )
    add_job(sub)
    sub.add_argument(
        "pattern", metavar="PATTERN", nargs="*", default=[], help="only files that match, such as tests/*.py"
    )
    sub.add_argument("--dry-run", action="store_true", help="only list the files")
    sub.add_argument(
        "--force", action="store_true", help="also replace files that changed here since they were sent"
    )
    add_json(sub)
    sub = command("artifacts", jobs.artifacts, "fetch a job's artifacts")
    add_job(sub)
    add_folder(sub, default=f"{artifact_folder.NAME}/JOB")
    sub.add_argument("--list", action="store_true", help="list sizes and paths, fetch nothing")
    add_json(sub, "list them as JSON, fetch nothing")
    sub = command("tests", jobs.tests, "show statistics about this project's tests from your newest jobs")
    which = sub.add_mutually_exclusive_group()
    for kind, text in (
        ("flaky", "tests that both passed and failed on the same files"),
        ("slowest", "the slowest tests first"),
        ("failing-since", "tests that fail now, and the job in which each first failed"),
    ):
        which.add_argument(f"--{kind}", dest="kind", action="store_const", const=kind, help=text)
    sub.add_argument("--runs", type=_count, metavar="N", help="number of newest jobs (default: 50)")
    sub.add_argument("--limit", type=_count, metavar="N", help="at most N tests (default: 50)")
    sub.add_argument("--everywhere", action="store_true", help="jobs of all your projects")
    add_json(sub)
    keep.add(commands)
    pipelines.add(commands)
    command("login", login, "store the address and key of your runner")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000")
    return number


def _moment(text: str) -> str:
    """Return a time in the API's form from a time in local time, or from the time that has passed since."""
    passed = formats.parse_duration(text)
    try:
        if passed is not None:
            moment = datetime.now(timezone.utc) - timedelta(seconds=passed)
        else:
            moment = datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time such as 2h, 7d, 2026-01-31 or 2026-01-31T12:00"
        ) from None
    return moment.isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    raise SystemExit(main())
