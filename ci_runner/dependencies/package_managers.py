"""The distributions' package managers: the commands that install packages, and why one failed. Pure.

Names of packages are checked (`pytest_remote_ci.wire.system_packages`) and are arguments after ``--``; no shell sees
them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

#: Characters of output that are searched for an error, from its end.
_MOST: Final = 64_000
_LONGEST_REASON: Final = 500

Command = tuple[str, ...]


@dataclass(frozen=True)
class PackageManager:
    """One package manager."""

    #: Its program.
    name: str
    #: Takes the path of a file with certificate authorities, or None, and names; returns the commands to run in order.
    commands: Callable[[str | None, Sequence[str]], tuple[Command, ...]]


def _apt(ca_bundle: str | None, names: Sequence[str]) -> tuple[Command, ...]:
    options = [
        *("-o", "Dpkg::Use-Pty=0"),
        *("-o", "Acquire::Retries=2"),
        # Without it apt goes on with the lists that it could not fetch.
        *("-o", "APT::Update::Error-Mode=any"),
        # Without it apt takes a name that no package has for a regular expression, and installs all that match.
        *("-o", "APT::Cmd::Pattern-Only=true"),
    ]
    if ca_bundle is not None:
        options += ["-o", f"Acquire::https::CAInfo={ca_bundle}"]
    return (
        ("apt-get", "-qq", *options, "update"),
        ("apt-get", "-q", "-y", *options, "--no-install-recommends", "install", "--", *names),
        ("apt-get", "clean"),
        # They would age in the image.
        ("find", "/var/lib/apt/lists", "-mindepth", "1", "-delete"),
    )


def _apk(ca_bundle: str | None, names: Sequence[str]) -> tuple[Command, ...]:
    return (("apk", "add", "--no-cache", "--no-progress", "--", *names),)


def _dnf(ca_bundle: str | None, names: Sequence[str]) -> tuple[Command, ...]:
    options = ["-y", "--setopt=install_weak_deps=False"]
    if ca_bundle is not None:
        options.append(f"--setopt=sslcacert={ca_bundle}")
    return (
        ("dnf", *options, "install", "--", *names),
        ("dnf", "-y", "clean", "all"),
    )


#: In the order in which they are looked for.
MANAGERS: Final = (
    PackageManager("apt-get", _apt),
    PackageManager("apk", _apk),
    PackageManager("dnf", _dnf),
)
#: Prints the name of the first one that the image has; exits with 1 if it has none.
FIND: Final = f"""
for name in {" ".join(manager.name for manager in MANAGERS)}; do
    if command -v "$name" >/dev/null; then echo "$name"; exit 0; fi
done
exit 1
"""
#: Variables of the commands, besides the operator's proxies.
ENVIRONMENT: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LC_ALL": "C",
    "DEBIAN_FRONTEND": "noninteractive",
}

#: Lines that name an error, and those of them that only say that there was one.
_ERROR: Final = re.compile(r"E: |Error: |ERROR: |dpkg(?:-deb)?: error")
#: apt's progress, which has no end of line where an error comes in between: that is another stream.
_PROGRESS: Final = re.compile(r"(?<=\.\.\.)(?=E: )")
_SAYS_NOTHING: Final = re.compile(
    r"E: (?:Some index files failed|Sub-process |Couldn't find any package by|Unable to fetch some archives)"
)
_UNREACHABLE: Final = re.compile(
    r"Could not (?:connect|resolve)|Temporary failure resolving|Cannot initiate the connection|Connection timed out"
    r"|temporary error \(try again later\)|Could not resolve host|Curl error|certificate verif|Failed to fetch",
    re.IGNORECASE,
)


def reason(output: str) -> str:
    """Return the last error that a package manager wrote, as one line; its last line if no line names one."""
    text = _PROGRESS.sub("\n", output[-_MOST:])
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [
        index for index, line in enumerate(lines) if _ERROR.match(line) and _SAYS_NOTHING.match(line) is None
    ]
    if not errors:
        return lines[-1][:_LONGEST_REASON] if lines else ""
    last = errors[-1]
    text = lines[last].removeprefix("E: ")
    # What went wrong with a package is in the next line.
    if text.endswith(":") and last + 1 < len(lines):
        text = f"{text} {lines[last + 1]}"
    return text[:_LONGEST_REASON]


def is_unreachable(error: str) -> bool:
    """Return whether the distribution's packages could not be fetched."""
    return _UNREACHABLE.search(error) is not None
