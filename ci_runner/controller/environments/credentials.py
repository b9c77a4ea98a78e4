"""Credentials of builds: a job's secrets for package indexes and repositories, recognised by their names.

Builds get them, and pytest does not. Whatever is built with them stays in the user's own scope, because only who has
the credentials may have what they open. Their values are masked in what builds write.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from ci_runner.controller.spool.masking import Masker
from ci_runner.model.job import Job

#: The content of a netrc file; git over https and uv read it.
NETRC: Final = "NETRC"
_NAMES: Final = re.compile(
    r"UV_INDEX_[A-Z0-9_]+_(?:USERNAME|PASSWORD)|UV_(?:DEFAULT_INDEX|INDEX|INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS)"
    rf"|PIP_(?:INDEX_URL|EXTRA_INDEX_URL)|{NETRC}"
)
#: pip's variables, which uv does not read, and their names for uv.
_FOR_UV: Final = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX"}
_USER_OF_URL: Final = re.compile(r"(?<=://)([^/@\s]*)@")
_PASSWORD_OF_NETRC: Final = re.compile(r"\b(?:password|account)\s+(\S+)")


def is_credential(name: str) -> bool:
    """Return whether a secret of this name is for builds."""
    return _NAMES.fullmatch(name) is not None


@dataclass(frozen=True)
class Credentials:
    """The credentials of one job. False if there are none."""

    values: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, job: Job) -> Credentials:
        """Return those of a job with its secrets in its environment."""
        env = job.options.submitted.env
        return cls({name: env[name] for name in job.options.secrets if is_credential(name) and name in env})

    def __bool__(self) -> bool:
        return bool(self.values)

    @property
    def netrc(self) -> str | None:
        """The content of a netrc file."""
        return self.values.get(NETRC)

    def add_to(self, env: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of a build: these override those of the operator, whose further indexes stay."""
        found = {name: value for name, value in self.values.items() if name != NETRC}
        for name, other in _FOR_UV.items():
            if name in found:
                found.setdefault(other, found[name])
        if "UV_INDEX" in found and "UV_INDEX" in env:
            found["UV_INDEX"] += f" {env['UV_INDEX']}"
        return {**env, **found}

    def key(self) -> list[str]:
        """Return what decides about a build's result, without anything secret: a new password changes nothing."""
        return [
            f"{name}={_USER_OF_URL.sub('', value)}" if "://" in value and name != NETRC else name
            for name, value in sorted(self.values.items())
        ]

    def mask(self) -> Callable[[str], str]:
        """Return a function that masks the values in a text."""
        return Masker(_secret_parts(self.values.values())).text if self.values else _unchanged


def _secret_parts(values: Iterable[str]) -> Iterator[str]:
    """Yield the values, and passwords in them, which may be shown by themselves."""
    for value in values:
        yield value
        for user in _USER_OF_URL.findall(value):
            yield user
            yield from (part for text in user.split(":") for part in (text, unquote(text)))
        yield from _PASSWORD_OF_NETRC.findall(value)


def _unchanged(text: str) -> str:
    return text
