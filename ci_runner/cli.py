"""``ci-runner serve | reconcile | admin | doctor | …``: the command line, where all parts are put together.

Options become `Settings` here, once; the programs themselves are in `ci_runner.programs`. Each command imports only
what it needs: ``admin`` loads no HTTP and no engine. Exit codes: 0 ended as requested, 1 failed (one line on stderr),
2 wrong usage or settings, 75 another one is already running, 78 the database cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

from ci_runner import logs
from ci_runner.errors import RunnerError, SettingsError
from ci_runner.settings.groups import LogSettings
from ci_runner.settings.loader import SYSTEM_FILE, Loaded, add_arguments, load
from ci_runner.storage.data_dir import Busy
from pytest_remote_ci import __version__
from pytest_remote_ci.wire.control_characters import escaped

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
#: sysexits.h: EX_TEMPFAIL (a second controller), EX_CONFIG (a database that cannot be used).
EXIT_BUSY: Final = 75
EXIT_DATABASE: Final = 78

_log = logging.getLogger("ci_runner")

_DESCRIPTION: Final = (
    "The runner of pytest --remote-ci: receives projects, runs their tests, stores the results."
)
_EPILOG: Final = """\
Start a runner on this machine: ci-runner serve --reconcile
Create a user and a key:        ci-runner admin user create --name Ann --email ann@example.org
                                ci-runner admin key create --email ann@example.org --name laptop
Find problems:                  ci-runner doctor
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    # Not 077: files mounted into containers must be readable for the job's uid. The data directory itself is 0700,
    # and so protects everything below it; the database and keys are created 0600.
    os.umask(0o022)
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        is_completing = "_ARGCOMPLETE" in os.environ  # a shell asks for words
        parser = make_parser(with_admin="admin" in words or is_completing)
        if is_completing:
            with contextlib.suppress(ImportError):
                import argcomplete

                argcomplete.autocomplete(parser)
        args = parser.parse_args(words)
        return cast(Callable[[argparse.Namespace], int], args.program)(args)
    except SettingsError as error:
        return _complain(error, EXIT_USAGE)
    except Busy as error:
        return _complain(error, EXIT_BUSY)
    except RunnerError as error:
        return _complain(error, getattr(error, "exit_code", EXIT_FAILED))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except ModuleNotFoundError as error:
        return _complain(
            f"{error}: install the runner with pip install 'pytest-remote-ci[runner]'", EXIT_FAILED
        )
    except Exception as error:  # one line for the operator; the traceback only with --log-level DEBUG
        _log.debug("fatal error", exc_info=True)
        return _complain(f"{type(error).__name__}: {error}", EXIT_FAILED)


def _complain(error: object, code: int) -> int:
    text = escaped(" ".join(str(error).split()))
    print(f"ci-runner: {logs.hide_keys(text)}", file=sys.stderr)  # noqa: T201  # an error, for the terminal
    return code


