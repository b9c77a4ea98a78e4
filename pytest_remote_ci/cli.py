"""The ``remote-ci`` command: for scripts, and for people outside of a pytest session.

Exit codes are those of the reference system: 0 when the tests passed, else 1; 2 for usage errors; 130 after Ctrl-C.
(`pytest --remote-ci` ends with pytest's own.) Results go to stdout, words about them to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_remote_ci import __version__, arguments, embedded, pipelines_cli, scm, wire
from pytest_remote_ci import config as configuration
from pytest_remote_ci.console import Failure
from pytest_remote_ci.display import Display, local_color
from pytest_remote_ci.errors import ClientError
from pytest_remote_ci.follow import RemoteRun
from pytest_remote_ci.interrupts import Interrupts
from pytest_remote_ci.progress import StatusLine
from pytest_remote_ci.terminal import is_terminal, silence_stdout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_remote_ci.client import Client
    from pytest_remote_ci.config import Config

OK, FAILED, INTERRUPTED = 0, 1, 130

_COLUMNS = (("JOB ID", 38), ("STATUS", 12), ("START TIME", 22), ("END TIME", 22), ("SUCCESS", 8))
_RULE = "-" * 110


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Usage errors raise SystemExit(2), as argparse does."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    split = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:split])
    options.pytest_args = words[split + 1 :]
    if options.command is None:
        parser.print_help()
        return FAILED
    if options.pytest_args and options.command != "submit":
        parser.error("only submit takes arguments after --")
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (Failure, ClientError) as error:
        _say(f"Error: {_with_help(error)}")
        return FAILED
    except KeyboardInterrupt:
        _say("\nInterrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return FAILED


def submit(options: argparse.Namespace) -> int:
    """Send the project of the current directory and follow its job."""
    display = Display(StatusLine())
    with Interrupts() as interrupts:
        run: RemoteRun | None = None
        try:
            settings = _settings(options)
            place = arguments.find_place(configuration.project_root(Path.cwd(), Path.cwd()), Path.cwd())
            from pytest_remote_ci import workspace

            def collect() -> workspace.Workspace:
                return workspace.collect(place.root, include=settings.include, exclude=settings.exclude)

            found = collect()
            if options.dry_run:
                for text in found.listing():
                    _print(text)
                return OK
            sent = _submit_options(settings, place, options.pytest_args)
            with _connected(settings) as client:
                run = RemoteRun(client, display, interrupts)
                with _prefixed("Error submitting to CI server", display, on_stdout=not options.asynchronous):
                    job_id = run.submit(found, sent, again=collect)
                    if options.asynchronous:
                        _print(f"Job submitted: {job_id}")
                        return OK
                    display.say(f"Job ID: {job_id}")
                    display.say(f"You can reconnect from another terminal with: remote-ci wait {job_id}\n")
                    return _followed(run, display)
        except KeyboardInterrupt:
            if run is not None:
                run.cancel()
            display.say("Job cancelled by user.")
            return INTERRUPTED
        except BrokenPipeError:
            if run is not None:
                run.abandon()
            raise


def wait(options: argparse.Namespace) -> int:
    """Show a job until its end."""
    display = Display(StatusLine())
    with Interrupts() as interrupts:
        try:
            with (
                _connected(_settings(options)) as client,
                _prefixed("Error waiting for job", display, on_stdout=True),
            ):
                run = RemoteRun(client, display, interrupts, _is_result, job_id=options.id)
                return _followed(run, display, from_beginning=options.all)
        except KeyboardInterrupt:
            display.say(f"Stopped waiting for job {options.id}.")
            display.say(
                f"The job continues to run on the runner. Use 'remote-ci wait {options.id}' to reconnect."
            )
            return INTERRUPTED


def list_jobs(options: argparse.Namespace) -> int:
    """Print the jobs of the key's owner, newest submission first."""
    with _connected(_settings(options)) as client:
        try:
            jobs = client.jobs(status=options.status, limit=options.limit)
        except ClientError as error:
            raise _unless_key(error, f"Error fetching jobs from CI server: {error}") from error
    if options.json:
        _print(json.dumps(jobs, indent=2))
    elif not jobs:
        _print("No jobs found.")
    else:
        _print(" ".join(f"{title:<{width}}" for title, width in _COLUMNS).rstrip())
        _print(_RULE)
        for job in jobs:
            _print(
                " ".join(
                    f"{cell:<{width}}" for cell, (_, width) in zip(_cells(job), _COLUMNS, strict=True)
                ).rstrip()
            )
    return OK


def show(options: argparse.Namespace) -> int:
    """Print all that is known about a job."""
    with _connected(_settings(options)) as client:
        job = client.job(options.id)
    if options.json:
        _print(json.dumps(job, indent=2))
        return OK
    for name, value in job.items():
        if name.endswith(("_time", "_at")):
            value = _moment(value)
        elif isinstance(value, dict):
            value = ", ".join(f"{count} {outcome}" for outcome, count in value.items())
        if value not in (None, ""):
            _print(f"{name.replace('_', ' ') + ':':<16}{value}")
    return OK


def cancel(options: argparse.Namespace) -> int:
    """Ask for a job's end."""
    with _connected(_settings(options)) as client:
        if not client.cancel(options.id):
            raise Failure(f"Job {options.id} is over already.")
    _print(f"Job {options.id} is being cancelled.")
    return OK


