"""Compare local and remote pytest plugins, as far as a difference can explain a result.

Plugins that only report are not needed in the job. A quiet session that succeeded is not commented.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import metadata

#: Plugins that act where results are shown.
_REPORTERS = frozenset(
    {
        "pytest-remote-ci",
        "pytest-html",
        "pytest-sugar",
        "pytest-rich",
        "pytest-json-report",
        "pytest-reportlog",
        "pytest-metadata",
        "pytest-md",
        "pytest-md-report",
        "pytest-tldr",
        "pytest-pretty",
        "pytest-clarity",
        "pytest-icdiff",
        "pytest-csv",
        "pytest-emoji",
        "pytest-spec",
        "pytest-testdox",
        "pytest-instafail",
        "pytest-progress",
        "pytest-github-actions-annotate-failures",
        "pytest-azurepipelines",
        "teamcity-messages",
    }
)
#: Libraries that contain a plugin: if one is missing, an import error shows it.
_LIBRARIES = frozenset(
    {"anyio", "hypothesis", "faker", "typeguard", "jaxtyping", "beartype", "langsmith", "logfire", "dash"}
)


def remark(there: Iterable[object], *, failed: bool, is_quiet: bool) -> str | None:
    """Return one line about the differences, or None. `there` are the plugin names in the `session` record."""
    remote = {_name(str(name)) for name in there}
    local = _installed()
    only_local = sorted(local - remote - _REPORTERS - _LIBRARIES) if failed or not is_quiet else []
    only_remote = sorted(remote - local - {"pytest-remote-ci"}) if not is_quiet else []
    parts = [f"only here: {', '.join(only_local)}"] if only_local else []
    parts += [f"only in the job: {', '.join(only_remote)}"] if only_remote else []
    if not parts:
        return None
    advice = " (the job installs the project's dependencies)" if only_local else ""
    return f"pytest plugins {'; '.join(parts)}{advice}"


def _installed() -> set[str]:
    found = set()
    for entry in metadata.entry_points(group="pytest11"):
        dist = getattr(entry, "dist", None)
        if dist is not None:
            found.add(_name(dist.metadata["Name"]))
    return found


def _name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()
