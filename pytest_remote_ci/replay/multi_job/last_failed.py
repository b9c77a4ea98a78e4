"""Update pytest's caches after a run with several jobs, with node ids without the jobs' labels.

So ``--lf`` means the same in every kind of session: a test failed last if it failed in any job. After one job, pytest's
own plugin writes the cache from the replayed reports; `session.pytest_cache` sends it with the next job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from pytest_remote_ci.replay.pytest_internals import id_maker


def note_failures(config: pytest.Config, plain: Callable[[str], str | None], reported: Iterable[str]) -> None:
    """Remove labels from the node ids in pytest's cache of failures, before it is written.

    `plain` removes the label from a node id (None: it has none); `reported` are the node ids of all tests and
    collectors with a report.
    """
    plugin: object = config.pluginmanager.get_plugin("lfplugin")
    before = getattr(plugin, "lastfailed", None)
    if not isinstance(before, dict):
        return
    make = id_maker()
    known = {plain(nodeid) for nodeid in reported}
    failed = {found for key in before if (found := plain(str(key))) is not None}
    others = {
        key: value for key, value in before.items() if plain(str(key)) is None and str(key) not in known
    }
    vars(plugin)["lastfailed"] = {**others, **{make(nodeid): True for nodeid in sorted(failed)}}


def note_collected(config: pytest.Config, nodeids: Iterable[str]) -> None:
    """Add these to the tests that ``--nf`` knows."""
    plugin: object = config.pluginmanager.get_plugin("nfplugin")
    known = getattr(plugin, "cached_nodeids", None)
    if known is not None:
        make = id_maker()
        known.update(make(nodeid) for nodeid in nodeids)


def forget_failures(config: pytest.Config, nodeids: Iterable[str]) -> None:
    """Remove these from pytest's cache of failures: the job that they failed in was repeated."""
    plugin: object = config.pluginmanager.get_plugin("lfplugin")
    before = getattr(plugin, "lastfailed", None)
    if isinstance(before, dict):
        gone = set(nodeids)
        for key in [key for key in before if str(key) in gone]:
            del before[key]
