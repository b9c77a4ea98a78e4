"""``ci-runner uninstall``: remove what a runner has on its machine outside of the data directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ci_runner import programs
from ci_runner.admin.console import Console
from ci_runner.controller.engine import Engine, RemovableEngine
from ci_runner.controller.loop import only_one
from ci_runner.errors import RunnerError, SettingsError
from ci_runner.plugins.manager import Plugins
from ci_runner.settings.groups import Settings


def uninstall(
    settings: Settings, console: Console, *, dry_run: bool, yes: bool, as_json: bool = False
) -> int:
    """List what the engine has of this runner and, once that is confirmed, remove it; return the exit code.

    `as_json`: print one JSON object instead of lines.

    Raises `SettingsError` if there is no runner, `Busy` while its controller runs, and `EngineUnavailable`.
    """
    folder = settings.storage.data_dir
    if not (folder / "install-id").is_file():
        raise SettingsError(f"{folder}: no runner was started here; name its folder with --data-dir")
    try:
        with only_one(folder):
            return _remove(settings, console, dry_run=dry_run, yes=yes, as_json=as_json)
    except RunnerError as error:
        raise programs.as_busy(error) from error


def _remove(settings: Settings, console: Console, *, dry_run: bool, yes: bool, as_json: bool) -> int:
    name = settings.reconcile.engine
    plugins = Plugins.load()
    engine = programs.make_engine("docker" if name == "auto" else name, settings, plugins)
    try:
        if as_json:
            return _remove_quietly(engine, console, dry_run=dry_run, yes=yes)
        if not isinstance(engine, RemovableEngine):
            console.line(f"The engine {engine.name} keeps nothing outside of the data directory.")
            return _finish(settings, console)
        found = engine.belongings()
        for line in _lines(found):
            console.line(line)
        if not any(found.values()):
            console.line("The engine has nothing of this runner.")
        elif dry_run:
            console.line("Nothing was removed (--dry-run).")
            return 0
        else:
            if not yes:
                console.confirm("Remove all of this? Jobs that run are lost.")
            engine.uninstall()
            console.line("✓ Removed")
        return _finish(settings, console)
    finally:
        engine.close()
        plugins.close()


def _remove_quietly(engine: Engine, console: Console, *, dry_run: bool, yes: bool) -> int:
    """Do the same with JSON as the only output."""
    found: Mapping[str, Sequence[str]] = {}
    removed = False
    if isinstance(engine, RemovableEngine):
        found = engine.belongings()
        if any(found.values()) and not dry_run:
            if not yes:
                console.confirm("Remove all that the engine has of this runner? Jobs that run are lost.")
            engine.uninstall()
            removed = True
    console.json({"found": {kind: list(names) for kind, names in found.items()}, "removed": removed})
    return 0


def _lines(found: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for kind, names in found.items():
        for name in names:
            yield f"{kind:<15} {name}"


def _finish(settings: Settings, console: Console) -> int:
    console.line(
        f"Results, keys and caches are in {settings.storage.data_dir}; remove that folder to delete them."
    )
    return 0
