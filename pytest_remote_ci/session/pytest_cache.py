"""pytest's cache in remote sessions: which of its files a job needs for `--lf`, `--ff`, `--nf` and `--sw`.

The job gets them with the project and selects its tests by them; the local session does not apply these options again
(`options`). The cache is then written by pytest itself, from the replayed reports; `replay.last_failed` removes the
labels of jobs from it where a run has several.
"""

from __future__ import annotations

from typing import Final

import pytest

_OPTIONS: Final = ("lf", "failedfirst", "newfirst", "stepwise")
_FILES: Final = ("lastfailed", "nodeids", "stepwise")


def cache_files(config: pytest.Config) -> tuple[str, ...]:
    """Return the paths of the cache files, relative to the root directory, that the options in `config` need."""
    options = config.option
    if not any(getattr(options, name, False) for name in _OPTIONS) or getattr(options, "cacheclear", False):
        return ()
    folder = str(config.getini("cache_dir"))
    return tuple(f"{folder}/v/cache/{name}" for name in _FILES)
