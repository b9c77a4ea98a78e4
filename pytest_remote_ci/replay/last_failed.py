"""What the next run knows of a run with several jobs: the files and tests of this project, without the jobs' labels.

So ``--lf`` means the same in every kind of session: a test failed last if it did so in any job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest


def note_failures(config: pytest.Config, plain: Callable[[str], str | None], told: Iterable[str]) -> None:
    """Let pytest's own cache of failures have node ids as they are without labels, before it is written.

    `plain` takes the label off a node id (None: it has none); `told` are those of all tests and collectors that
    something was told of.
    """
    plugin: Any = config.pluginmanager.get_plugin("lfplugin")
    before = getattr(plugin, "lastfailed", None)
    if not isinstance(before, dict):
        return
    make = _maker()
    known = {plain(nodeid) for nodeid in told}
    failed = {found for key in before if (found := plain(str(key))) is not None}
    kept = {key: value for key, value in before.items() if plain(str(key)) is None and str(key) not in known}
    plugin.lastfailed = {**kept, **{make(nodeid): True for nodeid in sorted(failed)}}


def note_collected(config: pytest.Config, nodeids: Iterable[str]) -> None:
    """Let ``--nf`` of the next run know these."""
    plugin: Any = config.pluginmanager.get_plugin("nfplugin")
    if hasattr(plugin, "cached_nodeids"):
        make = _maker()
        plugin.cached_nodeids.update(make(nodeid) for nodeid in nodeids)


def _maker() -> Callable[[str], Any]:
    """pytest 9.2 and newer have a class for node ids."""
    try:
        from _pytest.nodeid import NodeId
    except ImportError:
        return str
    made: Callable[[str], Any] = NodeId.parse
    return made