def login(options: argparse.Namespace) -> int:
    """Ask for address and key, try them, and store them in the user file."""
    from pytest_remote_ci.client import Client

    try:
        default = embedded.DEFAULT_URL
        url = options.url or input(f"Address of the runner [{default}]: ").strip() or default
        key = options.api_key or _ask_for_key()
    except EOFError:
        raise Failure("nothing was entered; give --url and --api-key instead") from None
    with Client(url, key) as client:
        client.verify()
    file = configuration.write_user_file(url, key)
    _print(f"✓ {url} takes the key. Both are stored in {file}.")
    return OK


def _ask_for_key() -> str:
    """From the terminal without showing it; from a pipe as it comes. Raises `EOFError`."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass("API key (not shown): ").strip()
    return input("API key: ").strip()


def _is_result(event: dict[str, Any]) -> None:
    """What the runner itself answers to `wait` belongs on stdout, as in the reference system."""
    if event.get("data") == "Job already completed.\n":
        event["stream"] = "terminal"


def _followed(run: RemoteRun, display: Display, *, from_beginning: bool = True) -> int:
    complete = run.follow(from_beginning=from_beginning)
    reason = complete.get("reason")
    if reason:
        display.say(f"Job {complete.get('status', 'ended')}: {reason}")
    return OK if complete.get("success") else FAILED


@contextmanager
def _prefixed(what: str, display: Display, *, on_stdout: bool) -> Iterator[None]:
    """Errors in the reference system's words; a stream's go where its log goes."""
    try:
        yield
    except ClientError as error:
        failure = _unless_key(error, f"{what}: {error}")
        if failure is error or not on_stdout:
            raise failure from error
        display.show({"type": "log", "data": f"{what}: {error}\n"})
        raise SystemExit(FAILED) from error


def _unless_key(error: ClientError, text: str) -> Exception:
    from pytest_remote_ci.client import AuthenticationFailed

    return error if isinstance(error, AuthenticationFailed) else Failure(text)


def _with_help(error: Exception) -> Exception:
    if not isinstance(error, ClientError):
        return error
    from pytest_remote_ci.client import AuthenticationFailed, with_key_help

    return with_key_help(error) if isinstance(error, AuthenticationFailed) else error


def _settings(options: argparse.Namespace) -> Config:
    root = configuration.project_root(Path.cwd(), Path.cwd())
    return configuration.load(root, overrides={"url": options.url, "api-key": options.api_key})


@contextmanager
def _connected(settings: Config) -> Iterator[Client]:
    from pytest_remote_ci.client import Client

    runner = embedded.find(settings, notify=lambda text: _say(f"{text} …"))
    if runner.warning:
        _say(runner.warning)
    with Client(runner.url, runner.key) as client:
        yield client


def _submit_options(settings: Config, place: arguments.Place, given: list[str]) -> wire.SubmitOptions:
    import pytest

    takes_value = arguments.SHORT_WITH_VALUE.__contains__
    options = settings.submit_options(
        root=place.root,
        cwd=place.cwd,
        args=arguments.forward(given, place, takes_value) or ["-v"],
        pytest_version=pytest.__version__,
        scm_version=scm.version(place.root),
        color=local_color("auto", os.environ, is_terminal(sys.stdout)),
        columns=shutil.get_terminal_size().columns,
    )
    return replace(options, records=True)  # for `pytest --remote-ci-replay`


def _cells(job: dict[str, Any]) -> tuple[str, str, str, str, str]:
    success = {True: "✓", False: "✗"}.get(job.get("success"), "-")  # type: ignore[arg-type]  # None, too, has an answer
    return (
        str(job.get("job_id")),
        str(job.get("status")),
        _moment(job.get("start_time")),
        _moment(job.get("end_time")),
        success,
    )


def _moment(text: object) -> str:
    """A time of the API in this machine's time zone."""
    try:
        return (
            datetime.fromisoformat(str(text).replace("Z", "+00:00"))
            .astimezone()
            .strftime("%Y-%m-%d %H:%M:%S")
        )
    except ValueError:
        return "N/A"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("remote-ci", description="Run a project's tests on a remote runner.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], help_text: str
    ) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        sub.add_argument("--url", help="address of the runner")
        sub.add_argument("--api-key", metavar="KEY", help="key of the runner")
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
    sub = command("wait", wait, "show a job until its end")
    sub.add_argument("id", help="the job")
    sub.add_argument("--all", action="store_true", help="from its beginning")
    sub = command("list", list_jobs, "list your jobs, newest first")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub.add_argument("--status", choices=wire.STATUSES, help="only those")
    sub.add_argument("--limit", type=_count, metavar="N", help="at most so many")
    sub = command("show", show, "show what is known about a job")
    sub.add_argument("id", help="the job")
    sub.add_argument("--json", action="store_true", help="as JSON")
    sub = command("cancel", cancel, "ask for a job's end")
    sub.add_argument("id", help="the job")
    pipelines_cli.add(commands)
    command("login", login, "store the address and the key of your runner")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError("must be from 1 to 1000")
    return number


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    raise SystemExit(main())
