"""A git repository for a job, made of the developer's: the commit that is checked out, its branch, and the index.

``git status``, ``git diff``, ``git describe``, ``git ls-files`` and ``git rev-parse HEAD`` then answer in the job as
they do here. Commits are those back to the nearest tag, without their files; the boundary is that of a shallow clone.
Configuration, hooks, remotes and everything else of the developer's repository stay here. Contents are only those of
files that are sent: git knows the names of the others, and takes them as unchanged.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pytest_remote_ci.config.user_file import home_folder
from pytest_remote_ci.errors import WorkspaceError
from pytest_remote_ci.wire import formats
from pytest_remote_ci.workspace import git, secret_files
from pytest_remote_ci.workspace.project import git_toplevel

#: Most bytes of a repository's objects and index.
MAX_REPOSITORY: Final = 256 << 20
#: Most commits between the one that is checked out and the nearest tag.
MAX_COMMITS: Final = 2_000
#: Attempts to find a commit from which all history since the tag begins.
_ROUNDS: Final = 5

_SUBMODULE: Final = "160000"
#: Name of the remote, without an address, that would have the contents that are not sent.
_NOT_SENT: Final = "not-sent"
#: Settings that decide whether git takes a file as changed, with the values that are passed on.
_SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "filemode": ("true", "false"),
    "symlinks": ("true", "false"),
    "autocrlf": ("true", "false", "input"),
    "eol": ("lf", "crlf", "native"),
}
#: Any git of the last years reads what is written with these.
_PLAIN_INDEX: Final = (
    *("-c", "index.version=2"),
    *("-c", "index.skipHash=false"),
    *("-c", "core.splitIndex=false"),
    *("-c", "core.untrackedCache=false"),
)
#: The result depends on the objects alone: the runner has an unchanged pack already.
_PLAIN_PACK: Final = (
    *("-c", "pack.threads=1"),
    *("-c", "pack.packSizeLimit=0"),
    *("-c", "pack.writeReverseIndex=false"),
    *("-c", "pack.indexVersion=2"),
)


@dataclass(frozen=True)
class Sent:
    """What is sent of a work tree; paths are relative to its top."""

    #: Files and links.
    paths: Collection[str]
    #: Whether a path that does not exist here would be sent if it did.
    covers: Callable[[str], bool]
    #: Whether the developer allows to send a file that looks like a secret.
    allows: Callable[[str], bool]


@dataclass(frozen=True)
class Repository:
    """A repository in a folder of its own, to be sent as the ``.git`` of a work tree."""

    #: Paths relative to the folder.
    files: tuple[str, ...]
    #: Folders that git needs, though they are empty.
    folders: tuple[str, ...]
    #: Lines for the developer.
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Entry:
    """A file of the index or of a commit."""

    mode: str
    blob: str
    path: str
    stage: str = "0"
    #: git takes the file as unchanged because the developer said so.
    assumed: bool = False
    #: The file is not checked out.
    skipped: bool = False


@dataclass
class _History:
    """Commits, the oldest of which have no parents, and tags that name some of them."""

    #: Commit → its parents.
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    #: Name → (object, the commit that an annotated tag names).
    tags: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    @property
    def objects(self) -> list[str]:
        return [*self.parents, *(found for found, commit in self.tags.values() if commit is not None)]

    @property
    def boundary(self) -> list[str]:
        """The commits of which not all parents are there."""
        return sorted(commit for commit, above in self.parents.items() if not self.parents.keys() >= {*above})


def work_tree(root: Path, home: Path | None = None) -> Path | None:
    """Return the top of the work tree of the project in `root`; None if it has none of its own.

    A home folder under version control, and one that ignores the project, are none.
    """
    top = git_toplevel(root)
    if top is None or top in (Path(top.anchor), home_folder() if home is None else home):
        return None
    if top != root and not _run(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard"):
        return None
    return top


def make(top: Path, target: Path, sent: Sent) -> Repository:
    """Write the repository of the work tree `top` into the empty folder `target`. Raises `WorkspaceError`."""
    head = _first_line(_run(top, "rev-parse", "--verify", "--quiet", "HEAD", accepted=(0, 1)))
    branch = _first_line(_run(top, "symbolic-ref", "--quiet", "HEAD", accepted=(0, 1)))
    index = list(_index(top))
    tree, trees = _tree(top) if head else ([], [])
    changed = _changed(top, head)
    notes: list[str] = []
    blobs = _blobs(top, sent, [*tree, *index], changed, notes)
    history = _history(top, head) if head else _History()
    _write_settings(top, target)
    _write(target / "HEAD", f"ref: {branch}\n" if branch else f"{head}\n")
    _pack(top, target, [*history.objects, *trees, *blobs])
    _write_references(target, head, branch, history)
    if head and len(history.parents) > 1 and _described(top) != _described(target, "--git-dir=."):
        _write_references(target, head, branch, _only(top, head))
    _write_index(top, target, index, sent, changed)
    return _found(target, tuple(notes))


def _run(
    folder: Path, *arguments: str, accepted: tuple[int, ...] = (0,), given: bytes | None = None
) -> bytes:
    try:
        return git.run(folder, *arguments, accepted=accepted, given=given)[0]
    except git.GitError as error:
        raise WorkspaceError(f"git = true: {error}; nothing was sent") from error


def _first_line(output: bytes) -> str:
    return output.decode("utf-8", "surrogateescape").partition("\n")[0]


def _names(output: bytes) -> list[str]:
    return [os.fsdecode(name) for name in output.split(b"\0") if name]


def _given(lines: Iterable[str], end: str) -> bytes:
    return b"".join(os.fsencode(line + end) for line in lines)


# -- what is there


def _index(top: Path) -> Iterator[_Entry]:
    for record in _names(_run(top, "ls-files", "-z", "-s", "-v")):
        facts, _, path = record.partition("\t")
        tag, mode, blob, stage = facts.split(" ")
        yield _Entry(mode, blob, path, stage, assumed=tag.islower(), skipped=tag.upper() == "S")


def _tree(top: Path) -> tuple[list[_Entry], list[str]]:
    """Return the files of the commit that is checked out, and its trees."""
    trees = [_first_line(_run(top, "rev-parse", "HEAD^{tree}"))]
    files = []
    for record in _names(_run(top, "ls-tree", "-r", "-t", "-z", "--full-tree", "HEAD")):
        facts, _, path = record.partition("\t")
        mode, kind, name = facts.split(" ")
        if kind == "tree":
            trees.append(name)
        else:
            files.append(_Entry(mode, name, path))
    return files, trees


def _changed(top: Path, head: str) -> set[str]:
    """Return the paths of which commit, index and work tree do not all have the same content."""
    common = ("--no-ext-diff", "--no-renames", "--no-relative", "--ignore-submodules", "--name-only", "-z")
    found = _names(_run(top, "diff", *common, "--"))
    return {*found, *(_names(_run(top, "diff", "--cached", *common, "HEAD", "--")) if head else ())}


def _blobs(
    top: Path, sent: Sent, entries: Iterable[_Entry], changed: Collection[str], notes: list[str]
) -> list[str]:
    """Return the contents that may be sent.

    What a file had before its last change is checked like the file itself: it may have been a secret.
    """
    wanted: dict[str, None] = {}
    earlier: dict[str, set[str]] = {}
    for entry in entries:
        if entry.mode == _SUBMODULE:
            continue
        if entry.path in changed:
            if _travels(top, sent, entry):
                earlier.setdefault(entry.blob, set()).add(entry.path)
        elif _composed(entry.path) in sent.paths:
            wanted[entry.blob] = None
    secrets = _secrets(top, {blob: paths for blob, paths in earlier.items() if blob not in wanted}, sent)
    for path, what in sorted(secrets.values()):
        notes.append(f"git = true: an earlier content of {path} looks like {what}: it is not sent")
    return [*wanted, *(blob for blob in earlier if blob not in wanted and blob not in secrets)]


def _travels(top: Path, sent: Sent, entry: _Entry) -> bool:
    """Return whether the contents of this file, which may be deleted here, are sent."""
    return _composed(entry.path) in sent.paths or (
        not entry.skipped and sent.covers(entry.path) and not os.path.lexists(top / entry.path)
    )


def _composed(path: str) -> str:
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def _secrets(top: Path, blobs: Mapping[str, Collection[str]], sent: Sent) -> dict[str, tuple[str, str]]:
    """Return blob → (path, kind of secret) of those that look like secrets and are not allowed."""
    found = {}
    for blob, size in _sizes(top, blobs, "%(objectsize)").items():
        is_read = size <= secret_files.CONTENT_LIMIT  # larger ones hold data, not keys
        content = _run(top, "cat-file", "blob", blob) if is_read else b""
        for path in blobs[blob]:
            what = secret_files.find(path, content)
            if what is not None and not sent.allows(path):
                found[blob] = (path, what)
    return found


def _sizes(top: Path, objects: Iterable[str], measure: str) -> dict[str, int]:
    """Return object → bytes; objects that are not here (of a partial clone) are left out."""
    asked = _given(objects, "\n")
    if not asked:
        return {}
    output = _run(top, "cat-file", f"--batch-check=%(objectname) {measure}", given=asked).decode(
        "ascii", "replace"
    )
    rows = (line.split(" ") for line in output.splitlines())
    return {name: int(size) for name, size in rows if size.isdecimal()}


# -- commits and tags


def _history(top: Path, head: str) -> _History:
    """Return the commits back to the nearest tag; only `head` if there is none, or it is too far away."""
    tag = _quiet(top, "describe", "--tags", "--abbrev=0", "HEAD")
    base = _quiet(top, "rev-parse", "--verify", f"refs/tags/{tag}^{{commit}}") if tag else ""
    for _ in range(_ROUNDS if base else 0):
        if int(_quiet(top, "rev-list", "--count", head, f"^{base}") or 0) > MAX_COMMITS:
            break
        listed = _quiet(top, "rev-list", "--boundary", head, f"^{base}").split()
        outer = {commit[1:] for commit in listed if commit.startswith("-")} - {base}
        if not outer:
            return _with_tags(top, {base, *(commit.removeprefix("-") for commit in listed)})
        base = _quiet(top, "merge-base", "--octopus", base, *sorted(outer))
        if not base:
            break
    return _only(top, head)


def _only(top: Path, head: str) -> _History:
    return _with_tags(top, {head})


def _with_tags(top: Path, commits: Collection[str]) -> _History:
    history = _History()
    for commit in sorted(commits):
        text = _run(top, "cat-file", "commit", commit).partition(b"\n\n")[0]
        history.parents[commit] = tuple(
            line[7:].decode("ascii", "replace") for line in text.splitlines() if line.startswith(b"parent ")
        )
    places = "%(objectname) %(objecttype) %(*objectname) %(*objecttype) %(refname)"
    for line in _quiet(top, "for-each-ref", f"--format={places}", "refs/tags/").splitlines():
        name, kind, peeled, peeled_kind, reference = line.split(" ", 4)
        if kind == "commit" and name in history.parents:
            history.tags[reference] = name, None
        elif kind == "tag" and peeled_kind == "commit" and peeled in history.parents:
            history.tags[reference] = name, peeled
    return history


def _described(folder: Path, *options: str) -> str:
    return _quiet(folder, *options, "describe", "--tags", "--long", "--always", "--abbrev=40", "HEAD")


def _quiet(folder: Path, *arguments: str) -> str:
    """Return the stripped output of git; "" if it fails."""
    try:
        return git.run(folder, *arguments)[0].decode("utf-8", "surrogateescape").strip()
    except git.GitError:
        return ""


# -- writing


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(os.fsencode(text))


def _write_settings(top: Path, target: Path) -> None:
    """Write settings of our own: those of the developer may name programs, and hold credentials."""
    chosen = {"bare": "false", "logallrefupdates": "false"}
    for name, values in _SETTINGS.items():
        value = _quiet(top, "config", "--get", f"core.{name}").lower()
        if value in values:
            chosen[name] = value
    short = _quiet(top, "rev-parse", "--short", "HEAD")
    if short:  # otherwise git counts the objects
        chosen["abbrev"] = str(len(short))
    kind = _quiet(top, "rev-parse", "--show-object-format")
    is_newer = re.fullmatch(r"sha256", kind) is not None
    lines = ["[core]", f"\trepositoryformatversion = {int(is_newer)}"]
    lines += [f"\t{name} = {value}" for name, value in chosen.items()]
    lines += ["[gc]", "\tauto = 0"]
    lines += ["[extensions]", f"\tobjectformat = {kind}"] if is_newer else []
    _write(target / "config", "\n".join(lines) + "\n")


def _write_references(target: Path, head: str, branch: str, history: _History) -> None:
    found = {**history.tags, **({branch: (head, None)} if head and branch else {})}
    lines = ["# pack-refs with: peeled fully-peeled sorted "]
    for name, (place, commit) in sorted(found.items()):
        lines += [f"{place} {name}", *([] if commit is None else [f"^{commit}"])]
    _write(target / "packed-refs", "\n".join(lines) + "\n")
    for folder in ("refs", "objects"):
        (target / folder).mkdir(exist_ok=True)
    (target / "shallow").unlink(missing_ok=True)
    if history.boundary:
        _write(target / "shallow", "".join(f"{commit}\n" for commit in history.boundary))


def _pack(top: Path, target: Path, objects: Iterable[str]) -> None:
    sizes = _sizes(top, dict.fromkeys(objects), "%(objectsize:disk)")
    if not sizes:
        return
    if sum(sizes.values()) > MAX_REPOSITORY:
        raise WorkspaceError(
            f"git = true: the files of this commit have {formats.size(sum(sizes.values()))} in the repository, and "
            f"at most {formats.size(MAX_REPOSITORY)} can be sent; leave out what the tests do not need with `exclude`, "
            "or remove the setting"
        )
    folder = target / "objects/pack"
    folder.mkdir(parents=True)
    # Without a search for new deltas; those of the repository are used.
    _run(
        top, *_PLAIN_PACK, "pack-objects", "--window=0", "-q", str(folder / "pack"), given=_given(sizes, "\n")
    )


def _write_index(
    top: Path, target: Path, entries: Iterable[_Entry], sent: Sent, changed: Collection[str]
) -> None:
    """Write the index: what is not sent is marked as not checked out, what a filter would change as unchanged."""
    entries = list(entries)
    in_target = (*_PLAIN_INDEX, "--git-dir=.", "--work-tree=.", "update-index", "-z")
    rows = _given((f"{entry.mode} {entry.blob} {entry.stage}\t{entry.path}" for entry in entries), "\0")
    _run(target, *in_target, "--index-info", given=rows)
    plain = [entry for entry in entries if entry.stage == "0" and entry.mode != _SUBMODULE]
    skipped = [
        entry.path
        for entry in plain
        if entry.skipped or not (_composed(entry.path) in sent.paths or _travels(top, sent, entry))
    ]
    filtered = _filtered(top, (entry.path for entry in plain))
    assumed = [entry.path for entry in plain if entry.assumed or entry.path in filtered - {*changed}]
    for option, paths in (("--skip-worktree", skipped), ("--assume-unchanged", assumed)):
        if paths:
            _run(target, *in_target, option, "--stdin", given=_given(paths, "\0"))
    if skipped:  # else git refuses to make commits
        with (target / "config").open("a") as file:
            file.write(f'[remote "{_NOT_SENT}"]\n\tpromisor = true\n')


def _filtered(top: Path, paths: Iterable[str]) -> set[str]:
    """Return the paths whose contents git passes through a program, such as that of LFS, which a job lacks."""
    words = _names(_run(top, "check-attr", "-z", "--stdin", "filter", given=_given(paths, "\0")))
    return {
        path
        for path, value in zip(words[::3], words[2::3], strict=False)
        if value not in ("unspecified", "unset")
    }


def _found(target: Path, notes: tuple[str, ...]) -> Repository:
    files, folders = [], []
    for folder, names, found in os.walk(target):
        where = os.path.relpath(folder, target).replace(os.sep, "/")
        prefix = "" if where == "." else f"{where}/"
        files += [prefix + name for name in found]
        if not names and not found:
            folders.append(where)
    return Repository(tuple(sorted(files)), tuple(sorted(folders)), notes)
