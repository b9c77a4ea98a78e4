"""What to do about a build that failed, recognised from its output; pure.

The output comes from foreign code: it is only searched, and what is repeated of it are names of sent files' kind.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

#: Characters of output that are searched, from its end.
_MOST: Final = 16_000
_IMAGE: Final = (
    "install it with `packages` in [tool.remote-ci], name an image that has one with `image`, or ask the runner's "
    "operator"
)

_RUST: Final = (
    r"Unknown compiler\(s\): \[\[?'rustc|(?:cargo|rustc)['\"]?:? (?:command )?not found|"
    r"can't find Rust compiler|No such file or directory:? ['\"`]?(?:cargo|rustc)\b|requires Rust|"
    # maturin: it tries to download a toolchain, and the error is that of the download.
    r"Rust not found, installing|/puccinialin/_setup_rust\.py|Cargo, the Rust package manager, is not installed"
)
_COMPILER: Final = (
    r"Unknown compiler\(s\)|No CMAKE_\w+_COMPILER could be found|"
    r"\b(?:gcc|cc|g\+\+|c\+\+|clang|\w+-gcc)['\"]?:? (?:command )?not found|"
    r"command '[\w./+-]*(?:gcc|cc|g\+\+|clang)' failed: No such file|"
    r"No such file or directory:? ['\"`][\w./+-]*(?:gcc|g\+\+|clang)['\"`]|unable to find compiler"
)
_GIT: Final = (
    r"Git executable not found|\bgit['\"]?:? (?:command )?not found"
    r"|No such file or directory:? ['\"`]git['\"`]"
)
#: Ends of the texts of pkg-config, meson and setup scripts that look for a library of the distribution.
_LIBRARY: Final = (
    r"No package '[^'\s]+' found|Package '[^'\s]+', required by '[^']*', not found"
    r"|was not found in the pkg-config search path|Dependency \"?[^\"\s]+\"? not found, tried pkgconfig"
    r"|\b(?:pg|mysql|mariadb|xml2|xslt|curl)[_-]config\b.{0,100}not found"
    r"|[Pp]kg-config['\"]?:? (?:command )?not found|Did not find pkg-config"
)
_NO_LIBRARY: Final = (
    "the image lacks a library of the distribution: `packages` in [tool.remote-ci] installs it, on Debian such as "
    "`libcairo2-dev`, with `pkg-config`"
)
_SSH: Final = r"cannot run ssh|\bssh['\"]?:? (?:command )?not found"
_CREDENTIALS: Final = (
    r"Permission denied \(publickey|could not read Username|Host key verification failed"
    r"|Authentication failed"
)
_NO_CREDENTIALS: Final = (
    "a dependency's repository asks for credentials: name NETRC in `secrets` of [tool.remote-ci], with a netrc "
    "file's text as its value (`machine HOST login USER password TOKEN`); builds have no ssh keys"
)
#: (what is recognised, the hint), in the order of their importance; one hint is given.
_PROGRAMS: Final = (
    (_RUST, f"the image has no Rust toolchain: {_IMAGE}"),
    (_COMPILER, f"the image has no compiler: {_IMAGE}; the official images without `-slim` have one"),
    (r"fatal error: Python\.h: No such file", f"the image has no headers of Python (Python.h): {_IMAGE}"),
    (_LIBRARY, _NO_LIBRARY),
    (
        _GIT,
        f"the image has no git, which a dependency needs: {_IMAGE}; official images without `-slim` have it",
    ),
    (_SSH, "the image has no ssh, which the address of a dependency needs: use its https address"),
    (_CREDENTIALS, _NO_CREDENTIALS),
)
_MISSING_FILES: Final = (
    re.compile(r"No such file or directory: ['\"]([\w./+-]{1,200})['\"]"),
    re.compile(
        r"(?:fatal error|ERROR|error): ([\w./+-]{1,200})(?:: No such file| does not exist| not found)"
    ),
    re.compile(r"(?:Readme file does not exist|File does not exist): ([\w./+-]{1,200})"),
    re.compile(r"Nonexistent (?:source|include|build) (?:file|directory) ['\"]([\w./+-]{1,200})['\"]"),
)


def hint(output: str, mount: str, sent: Collection[str]) -> str | None:
    """Return what to do about the failed build that wrote `output`; None if nothing is recognised.

    `sent`: the paths of the workspace, which lies at `mount`.
    """
    text = output[-_MOST:]
    for pattern, words in _PROGRAMS:
        if re.search(pattern, text):
            return words
    missing = next(_missing(text, mount, sent), None)
    if missing is None:
        return None
    return (
        f"{missing} is not among the files that were sent: if an ignore rule leaves it out, "
        f'`include = ["/{missing}"]` in [tool.remote-ci] sends it'
    )


def is_conflict(error: str) -> bool:
    """Return whether the installer found chosen requirements that exclude each other.

    Those of a build backend are the package's own: no setting chooses others.
    """
    if "build-system.requires" in error:
        return False
    return "unsatisfiable" in error or "No solution found" in error or "conflict" in error.lower()


def _missing(text: str, mount: str, sent: Collection[str]) -> Iterator[str]:
    """Yield files of the project that the output says are missing and that were not sent."""
    for pattern in _MISSING_FILES:
        for found in pattern.finditer(text):
            path = found[1].removeprefix(f"{mount}/").removeprefix("./")
            if path and not path.startswith(("/", "..")) and path not in sent:
                yield path
