"""The project's version from version control. `.git` is not sent, so the runner cannot compute it.

It is computed as setuptools-scm does by default (``guess-next-dev`` and ``node-and-date``), and only for projects
that take their version from version control, because it requires running git. None of those tools is imported.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_remote_ci.workspace import git
from pytest_remote_ci.workspace.project import git_toplevel

#: Marks in a project's files that show that its version is from version control.
_TOOLS: Final = re.compile(
    r"setuptools[-_]scm|hatch-vcs|source\s*=\s*[\"'](?:vcs|scm)[\"']|versioningit|\bpbr\b|versioneer|dunamai"
    r"|poetry-dynamic-versioning|flit[-_]scm|uv-dynamic-versioning|vcs-versioning"
)
_FILES: Final = ("pyproject.toml", "setup.py", "setup.cfg")
#: Number of hexadecimal digits of a commit in a version.
_NODE_LENGTH: Final = 9

#: A tag: an optional name and dash, an optional ``v``, a version (as setuptools-scm parses by default).
_TAG: Final = re.compile(r"^(?:[\w-]+-)?(?P<version>[vV]?\d+(?:\.\d+){0,2}[^+]*)(?:\+.*)?$")
#: A version (PEP 440) without its local part.
_VERSION: Final = re.compile(
    r"""v?(?:(?P<epoch>\d+)!)?(?P<release>\d+(?:\.\d+)*)
    (?:[-_.]?(?P<pre>alpha|a|beta|b|preview|pre|c|rc)[-_.]?(?P<pre_number>\d+)?)?
    (?:-(?P<bare_post>\d+)|(?P<post>[-_.]?(?:post|rev|r)[-_.]?(?P<post_number>\d+)?))?
    (?P<dev>[-_.]?dev[-_.]?(?P<dev_number>\d+)?)?\Z""",
    re.VERBOSE | re.IGNORECASE,
)
_PRE: Final = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}


@dataclass(frozen=True)
class _State:
    """The state of the work tree."""

    #: Version of the nearest tag, normalised.
    tag: str
    #: Number of commits since the tag, or in all if there is no tag.
    distance: int
    #: Abbreviated commit with a leading ``g``; None before the first commit.
    node: str | None
    #: Whether tracked files have changes.
    dirty: bool
    #: Whether there is no tag, so that `tag` is the initial version.
    untagged: bool = False


def version(
    project: Path, *, environ: Mapping[str, str] = os.environ, today: dt.date | None = None
) -> str | None:
    """Return the version of the project in `project`; None if it is not from git, or git has none.

    ``SETUPTOOLS_SCM_PRETEND_VERSION`` overrides the version. `today` is a UTC date.
    """
    if not wants_version(project):
        return None
    pretended = environ.get("SETUPTOOLS_SCM_PRETEND_VERSION", "").strip()
    if pretended:
        return pretended
    state = _state(Path(project).absolute())
    if state is None:
        return None
    return _format(state, today or dt.datetime.now(dt.timezone.utc).date())


def wants_version(project: Path) -> bool:
    """Return whether a file of the project mentions a tool that takes the version from version control."""
    for name in _FILES:
        try:
            text = (project / name).read_text("utf-8", errors="replace")
        except OSError:
            continue
        if _TOOLS.search(text):
            return True
    return False


def normalise(text: str) -> str | None:
    """Return a version in PEP 440's normal form without its local part; None if it is not a version."""
    found = _VERSION.match(text.strip().partition("+")[0])
    if found is None:
        return None
    result = f"{int(found['epoch'])}!" if found["epoch"] and int(found["epoch"]) else ""
    result += ".".join(str(int(part)) for part in found["release"].split("."))
    if found["pre"]:
        kind = found["pre"].lower()
        result += f"{_PRE.get(kind, kind)}{int(found['pre_number'] or 0)}"
    if found["bare_post"] or found["post"]:
        result += f".post{int(found['bare_post'] or found['post_number'] or 0)}"
    if found["dev"]:
        result += f".dev{int(found['dev_number'] or 0)}"
    return result


def _state(project: Path) -> _State | None:
    top = git_toplevel(project)
    if top is None:
        return None
    if top != project and not _git(project, "ls-files", "--", "."):
        return None  # the work tree does not contain this folder, so its versions do not apply
    described = _git(project, "describe", "--dirty", "--tags", "--long", "--abbrev=40", "--match", "*[0-9]*")
    if described is not None:
        dirty = described.endswith("-dirty")
        name, distance, node = described.removesuffix("-dirty").rsplit("-", 2)
        found = _TAG.match(name)
        tag = normalise(found["version"]) if found else None
        if tag is None:
            return None
        return _State(tag, int(distance), node[: 1 + _NODE_LENGTH], dirty)
    changes = _git(project, "status", "--porcelain", "--untracked-files=no")
    if changes is None:
        return None
    commit = _git(project, "rev-parse", "--verify", "--quiet", "HEAD")
    if commit is None:
        return _State("0.0", 0, None, bool(changes), untagged=True)
    count = _git(project, "rev-list", "--count", "HEAD") or "0"
    return _State("0.0", int(count), f"g{commit[:_NODE_LENGTH]}", bool(changes), untagged=True)


def _format(state: _State, today: dt.date) -> str:
    exact = state.distance == 0 and not state.dirty and not state.untagged
    if exact:
        return state.tag
    date = f"d{today:%Y%m%d}"
    local = [state.node] if state.node else []
    if state.dirty or state.node is None:
        local.append(date)
    return f"{_next(state.tag)}.dev{state.distance}+{'.'.join(local)}"


def _next(tag: str) -> str:
    """Return the next version after `tag`: the last number plus one, or the release that a ``.dev0`` tag leads to."""
    head, dev, number = tag.rpartition(".dev")
    if dev and number == "0":
        return head
    return re.sub(r"\d+\Z", lambda found: str(int(found[0]) + 1), head if dev else tag)


def _git(project: Path, *arguments: str) -> str | None:
    """Return the stripped output of git, or None if it fails."""
    try:
        output, _ = git.run(project, *arguments)
    except git.GitError:
        return None
    return output.decode("utf-8", "replace").strip()
