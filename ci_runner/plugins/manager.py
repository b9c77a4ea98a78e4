"""Load plugins and call their hooks with types; results are checked before use.

A plugin that cannot be loaded or has an invalid hook prevents the start, with an error that names it. A plugin that
fails later is logged: other plugins and the job continue (unless it would have narrowed the job's container).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Final, TypeAlias

import pluggy

from ci_runner.controller.engine import ContainerSpec, Engine, Limits
from ci_runner.errors import PermanentError, RunnerError, SettingsError
from ci_runner.model.job import Job
from ci_runner.plugins.hookspecs import GROUP, EngineFactory, Hooks
from ci_runner.settings.groups import Settings

_log = logging.getLogger(__name__)

_HOOKS: Final = frozenset(name for name in vars(Hooks) if not name.startswith("_"))
#: The fields that `container_options` may change.
_NARROWABLE: Final = frozenset({"env", "binds", "limits", "network"})


#: Calls a plugin's implementation of a hook with the hook's arguments.
_Implementation: TypeAlias = Callable[..., object]


class Plugins:
    """All plugins of one program; usable from any thread. Call `close` at the end."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        """Start without plugins; `environ` is their configuration (default: this process's environment)."""
        self._environ = os.environ if environ is None else environ
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self._factories: dict[str, EngineFactory] = {}

    @classmethod
    def load(
        cls,
        environ: Mapping[str, str] | None = None,
        *,
        found: Iterable[EntryPoint] | None = None,
    ) -> Plugins:
        """Load the plugins of the entry-point group `ci_runner`, including ours.

        Raises `SettingsError` with the plugin's name.
        """
        plugins = cls(environ)
        for entry in entry_points(group=GROUP) if found is None else found:
            name = f"{entry.name} ({entry.value})"
            try:
                plugin = entry.load()
                plugin = plugin() if isinstance(plugin, type) else plugin
            except Exception as error:
                raise SettingsError(f"plugin {name} cannot be loaded: {error!r}") from error
            plugins.register(plugin, name)
        return plugins

    def register(self, plugin: object, name: str) -> None:
        """Check and configure a plugin and add its engines.

        Raises `SettingsError` with the names of the plugin and the hook.
        """
        _refuse_unmarked(plugin, name)
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            raise SettingsError(f"plugin {name}: {error}; hooks are: {', '.join(sorted(_HOOKS))}") from error
        for implementation in self._of("configure", plugin):
            try:
                implementation(environ=self._environ)
            except RunnerError as error:
                raise SettingsError(f"plugin {name}: {error}") from error
        for implementation in self._of("register_engines", plugin):
            self._register_engines(implementation(), name)

    @property
    def hook(self) -> Plugins:
        """The hooks for the HTTP server: `authenticate` and `job_submitted`."""
        return self

    def names(self) -> list[str]:
        """The names of all plugins, in the order of their registration."""
        return [name for name, _ in self._manager.list_name_plugin()]

    # -- engines
    @property
    def engine_names(self) -> list[str]:
        """The allowed values of the setting `engine`."""
        return sorted(self._factories)

    def engine(self, name: str, settings: Settings, install_id: str) -> Engine:
        """Return a new engine. Raises `SettingsError` for an unknown name."""
        factory = self._factories.get(name)
        if factory is None:
            raise SettingsError(f"engine: unknown engine {name!r}; known: {', '.join(self.engine_names)}")
        return factory(settings, install_id)

    # -- calls
    def job_submitted(self, *, job: Job) -> None:
        """See `Hooks.job_submitted`."""
        self._notify("job_submitted", job=job)

    def job_finished(self, job: Job) -> None:
        """See `Hooks.job_finished`."""
        self._notify("job_finished", job=job)

    def container_options(self, job: Job, spec: ContainerSpec) -> ContainerSpec:
        """Return the spec as narrowed by all plugins. Raises `PermanentError` if one fails or widens it."""
        for plugin, implementation in self._implementations("container_options"):
            try:
                changed = implementation(job=job, spec=spec)
            except RunnerError:
                raise
            except Exception as error:
                _log.exception("plugin %s failed in container_options", plugin)
                raise PermanentError(f"plugin {plugin} failed: {error!r}") from error
            if changed is not None:
                complaint = widening(spec, changed)
                if complaint is not None:
                    raise PermanentError(f"plugin {plugin} may not change a container like this: {complaint}")
                assert isinstance(changed, ContainerSpec)  # or `widening` complains
                spec = changed
        return spec

    def have(self, hook: str) -> bool:
        """Return whether any plugin implements a hook."""
        return bool(self._implementations(hook))

    def authenticate(self, *, credentials: str) -> str | None:
        """See `Hooks.authenticate`; the first result that is not None counts."""
        for plugin, implementation in self._implementations("authenticate"):
            try:
                user = implementation(credentials=credentials)
            except Exception:
                _log.exception("plugin %s failed in authenticate", plugin)
                continue
            if user is not None:
                if isinstance(user, str) and user:
                    return user
                _log.error(
                    "plugin %s: authenticate returned %r, not a user's id or address", plugin, type(user)
                )
        return None

    def close(self) -> None:
        """Call `close` of all plugins: the program ends."""
        self._notify("close")

    # -- helpers
    def _of(self, hook: str, plugin: object) -> list[_Implementation]:
        found = getattr(self._manager.hook, hook).get_hookimpls()
        return [_Adapter(item) for item in found if item.plugin is plugin]

    def _implementations(self, hook: str) -> list[tuple[str, _Implementation]]:
        """Return (plugin's name, callable) in pluggy's order: `tryfirst` first, then the last registered first."""
        found = getattr(self._manager.hook, hook).get_hookimpls()
        return [(item.plugin_name, _Adapter(item)) for item in reversed(found)]

    def _notify(self, hook: str, **arguments: object) -> None:
        for plugin, implementation in self._implementations(hook):
            try:
                implementation(**arguments)
            except Exception:
                _log.exception("plugin %s failed in %s", plugin, hook)

    def _register_engines(self, registered: object, name: str) -> None:
        try:
            # Anything can be registered; what is not iterable raises TypeError.
            pairs = [(str(key), factory) for key, factory in registered]  # type: ignore[attr-defined]
        except (TypeError, ValueError) as error:
            raise SettingsError(
                f"plugin {name}: register_engines must return pairs (name, factory)"
            ) from error
        for key, factory in pairs:
            if not callable(factory):
                raise SettingsError(f"plugin {name}: the factory of engine {key!r} cannot be called")
            if key in self._factories or key == "auto":
                raise SettingsError(f"plugin {name}: there is an engine {key!r} already")
            self._factories[key] = factory


class _Adapter:
    """Calls one implementation with only those of the hook's arguments that it accepts."""

    def __init__(self, implementation: pluggy.HookImpl) -> None:
        self._implementation = implementation

    def __call__(self, **arguments: object) -> object:
        wanted = {name: arguments[name] for name in self._implementation.argnames}
        return self._implementation.function(**wanted)


def _refuse_unmarked(plugin: object, name: str) -> None:
    """Raise `SettingsError` for an unmarked function named like a hook, which pluggy would silently ignore."""
    marked = [attribute for attribute in dir(plugin) if _is_marked(plugin, attribute)]
    unmarked = [
        hook for hook in sorted(_HOOKS) if callable(getattr(plugin, hook, None)) and hook not in marked
    ]
    if unmarked:
        raise SettingsError(
            f"plugin {name}: {unmarked[0]} is not marked with ci_runner.plugins.hookspecs.hookimpl"
        )
    if not marked:
        raise SettingsError(f"plugin {name}: it implements no hook of {', '.join(sorted(_HOOKS))}")


def _is_marked(plugin: object, attribute: str) -> bool:
    return getattr(getattr(plugin, attribute, None), f"{GROUP}_impl", None) is not None


def widening(before: ContainerSpec, after: object) -> str | None:
    """Return how `after` permits more than `before` or changes other fields; None if it only narrows."""
    if not isinstance(after, ContainerSpec):
        return f"{type(after).__name__} is not a ContainerSpec"
    unchanged = {name: getattr(before, name) for name in _NARROWABLE}
    for item in fields(before):
        if getattr(replace(after, **unchanged), item.name) != getattr(before, item.name):
            return f"{item.name} cannot be changed"
    if after.network != before.network and after.network != "none":
        return "network can only be removed"
    if not after.env.items() <= before.env.items():
        return "variables can only be removed"
    return _wider_limits(before.limits, after.limits) or _wider_binds(before, after)


def _wider_limits(before: Limits, after: Limits) -> str | None:
    for item in fields(Limits):
        if not 0 < getattr(after, item.name) <= getattr(before, item.name):
            return f"{item.name} can only shrink, from {getattr(before, item.name)}"
    return None


def _wider_binds(before: ContainerSpec, after: ContainerSpec) -> str | None:
    allowed = {(bind.source, bind.target): bind for bind in before.binds}
    for bind in after.binds:
        original = allowed.get((bind.source, bind.target))
        if original is None:
            return f"nothing can be added at {bind.target}"
        if original.read_only and not bind.read_only:
            return f"{bind.target} is read-only"
    return None
