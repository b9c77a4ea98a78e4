"""Repositories that a project names with ssh: builds have no ssh key, so git reads them over https.

git itself replaces the beginning of their addresses, so the project's files and locks stay as they are. A netrc file
among the job's secrets opens private ones. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

#: More beginnings of addresses than any real project has.
_MOST: Final = 40
_USER: Final = r"[A-Za-z0-9._-]{1,64}"
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?"
_URL: Final = re.compile(rf"\bssh://((?:{_USER}@)?({_HOST}))(?::\d{{1,5}})?/")
#: ``git@host:path``, which git reads like a URL and installers do not.
_SHORT: Final = re.compile(rf"({_USER}@{_HOST}):(?!//)([^\s:]+)\Z")


@dataclass(frozen=True)
class Repositories:
    """The beginnings of addresses, each with the host that is asked over https instead. False if there are none."""

    hosts: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.hosts)

    def git_settings(self) -> dict[str, str]:
        """Return variables by which git reads them over https."""
        if not self.hosts:
            return {}
        found = {"GIT_CONFIG_COUNT": str(len(self.hosts))}
        for number, (beginning, host) in enumerate(self.hosts.items()):
            found[f"GIT_CONFIG_KEY_{number}"] = f"url.https://{host}/.insteadOf"
            found[f"GIT_CONFIG_VALUE_{number}"] = beginning
        return found

    def note(self, *, has_netrc: bool) -> str:
        """Return the line for the job's log."""
        names = ", ".join(dict.fromkeys(self.hosts.values()))
        line = f"repositories at {names} are read over https, because builds have no ssh key"
        return line if has_netrc else f"{line}; private ones need a token in the secret NETRC"


def find(texts: Iterable[str]) -> Repositories:
    """Return the repositories that these texts name, and those of the same hosts that submodules may name."""
    found: dict[str, str] = {}
    for text in texts:
        for match in _URL.finditer(text):
            account, host = match.groups()
            found.setdefault(match[0], host)
            found.setdefault(f"{account}:", host)
            if len(found) >= _MOST:
                return Repositories(found)
    return Repositories(found)


def as_url(address: str) -> str:
    """Return the address of a repository as a URL, if it is in git's short form."""
    short = _SHORT.fullmatch(address)
    return address if short is None else f"ssh://{short[1]}/{short[2]}"