def make_parser(*, with_admin: bool = True) -> argparse.ArgumentParser:
    """Return the parser of the whole command line.

    Without `with_admin`, the commands below ``admin`` (and the import of the store) are left out.
    """
    anywhere = _options("log", "storage")
    anywhere.add_argument(
        "--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="TOML file to read"
    )
    parser = argparse.ArgumentParser(
        prog="ci-runner",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[anywhere],
    )
    parser.add_argument("--version", action="version", version=f"ci-runner {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, program: Callable[[argparse.Namespace], int], text: str, *groups: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=text, description=text, parents=[anywhere, _options(*groups)]
        )
        command.set_defaults(program=program)
        return command

    serve = add("serve", _serve, "Serve the HTTP API.", "serve", "reconcile", "environments")
    serve.add_argument(
        "--announce",
        type=Path,
        metavar="FILE",
        help="write url, pid, … (JSON) to this file when the server is ready",
    )
    serve.add_argument(
        "--embedded", action="store_true", help="private runner of this user, as pytest starts it"
    )
    add("reconcile", _reconcile, "Run jobs: the controller.", "reconcile", "environments")
    doctor = add(
        "doctor",
        _doctor,
        "Show the state of this installation, its problems and their remedies.",
        "serve",
        "reconcile",
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    _add_image(commands, anywhere)
    status = add(
        "status",
        _status,
        "Show what the runner does: queue, running jobs, engine, disk, last errors.",
        "serve",
        "reconcile",
    )
    status.add_argument("--json", action="store_true", help="print JSON")
    status.add_argument("--watch", action="store_true", help="print it every 2 s until Ctrl-C")
    uninstall = add(
        "uninstall",
        _uninstall,
        "Remove what the runner has at the engine: containers, networks, images, firewall rules.",
        "serve",
        "reconcile",
    )
    uninstall.add_argument("--dry-run", action="store_true", help="only list it")
    uninstall.add_argument("--yes", action="store_true", help="do not ask")
    uninstall.add_argument("--json", action="store_true", help="print JSON")
    admin = commands.add_parser("admin", help="Manage users and API keys.", parents=[anywhere])
    admin.set_defaults(program=_admin)
    if with_admin:
        from ci_runner.admin.cli import add_parsers

        add_parsers(admin.add_subparsers(metavar="SUBJECT", required=True))
        _spread(admin, anywhere)
    return parser


def _options(*groups: str) -> argparse.ArgumentParser:
    """Return a parent parser with the flags of these settings groups."""
    parent = argparse.ArgumentParser(add_help=False)
    for name in groups:
        add_arguments(parent.add_argument_group(f"{name} (see docs/reference/settings.md)"), (name,))
    return parent


def _spread(parser: argparse.ArgumentParser, anywhere: argparse.ArgumentParser) -> None:
    """Allow the options of `anywhere` also after every command below `parser`."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in set(action.choices.values()):
                child._add_container_actions(anywhere)
                _spread(child, anywhere)


def _add_image(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], anywhere: argparse.ArgumentParser
) -> None:
    from ci_runner.base_image import build as images

    image = commands.add_parser("image", help="Make base images.", parents=[anywhere])
    actions = image.add_subparsers(metavar="ACTION", required=True)
    build = actions.add_parser(
        "build",
        help="make a base image from Debian packages (needs root)",
        description="Make a base image from Debian packages, without an image registry. Needs root.",
        parents=[anywhere],
    )
    build.add_argument("--tag", default=images.DEFAULT_TAG, help="name of the image [%(default)s]")
    build.add_argument("--suite", default=images.DEFAULT_SUITE, help="Debian release [%(default)s]")
    build.add_argument("--mirror", default=images.DEFAULT_MIRROR, metavar="URL", help="[%(default)s]")
    build.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="VERSION|PATH",
        help="CPython of this machine to add to the image: 3.12 (found in pyenv, uv, /usr/local) or its path; "
        "may be repeated",
    )
    build.add_argument(
        "--with-compiler",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="gcc, headers and git, for dependencies that must be built [yes]",
    )
    build.add_argument(
        "--scratch", type=Path, metavar="FOLDER", help="where to build (about 1 GB) [/var/tmp]"
    )
    build.add_argument("--force", action="store_true", help="build even if the image is up to date")
    build.set_defaults(program=_image_build)


def _load(
    args: argparse.Namespace,
    *,
    defaults: Mapping[str, tuple[object, str]] | None = None,
    system_file: Path | None = SYSTEM_FILE,
) -> Loaded:
    """Return the settings of this command, and set up the log."""
    try:
        loaded = load(
            vars(args),
            os.environ,
            config=getattr(args, "config", None),
            defaults=defaults,
            system_file=system_file,
        )
    except SettingsError:
        logs.configure(LogSettings())
        raise
    logs.configure(loaded.settings.log)
    return loaded


def _serve(args: argparse.Namespace) -> int:
    from ci_runner import embedded, programs

    if not args.embedded:
        return programs.serve(_load(args), announce=args.announce)
    if args.announce is None:
        raise SettingsError("--embedded needs --announce FILE, which gets the key")
    forced, defaults = embedded.layers(vars(args), os.environ)
    loaded = _load(argparse.Namespace(**{**vars(args), **forced}), defaults=defaults, system_file=None)
    return embedded.serve(loaded, announce=args.announce)


def _reconcile(args: argparse.Namespace) -> int:
    from ci_runner import programs

    return programs.reconcile(_load(args))


def _admin(args: argparse.Namespace) -> int:
    from ci_runner.admin.cli import run
    from ci_runner.programs import open_store

    loaded = _load(args)
    with open_store(loaded.settings) as store:
        return run(args, store, sys.stdout, sys.stderr)


def _doctor(args: argparse.Namespace) -> int:
    from ci_runner import doctor, programs
    from ci_runner.base_image import build as images

    loaded = _load(args)
    with programs.probing_engine(loaded.settings) as make_engine:
        findings = doctor.collect(loaded, make_engine, images.built)
    return doctor.show(findings, sys.stdout, as_json=args.json)


def _status(args: argparse.Namespace) -> int:
    from ci_runner import status
    from ci_runner.admin.console import Console
    from ci_runner.model.job import utcnow
    from ci_runner.programs import open_store

    settings = _load(args).settings
    if not settings.storage.database_path.is_file():
        raise SettingsError(
            f"{settings.storage.database_path}: no such file; name the folder with --data-dir"
        )
    console = Console(sys.stdout, sys.stderr, sys.stdin)
    with open_store(settings) as store:
        return status.show(
            lambda: status.collect(store, settings, utcnow()), console, as_json=args.json, watch=args.watch
        )


def _uninstall(args: argparse.Namespace) -> int:
    from ci_runner.admin.console import Console
    from ci_runner.uninstall import uninstall

    console = Console(sys.stdout, sys.stderr, sys.stdin)
    return uninstall(_load(args).settings, console, dry_run=args.dry_run, yes=args.yes, as_json=args.json)


def _image_build(args: argparse.Namespace) -> int:
    from ci_runner.base_image import build as images
    from ci_runner.base_image import pythons

    _load(args)
    installations = tuple(pythons.find(wanted) for wanted in args.python)
    recipe = images.Recipe(args.tag, args.suite, args.mirror, args.with_compiler, installations)

    def report(line: str) -> None:
        print(escaped(line), flush=True)  # noqa: T201  # progress, for the terminal

    images.build(recipe, report, force=args.force, scratch=args.scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
