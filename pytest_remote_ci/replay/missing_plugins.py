"""Plugins that a job's environment lacks, recognised from the options that its pytest refused.

`addopts` often has options of plugins that no file of the project names, because tox or a developer installs them.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final

#: Longest part of a job's output that is looked at, from its end.
_LONGEST: Final = 20_000
_REFUSED: Final = re.compile(r"unrecognized arguments: ([^\n]*)")
_IMPORT: Final = re.compile(r'Error importing plugin "([\w.]{1,100})"')
#: Beginning of options -> the distribution that declares them.
_PLUGINS: Final = (
    (r"--(?:no-)?cov\b", "pytest-cov"),
    (r"(?:-n|--numprocesses|--dist|--maxprocesses|--tx|--looponfail)\b", "pytest-xdist"),
    (r"--asyncio-", "pytest-asyncio"),
    (r"--(?:session-)?timeout\b", "pytest-timeout"),
    (r"--(?:reruns|only-rerun|rerun-except)\b", "pytest-rerunfailures"),
    (r"--benchmark-", "pytest-benchmark"),
    (r"--(?:html|self-contained-html)\b", "pytest-html"),
    (r"--(?:ds|dc|reuse-db|create-db|nomigrations|no-migrations)\b", "pytest-django"),
    (r"--randomly-", "pytest-randomly"),
    (r"--random-order", "pytest-random-order"),
    (r"--mypy", "pytest-mypy"),
    (r"--flake8", "pytest-flake8"),
    (r"--ruff", "pytest-ruff"),
    (r"--black", "pytest-black"),
    (r"--doctest-(?:plus|rst)", "pytest-doctestplus"),
    (r"--snapshot-", "syrupy"),
    (r"--hypothesis-", "hypothesis"),
    (r"--json-report", "pytest-json-report"),
    (r"--allure", "allure-pytest"),
    (r"--(?:force-regen|regen-all)\b", "pytest-regressions"),
    (r"--(?:record-mode|block-network|disable-recording)\b", "pytest-recording"),
    (r"--(?:disable-socket|allow-hosts|allow-unix-socket)\b", "pytest-socket"),
    (r"--splits?\b", "pytest-split"),
    (r"--mpl", "pytest-mpl"),
    (r"--nbval", "nbval"),
    (r"--testmon", "pytest-testmon"),
    (r"--inline-snapshot", "inline-snapshot"),
)
#: Module of a plugin -> its distribution, where the name differs in more than ``_``.
_MODULES: Final = {"xdist": "pytest-xdist"}


def hint(output: str, there: Collection[str]) -> str | None:
    """Return one line about plugins that are not among `there`, the job's, but seem to be needed, else None."""
    text = output[-_LONGEST:]
    found: dict[str, None] = {}
    for words in _REFUSED.findall(text):
        for word in words.split():
            for pattern, name in _PLUGINS:
                if re.match(pattern, word):
                    found.setdefault(name)
    for module in _IMPORT.findall(text):
        package = module.partition(".")[0]
        found.setdefault(_MODULES.get(package, package.replace("_", "-")))
    present = {re.sub(r"[-_.]+", "-", name).lower() for name in there}
    missing = [name for name in found if name not in present]
    if not missing:
        return None
    them = "it" if len(missing) == 1 else "them"
    return (
        f"the job's environment lacks {', '.join(missing)}: name {them} in a dependency group or requirements file for "
        "tests (docs/guide/projects.md, What is installed)"
    )
